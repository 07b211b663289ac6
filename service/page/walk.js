// The walk between two seeds by two models, one strip above the other.

import { patiently, post } from "./api.js";
import { $, duration, element, options, picture, say, short, ticking } from "./dom.js";
import { estimate, usable } from "./models.js";
import { task } from "./task.js";

const status = $("walk-status"), selects = [$("walk-first"), $("walk-second")];

const chosen = () => selects.map((select) => usable().find((model) => model.id === select.value)).filter(Boolean);

function promise() {
  const frames = Number($("frames").value), seconds = chosen().map((model) => estimate(model, frames));
  if (seconds.length === 0 || seconds.includes(undefined)) return;
  say(status, `About ${duration(seconds.reduce((a, b) => a + b))} on a quiet server.`);
}

/** Fill the two lists of models; select a teacher and the default student at first. */
export function offer() {
  const models = usable(), named = models.map((model) => [model.id, `${short(model.id)} (${model.steps} steps)`]);
  const students = models.filter((model) => model.kind === "student");
  const teacher = models.find((model) => model.kind === "teacher");
  const student = students.find((model) => model.default) ?? students[0];
  options(selects[0], named, selects[0].value || teacher?.id);
  options(selects[1], named, selects[1].value || student?.id);
  if ($("strips").querySelector(".empty")) promise();
}

function strip(model, frames) {
  const cells = Array.from({ length: frames }, () => element("span", { className: "picture" }));
  const time = element("span", { className: "note", textContent: `${model.steps} steps` });
  const row = element("div", { className: "frames" }, ...cells);
  row.style.setProperty("--frames", frames);
  return { model, cells, time, node: element("figure", { className: `strip ${model.kind}` },
    element("figcaption", {}, element("strong", { textContent: short(model.id) }), time), row) };
}

async function fill(one, body, signal) {
  const state = (name) => { one.node.dataset.state = name; };
  const wait = (left) => {
    state("wait");
    one.time.textContent = `busy; next try in ${left} s`;
  };
  const attempt = async () => {
    state("busy");
    const stop = ticking((seconds) => { one.time.textContent = `${one.model.steps} steps, ${duration(seconds)}`; });
    try {
      return await post("v1/images/interpolations", { ...body, model: one.model.id }, signal);
    } finally {
      stop();
    }
  };
  try {
    const answer = await patiently(attempt, wait, signal);
    answer.data.forEach((image, place) => one.cells[place].replaceChildren(picture(image, answer.output_format,
      `${short(one.model.id)}, ${Math.round(100 * (image.fraction ?? 0))} % of the way to seed ${body.seeds[1]}`)));
    const recalled = answer.data.every((image) => image.cached);
    one.time.textContent = `${answer.steps} steps, ${recalled ? "recalled from the cache" : duration(answer.timing.total_s)}`;
    state("done");
  } catch (error) {
    state("bad");
    throw error;
  }
}

for (const control of [...selects, $("frames")]) control.addEventListener("change", promise);

task($("walk-form"), status, async (signal) => {
  const frames = Number($("frames").value), seeds = [Number($("seed-a").value), Number($("seed-b").value)];
  const strips = [...new Set(chosen())].map((model) => strip(model, frames));
  $("strips").replaceChildren(...strips.map((one) => one.node));
  promise();
  const body = { prompt: $("class").value, seeds, frames };
  const ends = await Promise.allSettled(strips.map((one) => fill(one, body, signal)));
  const failed = ends.find((end) => end.status === "rejected");
  if (failed) throw failed.reason;
  say(status, `From seed ${seeds[0]} to seed ${seeds[1]}: both models walk through the same noises.`);
});
