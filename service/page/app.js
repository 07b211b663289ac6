// The page: choose models, a class and a seed; every model starts from the same noise. Requests go one after another,
// fewest steps first, so that each latency is the model's own.

const $ = (id) => document.getElementById(id);
const form = $("form"), family = $("family"), choices = $("models"), classes = $("class"), seed = $("seed");
const results = $("results"), submit = $("generate");
let models = [];
let run = new AbortController();

function say(text, bad = false) {
  $("status").textContent = text;
  $("status").classList.toggle("bad", bad);
}

function element(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

class ApiError extends Error {
  constructor(message, retryAfter) {
    super(message);
    this.retryAfter = retryAfter;
  }
}

async function api(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The server does not answer; is it still running?");
  }
  const body = await response.json().catch(() => null);
  if (response.ok) return body;
  const message = body?.error?.message ?? `The server answered ${response.status}.`;
  throw new ApiError(message, response.status === 429 ? Number(response.headers.get("retry-after")) : undefined);
}

// A teacher is also shown with two training-free solvers at 16 steps, what one would use without distillation.
function offers(ofFamily) {
  const listed = models.filter((model) => model.family === ofFamily);
  const solvers = listed
    .filter((model) => model.kind === "teacher" && model.steps > 16)
    .flatMap((model) => model.variants.filter((pattern) => /@(ddim|dpmpp)-/.test(pattern))
      .map((pattern) => ({ ...model, id: pattern.replace("NNN", "016"), steps: 16, default: false, solver: true })));
  return [...listed, ...solvers].sort((a, b) => a.steps - b.steps || a.id.localeCompare(b.id));
}

function choice(model) {
  const failed = model.status === "failed";
  const box = element("input", { type: "checkbox", name: "model", value: model.id, disabled: failed });
  box.checked = !failed && !model.solver && (model.kind === "student" || model.steps <= 256);
  const label = element("label", { className: "choice", title: failed ? model.reason : model.id },
    box, model.id.split("/")[1], element("small", { textContent: failed ? "failed to load" : `${model.steps} steps` }));
  return label;
}

function showFamily() {
  const offered = offers(family.value);
  choices.replaceChildren(element("legend", { textContent: "Models" }), ...offered.map(choice));
  const usable = [...choices.querySelectorAll("input:enabled")];
  if (usable.length && !usable.some((box) => box.checked)) usable[0].checked = true;
  const names = offered[0]?.classes ?? [];
  $("class-field").hidden = names.length === 0;
  classes.replaceChildren(...names.map((name) => element("option", { value: name, textContent: name })));
}

function card(model) {
  const picture = element("div", { className: "picture", textContent: "waiting" });
  const facts = element("span", { textContent: `${model.steps} steps` });
  results.append(element("figure", {}, picture, element("figcaption", {},
    element("strong", { textContent: model.id.split("/")[1] }), facts)));
  return { picture, facts };
}

async function paint(model, { picture, facts }, signal) {
  picture.textContent = "";
  picture.classList.add("busy");
  try {
    const body = { model: model.id, prompt: classes.value, seed: Number(seed.value) };
    const answer = await api("v1/images/generations", {
      method: "POST", signal, body: JSON.stringify(body),
      headers: { "content-type": "application/json", "cache-control": "no-cache" }, // what is timed is computed
    });
    const image = answer.data[0], ms = answer.timing.total_s * 1000;
    picture.replaceChildren(element("img", {
      src: `data:image/${answer.output_format};base64,${image.b64_json}`,
      alt: `${image.class_name ?? "Image"} by ${answer.model}, seed ${image.seed}`,
    }));
    facts.textContent = `${answer.steps} steps · ${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms`;
  } catch (error) {
    if (error.name === "AbortError") throw error;
    picture.classList.add("bad");
    picture.textContent = error.retryAfter ? `Busy; try again in ${error.retryAfter} s.` : error.message;
    throw error;
  } finally {
    picture.classList.remove("busy");
  }
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  run.abort();
  run = new AbortController();
  const { signal } = run;
  const wanted = new Set(new FormData(form).getAll("model"));
  const chosen = offers(family.value).filter((model) => wanted.has(model.id));
  if (chosen.length === 0) return say("Choose at least one model.", true);
  results.replaceChildren();
  const cards = chosen.map(card);
  let failure;
  for (const [place, model] of chosen.entries()) {
    say(`Generating ${place + 1} of ${chosen.length}: ${model.id}…`);
    try {
      await paint(model, cards[place], signal);
    } catch (error) {
      if (error.name === "AbortError") return undefined;
      failure = error;
    }
  }
  if (!failure) return say(`Seed ${seed.value}: every model started from the same noise.`);
  return say(failure.retryAfter ? `The server is busy; try again in ${failure.retryAfter} s.` : failure.message, true);
});

$("dice").addEventListener("click", () => {
  seed.value = crypto.getRandomValues(new Uint32Array(1))[0];
  form.requestSubmit();
});
family.addEventListener("change", showFamily);

try {
  models = (await api("v1/models")).data.filter((model) => model.kind !== "experiment");
  const families = [...new Set(models.map((model) => model.family))];
  family.replaceChildren(...families.map((name) => element("option", { value: name, textContent: name })));
  family.value = models.find((model) => model.default)?.family ?? families[0];
  $("family-field").hidden = families.length < 2;
  showFamily();
  submit.disabled = false;
  say("Choose models, a class and a seed, then generate.");
} catch (error) {
  say(error.message, true);
}
