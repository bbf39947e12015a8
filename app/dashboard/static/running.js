/* <button data-copy="#id" hidden>: copies what the field holds. Shown only where scripts run. */
(() => {
  "use strict";
  document.querySelectorAll("[data-copy]").forEach((button) => {
    button.hidden = false;
    button.addEventListener("click", async () => {
      const field = document.querySelector(button.dataset.copy);
      field.select();
      try {
        await navigator.clipboard.writeText(field.value);
        button.textContent = "Copied";
      } catch {
        button.textContent = "Press Ctrl+C";  // no clipboard outside https and localhost: it is selected
      }
    });
  });
})();
