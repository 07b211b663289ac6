// The race: all chosen models denoise the same noise at once. Each card shows the clean image that its model predicts on the
// way, and at the end its difference from the reference.

import { difference, pixels, psnr } from "./agreement.js";
import { Disconnected, aborted, patiently, stream } from "./api.js";
import { suspect } from "./connection.js";
import { $, breakable, duration, element, picture, say, short, ticking, times } from "./dom.js";
import { atLeast, estimate } from "./models.js";
import { task } from "./task.js";

const PARTIALS = 3;
const status = $("race-status");

const noise = (seed, index) => `seed ${seed}${index ? `, index ${index}` : ""}`;

class Card {
  constructor(model) {
    this.model = model;
    this.picture = element("div", { className: "picture", textContent: "in line" });
    this.film = element("div", { className: "film" });
    this.looks = Math.min(PARTIALS, model.steps - 1) + 1;
    this.film.append(...Array.from({ length: this.looks }, () => element("span")));
    this.progress = element("progress", { ariaLabel: `Steps of ${short(model.id)}`, title: "estimated between predictions" });
    this.time = element("span", { className: "time" });
    this.note = element("span", { className: "note", textContent: `${model.steps} steps` });
    this.apart = element("span", { className: "apart" });
    const caption = element("figcaption", {}, element("strong", { title: model.id }, ...breakable(model.id)),
      element("span", { className: "facts" }, this.note, this.time), this.apart);
    this.node = element("figure", { className: `card ${model.kind}` }, this.picture, this.progress, this.film, caption);
  }

  state(name, text = "") {
    this.node.dataset.state = name;
    if (text) this.picture.replaceChildren(element("span", { textContent: text }));
  }

  begin() {
    const { steps } = this.model;
    this.state("busy", steps === 1 ? "One step" : `First prediction near step ${Math.round(steps / this.looks)} of ${steps}`);
    this.known = { look: 0, share: 0, at: 0 };
    this.pace = estimate(this.model); // seconds for all steps; corrected with every prediction
    if (this.pace) this.progress.value = 0;
    this.stop = ticking((seconds) => this.tick(seconds));
  }

  /** Move the progress bar by the estimated pace, but not past the next prediction before it has arrived. */
  tick(seconds) {
    const { look, share, at } = this.known;
    this.seconds = seconds;
    this.time.textContent = duration(seconds);
    if (this.pace) this.progress.value = Math.min(share + (seconds - at) / this.pace, (look + 1) / this.looks);
  }

  /** Set the progress bar to the step of a prediction that has arrived. */
  advance({ step, steps, partial_image_index: index }) {
    const share = step / steps;
    this.known = { look: index + 1, share, at: this.seconds ?? 0 };
    if (this.seconds) this.pace = this.seconds / share;
    this.progress.value = share;
    this.note.textContent = `step ${step} of ${steps}`;
  }

  show(event, alt) {
    const place = event.partial_image_index ?? this.film.children.length - 1;
    this.picture.replaceChildren(picture(event, event.output_format, alt));
    this.film.children[place].replaceChildren(picture(event, event.output_format, ""));
  }

  end() {
    this.stop?.();
  }

  /** Show the PSNR and the difference to the reference's image. */
  compare(ours, reference, name) {
    this.apart.replaceChildren(`PSNR ${psnr(ours, reference).toFixed(1)} dB to `, ...breakable(name));
    const canvas = difference(ours, reference);
    canvas.role = "img";
    canvas.ariaLabel = `difference between ${short(this.model.id)} and ${name}`;
    this.picture.append(canvas);
  }
}

async function run(card, body, signal, admitted) {
  const { model } = card;
  for await (const event of stream("v1/images/generations", { ...body, model: model.id, partial_images: PARTIALS }, signal)) {
    if (event.type === "admitted") {
      card.begin();
      admitted();
    } else if (event.type.endsWith(".partial_image")) {
      card.show(event, `${short(model.id)} after ${event.step} of ${event.steps} steps`);
      card.advance(event);
    } else {
      card.end();
      card.show(event, `${event.class_name ?? "image"} by ${short(model.id)}, ${noise(event.seed, event.index)}`);
      card.note.textContent = `${event.steps} steps`;
      card.time.textContent = duration(event.timing.total_s);
      card.state("done");
      return event.timing.total_s;
    }
  }
  throw new Disconnected();
}

async function finish(card, body, signal, admitted) {
  const wait = (seconds) => {
    admitted(); // it is not admitted yet, but the other models need not wait for it
    card.state("wait", `Busy. Next try in ${seconds} s.`);
    if (status.dataset.waiting !== "yes") say(status, "The server is busy. This page tries again by itself.", "wait");
    status.dataset.waiting = "yes";
  };
  try {
    return { card, seconds: await patiently(() => run(card, body, signal, admitted), wait, signal) };
  } catch (error) {
    if (aborted(error)) card.state("bad", "Stopped");
    else card.state("bad", error instanceof Disconnected ? "Lost the server" : error.message);
    suspect(error);
    return { card, error };
  } finally {
    card.end();
    admitted();
  }
}

/** Compare every finished card with the teacher's, or without a teacher with the one of the most steps. */
async function compare(cards) {
  const finished = cards.filter((card) => card.node.dataset.state === "done");
  const reference = finished.find((card) => card.model.kind === "teacher") ?? finished.at(-1);
  const others = finished.filter((card) => card !== reference);
  if (others.length === 0) return;
  const theirs = await pixels(reference.picture.firstChild);
  for (const card of others) card.compare(await pixels(card.picture.firstChild), theirs, short(reference.model.id));
  reference.apart.textContent = "the reference";
  $("differences-field").hidden = false;
}

function summary(results, which) {
  const done = results.filter((result) => result.seconds !== undefined);
  const [first, last] = [done[0], done.at(-1)];
  if (done.length < 2) return `One image of ${which}.`;
  const gained = times(last.seconds / first.seconds);
  return `Same noise, ${which}. ${short(first.card.model.id)} took ${duration(first.seconds)}, `
    + `${short(last.card.model.id)} ${duration(last.seconds)}: ${gained} as long, all of them running at once.`;
}

task($("form"), status, async (signal) => {
  const models = atLeast(1, status, "Choose at least one model.");
  if (!models) return;
  delete status.dataset.waiting;
  $("differences-field").hidden = true;
  $("differences").checked = false;
  const seed = Number($("seed").value), index = Number($("index").value), which = noise(seed, index);
  const body = { prompt: $("class").value, seed, first_index: index };
  const cards = models.map((model) => new Card(model));
  $("race").replaceChildren(...cards.map((card) => card.node));
  say(status, `${models.length === 1 ? "One model denoises" : `${models.length} models denoise`} ${which}…`);
  // Send the requests one after another, fewest steps first: a teacher's queued work can be enough for the server to refuse
  // the rest.
  const finishing = [];
  for (const card of cards) await new Promise((admitted) => finishing.push(finish(card, body, signal, admitted)));
  const results = await Promise.all(finishing);
  signal.throwIfAborted();
  await compare(cards);
  const failed = results.find((result) => result.error);
  if (failed) say(status, failed.error.message, "bad");
  else say(status, summary(results.sort((a, b) => a.seconds - b.seconds), which));
});

$("dice").addEventListener("click", () => {
  $("seed").value = crypto.getRandomValues(new Uint32Array(1))[0];
  $("index").value = 0;
  $("form").requestSubmit();
});
