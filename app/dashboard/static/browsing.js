/* Improves the forms of these pages; each of them works without it.

   <form data-once>            can be sent once: its buttons rest until the answer comes, and its .working part shows.
   <input type="file" data-max-bytes="…">  what is too large is said before it is sent.
   <input type="checkbox" data-all="row">  ticks every checkbox of that name in its form; [data-ticked] says how many. */
(() => {
  "use strict";

  function rest(form, resting) {
    for (const button of form.querySelectorAll("button")) button.disabled = resting;
    form.classList.toggle("htmx-request", resting);
  }

  function count(form) {
    const boxes = [...form.querySelectorAll('input[type="checkbox"][name]')];
    const ticked = boxes.filter((box) => box.checked).length;
    const all = form.querySelector("[data-all]");
    if (all) {
      all.checked = ticked > 0 && ticked === boxes.length;
      all.indeterminate = ticked > 0 && ticked < boxes.length;
    }
    const said = form.querySelector("[data-ticked]");
    if (said) said.textContent = `${ticked} ticked`;
  }

  function prepare(root) {
    for (const all of root.querySelectorAll("[data-all]")) {
      all.hidden = false;
      count(all.form);
    }
  }

  function megabytes(bytes) {
    return `${(bytes / 1e6).toLocaleString("en", { maximumFractionDigits: 1 })} MB`;
  }

  document.addEventListener("submit", (event) => {
    const form = event.target;
    if (!form.matches("[data-once]") || event.defaultPrevented) return;
    // After the browser has taken the values: a button that rests already would not be sent.
    setTimeout(() => rest(form, true));
  });
  // Back from another page: the form may be sent again.
  addEventListener("pageshow", () => document.querySelectorAll("form[data-once]").forEach((form) => rest(form, false)));

  document.addEventListener("change", (event) => {
    const field = event.target;
    if (field.matches("[data-all]")) {
      for (const box of field.form.querySelectorAll(`input[name="${field.dataset.all}"]`)) box.checked = field.checked;
    }
    if (field.matches('input[type="checkbox"]') && field.form?.querySelector("[data-all]")) count(field.form);
    if (field.matches("[data-max-bytes]")) {
      const most = Number(field.dataset.maxBytes);
      const size = field.files[0]?.size ?? 0;
      field.setCustomValidity(size > most ? `This file has ${megabytes(size)}; at most ${megabytes(most)} can be sent.` : "");
      field.reportValidity();
    }
  });

  prepare(document);
  document.addEventListener("htmx:after:swap", () => prepare(document));
})();
