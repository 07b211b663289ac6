// The chart of quality, measured and stored in the manifests, against latency: steps times the server's measured time per step.

import { $, duration, element, options, short, svg } from "./dom.js";
import { metric, named, reading } from "./metrics.js";
import { estimate, ours, variant } from "./models.js";

const SOLVERS = { ddim: "teacher, DDIM", dpmpp: "teacher, DPM-Solver++", ddpm: "teacher, DDPM" };
const BETTER = { higher: " · ↑ better", lower: " · ↓ better" };
const figure = $("chart"), select = $("metric");

/**
 * Return every measured plan: {series, label, id, steps, seconds, images, metrics}. Students with another name, such as
 * guided ones, are another series.
 */
function points() {
  return ours().flatMap((model) => Object.entries(model.quality).flatMap(([plan, { images, metrics }]) => {
    const [sampler, steps] = [plan.split("-")[0], Number(plan.split("-")[1])];
    const seconds = estimate({ ...model, steps });
    if (seconds === undefined) return [];
    const id = steps === model.steps ? model.id : variant(model, sampler, steps);
    const name = short(model.id).replace(/-?\d+/, "");
    const of = model.kind === "student" ? { series: "student", label: name === "student" ? "students" : name }
      : { series: sampler, label: SOLVERS[sampler] ?? sampler };
    return [{ ...of, id, steps, seconds, images, metrics }];
  }));
}

/** Return teachers without a measured value, with their seconds: the other models are measured against them. */
const references = (measured) => ours()
  .filter((model) => model.kind === "teacher" && !measured.some(({ id }) => id === model.id))
  .map((model) => ({ model, seconds: estimate(model) })).filter(({ seconds }) => seconds !== undefined);

const nice = (range, count) => {
  const rough = range / count, power = 10 ** Math.floor(Math.log10(rough));
  return [1, 2, 5, 10].map((m) => m * power).find((step) => step >= rough);
};

function mark({ series, label }, x, y, r) {
  if (series === "student" && label !== "students") return svg("circle", { cx: x, cy: y, r, class: "hollow" });
  if (series === "student") return svg("circle", { cx: x, cy: y, r });
  if (series === "ddim") return svg("rect", { x: x - r, y: y - r, width: 2 * r, height: 2 * r });
  return svg("path", { d: `M${x} ${y - 1.3 * r}L${x + 1.3 * r} ${y + r}H${x - 1.3 * r}Z` });
}

/** Return round values along a linear axis. */
function steps({ low, high }) {
  const step = nice(high - low, 5), digits = Math.max(0, -Math.floor(Math.log10(step))), values = [];
  for (let value = Math.ceil(low / step) * step; value <= high + step / 1e6; value += step) values.push(value.toFixed(digits));
  return values;
}

/** Return 1, 2 and 5 times every power of ten along a logarithmic axis; low and high are logarithms. */
function decades({ low, high }) {
  const values = [];
  for (let power = Math.floor(low); power <= high; power += 1) {
    values.push(...[1, 2, 5].filter((m) => low <= power + Math.log10(m) && power + Math.log10(m) <= high)
      .map((m) => Number((m * 10 ** power).toPrecision(1))));
  }
  return values;
}

function axes(plot, rem, about) {
  const { left, right, top, bottom, x, y, fastest, slowest } = plot, parts = [];
  for (const value of plot.decades ? decades(plot) : steps(plot)) {
    parts.push(svg("line", { x1: left, x2: right, y1: y(value), y2: y(value), class: "grid" }),
      svg("text", { x: left - rem * 0.5, y: y(value), class: "tick y" }, `${value}`));
  }
  for (let power = Math.ceil(Math.log10(fastest)); 10 ** power <= slowest; power += 1) {
    const at = x(10 ** power);
    parts.push(svg("line", { x1: at, x2: at, y1: top, y2: bottom, class: "grid" }),
      svg("text", { x: at, y: bottom + rem * 1.2, class: "tick x" }, duration(10 ** power).replace(/\.0+(?= )/, "")));
  }
  parts.push(svg("text", { x: (left + right) / 2, y: bottom + rem * 2.5, class: "axis" }, "time for one image, logarithmic"),
    svg("text", { x: 0, y: rem * 0.8, class: "axis start" },
      about.title + (BETTER[about.better] ?? "") + (plot.decades ? " · logarithmic" : "")));
  return parts;
}

