/* Follows a job while it goes on, by its stream of events (/v1/jobs/{id}/events), and shows it in place.

   <section id="build">
     <div data-live-job="job_…" data-live-after="17" data-live-refresh="#build">
       <progress max="100" value="40"></progress>
       <span data-live="state" role="status">running</span> <span data-live="phase">gradients</span>
       <span data-live="count">40 of 100 rows</span> <span data-live="eta">about 2 min left</span>
     </div>
     <ol data-live="log">…</ol>
   </section>

   Every part is optional, and may lie anywhere inside the element named by data-live-refresh; the server fills them in
   first, so that a page without scripts shows how things stand. templates/running/_live.html is this block for a
   JobView (app/dashboard/running/views.py): {% include "running/_live.html" %} with `job` set.
   data-live-after    events up to this number are on the page already; the log gets later ones.
   data-live-refresh  what to take anew from the page's own address when the job has ended; left out, the page is loaded
                      again. Charts and htmx in it work on.
   Browsers open six connections to a server: at most three jobs of a page are followed at once. */
(() => {
  "use strict";
  const MOST = 3;
  const followed = new Map();

  function left(seconds) {
    if (seconds === null || seconds === undefined) return "";
    if (seconds < 1) return "nearly done";
    if (seconds < 60) return `about ${Math.round(seconds)} s left`;
    const minutes = Math.round(seconds / 60);
    return minutes < 60 ? `about ${minutes} min left` : `about ${Math.floor(minutes / 60)} h ${minutes % 60} min left`;
  }

  function put(place, name, text) {
    place.querySelectorAll(`[data-live="${name}"]`).forEach((element) => {
      if (element.textContent !== text) element.textContent = text;
    });
  }

  function progressed(place, now) {
    const bar = place.querySelector("progress");
    if (bar && now.total > 0) {
      bar.max = now.total;
      bar.value = now.done;
    }
    put(place, "phase", now.phase);
    put(place, "count", now.total > 0 ? `${now.done.toLocaleString("en")} of ${now.total.toLocaleString("en")} ${now.unit}` : "");
    put(place, "eta", left(now.eta_s));
  }

  function logged(place, text) {
    place.querySelectorAll('[data-live="log"]').forEach((list) => {
      const line = document.createElement("li");
      line.textContent = text;
      list.append(line);
    });
  }

  async function refresh(selector) {
    if (!selector) return location.reload();
    const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").querySelector(selector);
    const old = document.querySelector(selector);
    if (!fresh || !old) return location.reload();
    old.replaceWith(fresh);
    if (window.htmx) htmx.process(fresh);
    followNew();
  }

  function follow(element) {
    const { liveJob, liveAfter, liveRefresh } = element.dataset;
    const place = (liveRefresh && element.closest(liveRefresh)) || element;
    const source = new EventSource(`/v1/jobs/${encodeURIComponent(liveJob)}/events`);
    followed.set(element, source);
    const stop = () => {
      source.close();
      followed.delete(element);
    };
    const on = (kind, act) => source.addEventListener(kind, (event) => {
      if (!element.isConnected) return stop();
      act(JSON.parse(event.data), Number(event.lastEventId) > Number(liveAfter ?? 0));
    });
    on("progress", (now, isNew) => isNew && progressed(place, now));
    on("message", (said, isNew) => isNew && logged(place, said.text));
    on("state", (now, isNew) => isNew && put(place, "state", now.state));
    on("end", (now, isNew) => {
      // A job that was taken up again has ended before: only a new end counts.
      if (!isNew) return;
      stop();
      refresh(liveRefresh).catch(() => put(place, "state", `${now.state}: load the page again`));
    });
  }

  function followNew() {
    for (const [element, source] of followed) {
      if (element.isConnected) continue;
      source.close();
      followed.delete(element);
    }
    for (const element of document.querySelectorAll("[data-live-job]")) {
      if (followed.size < MOST && !followed.has(element)) follow(element);
    }
  }

  followNew();
  document.addEventListener("htmx:after:process", followNew);
  addEventListener("pagehide", () => followed.forEach((source) => source.close()));
})();
