// Measures latency by POST /v1/comparisons: every model once a round, in random order, after a warm-up.

import { patiently, stream } from "./api.js";
import { $, breakable, duration, element, say, short, times } from "./dom.js";
import { atLeast, estimate } from "./models.js";
import { task } from "./task.js";

const LEVEL = 0.95;
const status = $("latency-status"), progress = $("latency-progress");
let shown = [];

const sorted = (values) => values.toSorted((a, b) => a - b);

function median(values) {
  const ordered = sorted(values), middle = ordered.length >> 1;
  return ordered.length % 2 ? ordered[middle] : (ordered[middle - 1] + ordered[middle]) / 2;
}

/** Return the narrowest pair of order statistics that contains the median with 95 %, for any distribution; needs 6 values. */
export function medianInterval(values) {
  const n = values.length, ordered = sorted(values);
  let rank = 0, term = 0.5 ** n, below = term; // P(Binomial(n, 1/2) <= rank)
  while (1 - 2 * below >= LEVEL) {
    rank += 1;
    term *= (n - rank + 1) / rank;
    below += term;
  }
  return rank === 0 ? undefined : [ordered[rank - 1], ordered[n - rank]];
}

function draw() {
  const log = $("latency-log").checked;
  const all = shown.flatMap(({ seconds }) => seconds);
  const longest = Math.max(...all), floor = log ? 10 ** Math.floor(Math.log10(Math.min(...all))) : 0;
  const share = (s) => 100 * (log ? Math.log(s / floor) / Math.log(longest / floor) : s / longest);
  $("bars").replaceChildren(...shown.map(({ model, seconds }) => {
    const track = element("span", { className: "track", ariaHidden: "true" });
    const row = element("li", { className: model.kind }, element("span", { className: "name" }, ...breakable(model.id)), track);
    if (seconds.length === 0) {
      row.append(element("span", { className: "value", textContent: "–" }));
      return row;
    }
    const middle = median(seconds), interval = medianInterval(seconds);
    const bar = element("span", { className: "bar" });
    bar.style.inlineSize = `${share(middle)}%`;
    track.append(bar);
    if (interval) {
      const whisker = element("span", { className: "whisker" });
      whisker.style.insetInlineStart = `${share(interval[0])}%`;
      whisker.style.inlineSize = `${share(interval[1]) - share(interval[0])}%`;
      track.append(whisker);
    }
    row.append(element("span", { className: "value", textContent: duration(middle) }));
    return row;
  }));
}

/** Format a speed-up with its interval; too few rounds have none. */
const speed = ({ value, low, high }) =>
  (low == null || low === high ? times(value) : `${times(value)} (${times(low)} – ${times(high)})`);

function table(answer) {
  const heads = ["Model", "Steps", "Median", "95 % interval", "95th percentile", "Queued", "Faster than the reference", "PSNR", "SSIM"];
  const rows = answer.results.map((result) => {
    const interval = medianInterval(result.samples.map((sample) => sample.total_s)), faster = result.speed_up;
    const cells = [
      result.steps,
      duration(result.total_s.median),
      interval ? `${duration(interval[0])} – ${duration(interval[1])}` : "too few rounds",
      duration(result.total_s.p95),
      duration(result.queue_s.median),
      faster ? speed(faster) : "reference",
      result.agreement ? `${result.agreement.psnr_db.toFixed(1)} dB` : "",
      result.agreement ? result.agreement.ssim.toFixed(3) : "",
    ];
    return element("tr", {}, element("th", { scope: "row", textContent: short(result.model) }),
      ...cells.map((text) => element("td", { textContent: text })));
  });
  $("table").replaceChildren(
    element("thead", {}, element("tr", {}, ...heads.map((text) => element("th", { scope: "col", textContent: text })))),
    element("tbody", {}, ...rows));
  $("table-note").textContent = `${answer.rounds} rounds of one image, seed ${answer.seed}, beside whatever else the server did. `
    + `${short(answer.reference)} is the reference, for speed and for the agreement of the images. ${answer.note ?? ""}`;
  $("table-region").hidden = false;
}

function announce(models, rounds) {
  const seconds = models.reduce((sum, model) => sum + (estimate(model) ?? NaN), 0) * (rounds + 1);
  const about = Number.isNaN(seconds) ? "" : `, about ${duration(Math.max(1, seconds))} on a quiet server`;
  say(status, `${rounds} rounds of ${models.length} models${about}.`);
}

$("latency-log").addEventListener("change", () => shown.length && draw());

task($("latency-form"), status, async (signal) => {
  const models = atLeast(2, status, "Choose at least two models above."), rounds = Number($("rounds").value);
  if (!models) return;
  const body = { models: models.map((model) => model.id), prompt: $("class").value, seed: Number($("seed").value), repeats: rounds };
  shown = models.map((model) => ({ model, seconds: [] }));
  $("latency-empty").hidden = true;
  $("table-region").hidden = true;
  $("table-note").textContent = "";
  $("bars").replaceChildren();
  progress.hidden = false;
  progress.removeAttribute("value");
  try {
    await patiently(async () => {
      for await (const event of stream("v1/comparisons", body, signal)) {
        if (event.type === "admitted") announce(models, rounds);
        if (event.total) progress.value = event.done / event.total;
        if (event.type === "comparison.measured") {
          shown.find(({ model }) => model.id === event.model).seconds.push(event.timing.total_s);
          draw();
        }
        if (event.type === "comparison.completed") {
          table(event);
          say(status, `Measured ${event.rounds} rounds. Bars are medians, whiskers their 95 % intervals.`);
        }
      }
    }, (left) => say(status, `The server is busy; next try in ${left} s.`, "wait"), signal);
  } finally {
    progress.hidden = true;
    $("latency-empty").hidden = shown.some(({ seconds }) => seconds.length > 0);
  }
});
