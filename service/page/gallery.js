// The gallery: many samples of one model. Each shows a prediction half-way, then the finished image.

import { patiently, stream } from "./api.js";
import { $, duration, element, options, picture, say, short } from "./dom.js";
import { usable } from "./models.js";
import { task } from "./task.js";

const RATE = new Intl.NumberFormat("en", { maximumSignificantDigits: 2 });
const status = $("gallery-status");

export function offer() {
  const models = usable(), usual = models.find((model) => model.default) ?? models[0];
  options($("gallery-model"), models.map((model) => [model.id, `${short(model.id)} (${model.steps} steps)`]),
    $("gallery-model").value || usual?.id);
}

/** Make a sample a button that has all chosen models denoise its noise. */
function sample(event, prompt) {
  const image = picture(event, event.output_format, `${event.class_name ?? "image"}, seed ${event.seed}, index ${event.index}`);
  const button = element("button", { type: "button", title: "Denoise this one side by side" }, image);
  image.title = "";
  button.addEventListener("click", () => {
    const start = $("form").querySelector("[type=submit]");
    [$("class").value, $("seed").value, $("index").value] = [prompt, event.seed, event.index];
    start.focus({ preventScroll: true });
    $("race-heading").scrollIntoView();
    start.click();
  });
  return button;
}

task($("gallery-form"), status, async (signal) => {
  const model = $("gallery-model").value, n = Number($("gallery-n").value), seed = Number($("seed").value);
  const cells = Array.from({ length: n }, () => element("li", { className: "picture" }));
  $("gallery").replaceChildren(...cells);
  $("gallery").dataset.state = "busy";
  const body = { model, n, seed, prompt: $("gallery-class").value, partial_images: 1 };
  say(status, `${short(model)} makes ${n} images…`);
  let slowest = 0;
  try {
    await patiently(async () => {
      for await (const event of stream("v1/images/generations", body, signal)) {
        if (event.type === "admitted") continue;
        cells[event.image_index].replaceChildren(sample(event, body.prompt));
        slowest = Math.max(slowest, event.timing?.total_s ?? 0);
      }
    }, (left) => say(status, `The server is busy; next try in ${left} s.`, "wait"), signal);
  } finally {
    delete $("gallery").dataset.state;
    for (const cell of cells) if (!cell.firstChild) cell.remove();
  }
  say(status, `${n} images of ${short(model)} in ${duration(slowest)}: ${RATE.format(n / slowest)} a second. Seed ${seed}. `
    + "Choose one to see every model denoise it.");
});