/**
 * Write each [x, y, text] at the nearest free place around its point, clear of marks and other texts. Leave it out if there
 * is none.
 */
function labels(wanted, marks, { left, right, top, bottom }, rem) {
  const taken = marks.map(([x, y]) => ({ x, y, w: 0.8 * rem, h: 0.8 * rem })); // centres and sizes of marks and texts
  return wanted.flatMap(([x, y, text]) => {
    const [w, h] = [(0.5 * `${text}`.length + 0.1) * rem, 1.05 * rem];
    const round = [1, 1.4, 1.8, 2.3].flatMap((far) => [[0, -1], [0, 1], [1, 0], [-1, 0], [1, -1], [-1, -1], [1, 1], [-1, 1]]
      .map(([across, down]) => ({ x: x + across * far * (w / 2 + 0.5 * rem), y: y + down * far * rem, w, h })));
    const free = round.find((at) => at.x - w / 2 > left && at.x + w / 2 < right && at.y - h / 2 > top && at.y + h / 2 < bottom
      && taken.every((other) => Math.abs(other.x - at.x) >= (other.w + w) / 2 || Math.abs(other.y - at.y) >= (other.h + h) / 2));
    if (!free) return [];
    taken.push(free);
    return [svg("text", { x: free.x, y: free.y + 0.28 * rem, class: "steps" }, text)];
  });
}

function series(line, plot, rem) {
  const group = svg("g", { class: `series ${line[0].series}` });
  const at = line.map((point) => [plot.x(point.seconds), plot.y(point.value)]);
  group.append(svg("path", { class: "line", d: `M${at.map((place) => place.join(" ")).join("L")}` }));
  line.forEach((point, place) => {
    const [x, y] = at[place], spot = mark(point, x, y, 0.3 * rem);
    const error = { x1: x, x2: x, y1: plot.y(point.low), y2: plot.y(point.high), class: "error" };
    if (point.low !== undefined) group.append(svg("line", error));
    spot.append(svg("title", {}, `${short(point.id)}: ${point.text}, ${duration(point.seconds)}`));
    group.append(spot);
  });
  return group;
}

function key(name, drawn, label) {
  return element("li", { className: `series ${name}` }, svg("svg", { viewBox: "0 0 16 16", "aria-hidden": "true" }, drawn), label);
}

/** Return the points that have this metric, with its value, its interval, and both as text. */
function measure(about) {
  const digits = (number) => Number(number.toPrecision(4)).toString();
  return points().filter((point) => point.metrics[about.name] !== undefined).map((point) => {
    const { value, low, high } = reading(about, point.metrics, point.images);
    const text = digits(value) + (low === undefined ? "" : ` (${digits(low)} – ${digits(high)})`);
    return { ...point, value, low, high, text };
  });
}

/** Compute the layout: margins, and the scales x(seconds) and y(value). */
function layout(measured, teachers, about, width, rem) {
  const height = Math.max(17 * rem, Math.min(0.55 * width, 27 * rem));
  const values = measured.flatMap(({ value, low = value, high = value }) => [low, high]);
  const seconds = [...measured, ...teachers].map((point) => point.seconds);
  const ends = [Math.min(...values), Math.max(...values)];
  const logarithmic = about.better === "lower" && ends[0] > 0 && ends[1] > 6 * ends[0];
  const scale = logarithmic ? Math.log10 : (value) => value;
  const [least, most] = ends.map(scale), spread = most - least || 1;
  const plot = {
    width, height,
    left: 3.2 * rem, right: width - 0.5 * rem, top: 2.2 * rem, bottom: height - 3 * rem,
    decades: logarithmic, low: least - 0.06 * spread, high: most + 0.08 * spread,
    fastest: Math.min(...seconds) / 1.4, slowest: Math.max(...seconds) * 1.4,
  };
  plot.x = (s) => plot.left + ((plot.right - plot.left) * Math.log(s / plot.fastest)) / Math.log(plot.slowest / plot.fastest);
  plot.y = (v) => plot.bottom - ((plot.bottom - plot.top) * (scale(v) - plot.low)) / (plot.high - plot.low);
  return plot;
}

