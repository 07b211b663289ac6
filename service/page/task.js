// The form of every section: one run at a time, a button that stops it, and errors as a sentence.

import { aborted } from "./api.js";
import { suspect } from "./connection.js";
import { say } from "./dom.js";

/** On submit call work(signal), which reports in `status`. A new run or the form's stop button aborts the old one. */
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
      mine.abort(); // ends requests that are still under way
      if (current === mine) {
        if (document.activeElement === stop) start.focus();
        stop.hidden = true;
        status.closest("section").removeAttribute("aria-busy");
      }
    }
  });
}
