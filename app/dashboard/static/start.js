/* <script src="start.js" defer data-scripts="address address">: loads the page's scripts, in this order, once the page
   was painted. Nothing on it waits for them: until then its links and forms do what they do without scripts.
   <html data-ready> once they have run. */
(() => {
  "use strict";
  const addresses = document.currentScript.dataset.scripts.split(" ");

  function load() {
    const scripts = addresses.map((src) => Object.assign(document.createElement("script"), { src, async: false }));
    // One turn later: htmx looks at the page in a turn of its own.
    scripts.at(-1).addEventListener("load", () => setTimeout(() => { document.documentElement.dataset.ready = ""; }));
    document.head.append(...scripts);
  }

  function painted(then) {
    const told = new PerformanceObserver(() => { told.disconnect(); then(); });
    told.observe({ type: "paint", buffered: true });
  }

  // A tab in the background is not painted.
  const waits = !document.hidden && PerformanceObserver.supportedEntryTypes.includes("paint");
  if (waits) painted(load);
  else load();
})();
