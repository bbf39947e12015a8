/* <script src="start.js" data-scripts="address address">: loads the page's scripts, in this order, once the page
   was painted. Nothing waits for them: until then its links and forms do what they do without scripts.
   <html data-scripts> is "coming", then "here": what scripts will show in another way need not be shown in between. */
(() => {
  "use strict";
  const MOST_MS = 2000; // a tab in the background is not painted, and some browsers do not tell
  const root = document.documentElement;
  let addresses = document.currentScript.dataset.scripts.split(" ");

  function load() {
    const scripts = addresses.map((src) => Object.assign(document.createElement("script"), { src, async: false }));
    addresses = [];
    // One turn later: htmx looks at the page in a turn of its own. After a failure the page is as it is without them.
    const done = () => setTimeout(() => { root.dataset.scripts = "here"; });
    scripts.at(-1)?.addEventListener("load", done);
    scripts.at(-1)?.addEventListener("error", done);
    document.head.append(...scripts);
  }

  root.dataset.scripts = "coming";
  document.addEventListener("DOMContentLoaded", () => {
    new PerformanceObserver(load).observe({ type: "paint", buffered: true });
    setTimeout(load, MOST_MS);
  });
})();
