/* An answer: resting on a token of the output lights the rows it is explained by and dims the others; resting on a row
   lights the tokens it explains. By mouse and by keyboard (arrows move among tokens); a press holds it, Escape lets go.
   Where data-copy is, copies. */
(() => {
  "use strict";
  const SHADES = 8;
  const NOTABLE = 0.25; // of the largest part that any row has of this token: less does not explain it
  let held = null;

  const answer = () => document.querySelector("article.answered");
  const tokens = () => [...(answer()?.querySelectorAll(".token") ?? [])];
  const rows = () => [...(answer()?.querySelectorAll(".hit[data-parts]") ?? [])];
  const parts = (row) => row.dataset.parts.split(" ").map(Number);
  const say = (text) => { const lit = document.getElementById("lit"); if (lit && lit.textContent !== text) lit.textContent = text; };
  const percent = (value) => `${Math.round(100 * value)} %`;

  const shadeOf = (element) => [...element.classList].find((name) => /^(pro|con)-\d$/.test(name)) ?? "";

  function paint(token, shade) {
    token.dataset.own ??= shadeOf(token); // as the page came
    const now = shadeOf(token);
    if (now) token.classList.remove(now);
    if (shade) token.classList.add(shade);
  }

  function shade(value, most) {
    const heat = most ? Math.round((SHADES * Math.abs(value)) / most) : 0;
    return heat && `${value < 0 ? "con" : "pro"}-${heat}`;
  }

  /* The colours as the page came: what the tokens carry of all rows. */
  function restore() {
    for (const token of tokens()) {
      if (token.dataset.own !== undefined) paint(token, token.dataset.own);
      token.classList.remove("chosen");
    }
    for (const row of rows()) {
      row.classList.remove("dim", "chosen");
      row.querySelector(".part")?.remove();
    }
    say("");
  }

  function showToken(token) {
    restore();
    const number = Number(token.dataset.token);
    const found = rows().map((row) => ({ row, part: parts(row)[number] }));
    const most = Math.max(0, ...found.map(({ part }) => Math.abs(part)));
    token.classList.add("chosen");
    for (const { row, part } of found) {
      if (!most || Math.abs(part) < NOTABLE * most) row.classList.add("dim");
      const note = document.createElement("small");
      note.className = "part";
      note.textContent = `this token ${part < 0 ? "−" : "+"}${Math.abs(part).toPrecision(3)}`;
      row.querySelector(".score").append(note);
    }
    const lit = found.filter(({ row }) => !row.classList.contains("dim")).sort((a, b) => Math.abs(b.part) - Math.abs(a.part));
    const named = lit.slice(0, 3).map(({ row }) => row.dataset.id).join(", ");
    say(`${token.getAttribute("aria-label")} of the scores. ${lit.length} of ${found.length} rows explain it${named ? `: ${named}` : ""}.`);
  }

  function showRow(row) {
    restore();
    const own = parts(row);
    const most = Math.max(0, ...own.map(Math.abs));
    row.classList.add("chosen");
    for (const token of tokens()) paint(token, shade(own[Number(token.dataset.token)], most));
    say(`${row.dataset.id}: through ${row.dataset.words}.`);
  }

  function show(element) {
    if (element.matches(".token")) showToken(element);
    else showRow(element);
  }

  function pressed(element, state) {
    (element.matches(".token") ? element : element.querySelector(".light"))?.setAttribute("aria-pressed", String(state));
  }

  function hold(element) {
    const same = held === element;
    release();
    if (same) return;
    held = element;
    pressed(element, true);
    show(element);
  }

  function release() {
    if (held) pressed(held, false);
    held = null;
    restore();
  }

  /* What the pointer, or the focus, is on: a token, or a row. */
  const at = (target) => (target instanceof Element ? target.closest(".answered .token, .answered .hit[data-parts]") : null);

  function visit(event) {
    const element = at(event.target);
    if (element && !held) show(element);
  }

  function leave(event) {
    if (!held && at(event.target) && at(event.relatedTarget) !== at(event.target)) restore();
  }

  function walk(token, step) {
    const all = tokens();
    const next = all[Math.min(Math.max(all.indexOf(token) + step, 0), all.length - 1)];
    for (const other of all) other.tabIndex = other === next ? 0 : -1;
    next.focus();
  }

  function key(event) {
    if (event.key === "Escape") return letGo(), offer([]), release();
    const token = event.target instanceof Element ? event.target.closest(".answered .token") : null;
    const steps = { ArrowRight: 1, ArrowLeft: -1, Home: -Infinity, End: Infinity };
    if (!token) return;
    if (event.key in steps && event.shiftKey) extend(token, steps[event.key]);
    else if (event.key in steps) letGo(), walk(token, steps[event.key]);
    else if (event.key === "Enter" || event.key === " ") hold(token);
    else return;
    event.preventDefault();
  }

  /* Tokens that are selected, with the mouse or with Shift and the arrows, can be asked about alone. */
  function offer(chosen) {
    const form = document.getElementById("only");
    if (!form) return;
    form.hidden = chosen.length === 0;
    if (form.hidden) return;
    form.elements.span_start.value = chosen[0].dataset.from;
    form.elements.span_end.value = chosen.at(-1).dataset.to;
    form.querySelector("button").textContent = `Explain only “${chosen.map((token) => token.textContent).join("").trim()}”`;
  }

  const spelled = () => [...(answer()?.querySelectorAll(".tokens [data-from]") ?? [])];

  function selected() {
    const selection = document.getSelection();
    if (selection.isCollapsed || !answer()?.querySelector(".tokens")?.contains(selection.anchorNode)) return;
    offer(spelled().filter((token) => selection.containsNode(token, true)));
  }

  let anchor = null;
  function letGo() {
    anchor = null;
    for (const token of tokens()) token.classList.remove("taken");
  }

  function extend(token, step) {
    anchor ??= token;
    walk(token, step);
    const all = spelled();
    const ends = [all.indexOf(anchor), all.indexOf(document.activeElement)];
    if (ends.includes(-1)) return;
    const chosen = all.slice(Math.min(...ends), Math.max(...ends) + 1);
    for (const other of all) other.classList.toggle("taken", chosen.includes(other));
    offer(chosen);
  }

  /* A row named in both columns of a comparison. */
  function join(event) {
    const row = event.target instanceof Element ? event.target.closest(".compared [data-mark]") : null;
    for (const other of document.querySelectorAll(".compared [data-mark]")) {
      other.classList.toggle("chosen", row !== null && other.dataset.mark === row.dataset.mark);
    }
  }

  async function copy(button) {
    const from = button.dataset.copy;
    const told = document.getElementById("copied");
    try {
      const text = from.startsWith("#") ? document.querySelector(from).textContent : await fetched(from);
      await navigator.clipboard.writeText(text);
      told.textContent = `${button.textContent.replace("Copy ", "")} copied.`;
    } catch (error) {
      told.textContent = `It could not be copied (${error.message}): select the text, or save the file.`;
    }
  }

  async function fetched(address) {
    const answer = await fetch(address);
    if (!answer.ok) throw new Error(`the server answered ${answer.status}`);
    return answer.text();
  }

  function click(event) {
    const button = event.target instanceof Element ? event.target.closest("[data-copy]") : null;
    if (button) return void copy(button);
    const token = event.target instanceof Element ? event.target.closest(".answered .token, .answered .light") : null;
    if (token) hold(token.matches(".token") ? token : token.closest(".hit"));
  }

  const reveal = () => document.querySelectorAll("[data-copy][hidden]").forEach((button) => { button.hidden = false; });

  document.addEventListener("mouseover", visit);
  document.addEventListener("mouseout", leave);
  document.addEventListener("focusin", visit);
  document.addEventListener("focusout", leave);
  document.addEventListener("mouseover", join);
  document.addEventListener("keydown", key);
  document.addEventListener("selectionchange", selected);
  document.addEventListener("click", click);
  /* On a phone the answer comes below the form: it is brought into view. */
  function bring() {
    const place = document.getElementById("answer");
    if (place?.firstElementChild && place.getBoundingClientRect().top > 0.7 * innerHeight) place.scrollIntoView();
  }

  document.addEventListener("htmx:after:swap", (event) => {
    held = anchor = null;
    reveal();
    if (!event.target.closest?.("#checks")) bring();  // there it is in view already
  });
  document.addEventListener("htmx:after:process", reveal);  // what a job's end has taken anew
  reveal();
})();
