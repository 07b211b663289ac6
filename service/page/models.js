// The models to choose from: those of one family, and training-free solvers of its teacher with fewer steps.

import { $, element, options, say, short } from "./dom.js";

const SOLVERS = { ddim: "DDIM", dpmpp: "DPM-Solver++", ddpm: "DDPM" };
const OFFERED = ["ddim", "dpmpp"], OFFERED_STEPS = 16;

let listed = []; // models of GET /v1/models
const added = new Set(); // ids of variants that the user added
const lacking = new Map(); // status element of a section -> {count, message} that it shows for lack of models
const chosen = new Map(); // model id -> true or false as the user set it; absent: the default

const teachers = () => listed.filter((model) => model.family === $("family").value && model.kind === "teacher");

export const variant = (teacher, sampler, steps) => `${teacher.id}@${sampler}-${String(steps).padStart(3, "0")}`;

const samplers = (teacher) => teacher.variants.map((pattern) => pattern.match(/@(\w+)-NNN$/)?.[1]).filter(Boolean);

function solver(teacher, id) {
  return { ...teacher, id, kind: "solver", steps: Number(id.split("-").pop()), default: false };
}

/** Return models and solvers of the family, fewest steps first. */
export function offers() {
  const ours = listed.filter((model) => model.family === $("family").value);
  const solvers = teachers().flatMap((teacher) => {
    const usual = samplers(teacher).filter((name) => OFFERED.includes(name) && teacher.steps > OFFERED_STEPS)
      .map((name) => variant(teacher, name, OFFERED_STEPS));
    const asked = [...added].filter((id) => id.startsWith(`${teacher.id}@`));
    return [...new Set([...usual, ...asked])].map((id) => solver(teacher, id));
  });
  return [...ours, ...solvers].sort((a, b) => a.steps - b.steps || a.id.localeCompare(b.id));
}

export const usable = () => offers().filter((model) => model.status !== "failed");
const picked = () => usable().filter((model) => $("models").querySelector(`[value="${model.id}"]`)?.checked);
export const ours = () => listed.filter((model) => model.family === $("family").value);

/**
 * Return the chosen models if there are at least `count`. Otherwise show `message` in `status` until there are enough, and
 * return undefined.
 */
export function atLeast(count, status, message) {
  const models = picked();
  if (models.length >= count) return models;
  say(status, message, "bad");
  lacking.set(status, { count, message });
  return undefined;
}

function enough() {
  for (const [status, { count, message }] of lacking) {
    if (picked().length < count && status.textContent === message) continue;
    if (status.textContent === message) say(status, "");
    lacking.delete(status);
  }
}

/** Return the seconds that n images take on an idle server; undefined before the server has measured the model. */
export function estimate(model, n = 1) {
  const measured = Object.entries(model.ms_per_step).map(([batch, ms]) => [Number(batch), ms]).sort((a, b) => a[0] - b[0]);
  if (measured.length === 0) return undefined;
  const [batch, ms] = measured.findLast(([size]) => size <= n) ?? measured[0];
  return (model.steps * ms * Math.max(1, n / batch)) / 1000; // fewer images are padded to the smallest batch
}

// Preselect the teacher, its solvers, and the students nearest to four and to sixteen steps.
function preferred(model, students) {
  if (model.kind !== "student") return true;
  const near = (steps) => students.toSorted((a, b) => Math.abs(a.steps - steps) - Math.abs(b.steps - steps))[0];
  return model === near(4) || model === near(16);
}

function choice(model, students) {
  const failed = model.status === "failed";
  const box = element("input", { type: "checkbox", name: "model", value: model.id, disabled: failed });
  box.checked = !failed && (chosen.get(model.id) ?? preferred(model, students));
  box.addEventListener("change", () => chosen.set(model.id, box.checked));
  const note = { failed: "failed to load", loading: "loading…" }[model.status] ?? `${model.steps} steps`;
  return element("label", { className: `choice ${model.kind}`, title: model.id },
    box, element("span", { textContent: short(model.id) }), element("small", { textContent: note }));
}

/** Draw the choices. Call this after every change of the list or the family. */
export function show(models = listed) {
  listed = models.filter((model) => model.kind === "teacher" || model.kind === "student");
  const families = [...new Set(listed.map((model) => model.family))];
  const usual = listed.find((model) => model.default)?.family ?? families[0];
  options($("family"), families.map((name) => [name, name]), $("family").value || usual);
  $("family-field").hidden = families.length < 2;

  const offered = offers(), students = usable().filter((model) => model.kind === "student");
  $("models").replaceChildren(element("legend", { textContent: "Models" }), ...offered.map((model) => choice(model, students)));
  $("failures").replaceChildren(...offered.filter((model) => model.status === "failed" && model.kind !== "solver")
    .map((model) => element("li", {}, element("strong", { textContent: short(model.id) }), ` failed to load: ${model.reason}`)));

  const classes = (offered[0]?.classes ?? []).map((name) => [name, name]);
  for (const [id, none] of [["class", "the seed chooses"], ["gallery-class", "all of them"]]) {
    options($(id), [["", none], ...classes]);
    $(`${id}-field`).hidden = classes.length === 0;
  }

  const [teacher] = teachers();
  $("solver").hidden = !teacher || samplers(teacher).length === 0;
  if (teacher) {
    options($("sampler"), samplers(teacher).map((name) => [name, SOLVERS[name] ?? name]));
    $("solver-steps").max = teacher.steps;
  }
}

$("family").addEventListener("change", () => show());
for (const event of ["change", "models"]) document.addEventListener(event, enough);
$("solver-add").addEventListener("click", () => {
  const steps = $("solver-steps"), [teacher] = teachers();
  if (!steps.reportValidity()) return;
  const id = variant(teacher, $("sampler").value, Number(steps.value));
  added.add(id);
  chosen.set(id, true);
  show();
  $("models").querySelector(`[value="${id}"]`).focus();
  document.dispatchEvent(new Event("models"));
});
