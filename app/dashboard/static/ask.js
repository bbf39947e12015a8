/* The form: words of the output that alone are asked about, and the methods an index can be asked by. Everything it does
   can be done without it: two fields hold the span, and the server refuses a method that an index does not serve. */
(() => {
  "use strict";
  const part = (name) => document.querySelector(`[data-span="${name}"]`);
  const field = (id) => document.getElementById(id);
  /* The server counts characters as Python does, a script in UTF-16: outside the basic plane one character is two. */
  const characters = (text) => [...text].length;
  const within = (text, start, end) => [...text].slice(start, end).join("");

  function selected() {
    const output = field("completion");
    if (!output || output.selectionStart === output.selectionEnd) return null;
    const { value, selectionStart, selectionEnd } = output;
    return { start: characters(value.slice(0, selectionStart)), end: characters(value.slice(0, selectionEnd)) };
  }

  function offer() {
    const button = part("take");
    if (!button) return;
    button.hidden = false;
    button.disabled = !selected();
  }

  function show() {
    const [start, end, shown] = [field("span_start"), field("span_end"), part("shown")];
    if (!start || !shown) return;
    shown.hidden = start.value === "" && end.value === "";
    if (shown.hidden) return shown.replaceChildren();
    const words = document.createElement("mark");
    words.textContent = within(field("completion").value, Number(start.value), Number(end.value)) || "nothing";
    const all = document.createElement("button");
    Object.assign(all, { type: "button", className: "quiet", textContent: "Explain all of it" });
    all.addEventListener("click", () => set("", ""));
    shown.replaceChildren("Asking about ", words, " alone. ", all);
  }

  function set(start, end) {
    field("span_start").value = start;
    field("span_end").value = end;
    show();
  }

  function take() {
    const chosen = selected();
    if (chosen) set(chosen.start, chosen.end);
  }

  /* Only the methods that the chosen index serves can be chosen. */
  function fit(select) {
    const index = field(select.dataset.methods)?.selectedOptions[0];
    const serves = (index?.dataset.serves ?? "").split(" ");
    for (const option of select.options) option.disabled = option.value !== "" && !serves.includes(option.value);
    if (select.selectedOptions[0]?.disabled) select.value = "";
  }

  const fitAll = () => document.querySelectorAll("select[data-methods]").forEach(fit);

  document.addEventListener("selectionchange", offer);
  document.addEventListener("select", offer);
  document.addEventListener("click", (event) => {
    if (event.target instanceof Element && event.target.closest('[data-span="take"]')) take();
  });
  document.addEventListener("input", (event) => {
    if (event.target.id === "completion") set("", ""); // the characters have moved
    if (event.target.id === "span_start" || event.target.id === "span_end") show();
  });
  document.addEventListener("change", fitAll);
  document.addEventListener("htmx:after:swap", () => { offer(); show(); });
  offer();
  show();
  fitAll();
})();