function draw() {
  const rem = parseFloat(getComputedStyle(document.documentElement).fontSize), width = figure.clientWidth;
  const about = metric(select.value, ours()[0]?.ranking), measured = measure(about), teachers = references(measured);
  if (measured.length === 0 || width === 0) return;
  const plot = layout(measured, teachers, about, width, rem);
  const drawing = svg("svg", { viewBox: `0 0 ${width} ${plot.height}`, role: "img", "aria-labelledby": "chart-heading chart-about" });
  drawing.append(...axes(plot, rem, about));
  const legend = [];
  for (const label of ["students", ...new Set(measured.map((point) => point.label).filter((name) => name !== "students"))]) {
    const line = measured.filter((point) => point.label === label).sort((a, b) => a.steps - b.steps);
    if (line.length === 0) continue;
    drawing.append(series(line, plot, rem));
    legend.push(key(line[0].series, mark(line[0], 8, 8, 5), label));
  }
  for (const { model, seconds: at } of teachers) {
    const line = { y1: plot.top, y2: plot.bottom, x1: plot.x(at), x2: plot.x(at), class: "reference" };
    drawing.append(svg("line", line, svg("title", {}, `${short(model.id)}: ${duration(at)}`)));
    legend.push(key("ddim", svg("line", { x1: 8, x2: 8, y1: 0, y2: 16, class: "reference" }), `${short(model.id)}, ${model.steps} steps`));
  }
  const place = (point) => [plot.x(point.seconds), plot.y(point.value), point.steps];
  drawing.append(...labels(measured.filter((point) => point.series === "student").map(place), measured.map(place), plot, rem));
  figure.replaceChildren(drawing);
  $("legend").replaceChildren(...legend);
  explain(measured, about);
  tabulate(measured, about);
}

function explain(measured, about) {
  const intervals = measured.some((point) => point.low !== undefined) ? " Bars are 95 % intervals." : "";
  const counts = [...new Set(measured.map((point) => point.images))].sort((a, b) => a - b).join(" or ");
  const better = about.better ? `${about.better[0].toUpperCase()}${about.better.slice(1)} is better. ` : "";
  $("chart-about").textContent =
    `${better}${about.about ?? ""} Measured when the models were made, on ${counts} images each.${intervals}`;
}

function tabulate(measured, about) {
  const rows = measured.sort((a, b) => a.seconds - b.seconds).map((point) => element("tr", {},
    element("th", { scope: "row", textContent: short(point.id) }),
    ...[point.steps, duration(point.seconds), point.text, point.images].map((text) => element("td", { textContent: text }))));
  $("chart-table").replaceChildren(
    element("thead", {}, element("tr", {}, ...["Model", "Steps", "One image", about.title, "Images measured"]
      .map((text) => element("th", { scope: "col", textContent: text })))),
    element("tbody", {}, ...rows));
}

/** Draw the chart of the chosen family; before its models are loaded there is nothing to draw. */
export function show() {
  const found = points(), ranking = ours().find((model) => model.ranking)?.ranking;
  const names = named(found.map((point) => point.metrics));
  const usual = ["kid", "psnr_db", ranking?.metric].find((name) => names.includes(name));
  options(select, names.map((name) => [name, metric(name, ranking).title]), select.value || usual);
  $("chart-empty").hidden = found.length > 0;
  $("chart-full").hidden = found.length === 0;
  draw();
}

select.addEventListener("change", draw);
let before;
new ResizeObserver(([entry]) => {
  if (entry.contentRect.width !== before) draw();
  before = entry.contentRect.width;
}).observe(figure);
