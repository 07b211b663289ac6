// What every section does with its form: one run at a time, a button to stop it, and its errors as a sentence.

import { aborted } from "./api.js";
import { suspect } from "./connection.js";
import { say } from "./dom.js";

/** On submit call work(signal), which says how it goes in `status`; a new run or the form's stop button ends the old one. */
export function task(form, status, work) {
  let current;
  const start = form.querySelector("[type=submit]"), stop = form.querySelector(".stop");
  stop.addEventListener("click", () => current.abort());
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    current?.abort();
    const mine = (current = new AbortController());
    stop.hidden = false;
    status.closest("section").setAttribute("aria-busy", "true");
    try {
      await work(mine.signal);
    } catch (error) {
      if (current === mine) say(status, aborted(error) ? "Stopped." : error.message, aborted(error) ? "" : "bad");
      suspect(error);
    } finally {
      mine.abort(); // whatever is left of it
      if (current === mine) {
        if (document.activeElement === stop) start.focus();
        stop.hidden = true;
        status.closest("section").removeAttribute("aria-busy");
      }
    }
  });
}
