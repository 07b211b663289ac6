// Measured quality, from the manifests, against latency: steps times the milliseconds of a step that the server measured.

import { $, duration, element, options, svg } from "./dom.js";
import { ours, variant } from "./models.js";

const METRICS = {
  psnr_db: ["PSNR against the teacher, dB", "higher"],
  psnr_p10_db: ["PSNR of the worst tenth, dB", "higher"],
  ssim: ["SSIM against the teacher", "higher"],
  rmse: ["RMSE against the teacher, of 255", "lower"],
  class_agreement: ["Images that a classifier recognises", "higher"],
  kid: ["KID", "lower"],
  fid: ["FID", "lower"],
};
const SERIES = [["student", "students"], ["ddim", "teacher, DDIM"], ["dpmpp", "teacher, DPM-Solver++"], ["ddpm", "teacher, DDPM"]];
const figure = $("chart");

/** Every measured plan: {series, id, steps, seconds, metrics}. */
function points() {
  return ours().flatMap((model) => Object.entries(model.quality).flatMap(([plan, quality]) => {
    const [sampler, steps] = [plan.split("-")[0], Number(plan.split("-")[1])];
    const ms = model.ms_per_step[1];
    if (!ms) return [];
    const own = steps === model.steps;
    const series = model.kind === "student" ? "student" : sampler;
    const id = own ? model.id : variant(model, sampler, steps);
    return [{ series, id, steps, seconds: (steps * ms) / 1000, metrics: quality.metrics }];
  }));
}

const nice = (range, count) => {
  const rough = range / count, power = 10 ** Math.floor(Math.log10(rough));
  return [1, 2, 5, 10].map((m) => m * power).find((step) => step >= rough);
};

function mark(series, x, y, r) {
  if (series === "student") return svg("circle", { cx: x, cy: y, r });
  if (series === "ddim") return svg("rect", { x: x - r, y: y - r, width: 2 * r, height: 2 * r });
  return svg("path", { d: `M${x} ${y - 1.3 * r}L${x + 1.3 * r} ${y + r}H${x - 1.3 * r}Z` });
}

function axes(plot, rem) {
  const { left, right, top, bottom, x, y, low, high, fastest, slowest } = plot, parts = [];
  const step = nice(high - low, 5), digits = Math.max(0, -Math.floor(Math.log10(step)));
  for (let value = Math.ceil(low / step) * step; value <= high + step / 1e6; value += step) {
    parts.push(svg("line", { x1: left, x2: right, y1: y(value), y2: y(value), class: "grid" }),
      svg("text", { x: left - rem * 0.5, y: y(value), class: "tick y" }, value.toFixed(digits)));
  }
  for (let power = Math.ceil(Math.log10(fastest)); 10 ** power <= slowest; power += 1) {
    const at = x(10 ** power);
    parts.push(svg("line", { x1: at, x2: at, y1: top, y2: bottom, class: "grid" }),
      svg("text", { x: at, y: bottom + rem * 1.2, class: "tick x" }, duration(10 ** power).replace(/\.0+(?= )/, "")));
  }
  parts.push(svg("text", { x: (left + right) / 2, y: bottom + rem * 2.5, class: "axis" }, "seconds for one image, logarithmic"));
  return parts;
}

function draw() {
  const metric = $("metric").value, rem = parseFloat(getComputedStyle(document.documentElement).fontSize);
  const measured = points().filter((point) => point.metrics[metric] !== undefined);
  const width = figure.clientWidth, height = Math.max(16 * rem, Math.min(0.55 * width, 26 * rem));
  if (measured.length === 0 || width === 0) return;
  const values = measured.map((point) => point.metrics[metric]), seconds = measured.map((point) => point.seconds);
  const spread = Math.max(...values) - Math.min(...values) || 1;
  const plot = {
    left: 3.2 * rem, right: width - 1.5 * rem, top: 0.8 * rem, bottom: height - 3 * rem,
    low: Math.min(...values) - 0.06 * spread, high: Math.max(...values) + 0.08 * spread,
    fastest: Math.min(...seconds) / 1.4, slowest: Math.max(...seconds) * 1.4,
  };
  plot.x = (s) => plot.left + ((plot.right - plot.left) * Math.log(s / plot.fastest)) / Math.log(plot.slowest / plot.fastest);
  plot.y = (v) => plot.bottom - ((plot.bottom - plot.top) * (v - plot.low)) / (plot.high - plot.low);

  const drawing = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-labelledby": "chart-heading chart-note" });
  drawing.append(...axes(plot, rem));
  const legend = [];
  for (const [series, name] of SERIES) {
    const line = measured.filter((point) => point.series === series).sort((a, b) => a.steps - b.steps);
    if (line.length === 0) continue;
    const places = line.map((point) => [plot.x(point.seconds), plot.y(point.metrics[metric])]);
    const group = svg("g", { class: `series ${series}` }, svg("path", { class: "line", d: `M${places.map((at) => at.join(" ")).join("L")}` }));
    line.forEach((point, place) => {
      const [x, y] = places[place], spot = mark(series, x, y, 0.3 * rem);
      spot.append(svg("title", {}, `${point.id}: ${point.metrics[metric]}, ${duration(point.seconds)}`));
      group.append(spot);
      if (series === "student") group.append(svg("text", { x, y: y - 0.75 * rem, class: "steps" }, point.steps));
    });
    drawing.append(group);
    const key = svg("svg", { viewBox: "0 0 16 16", "aria-hidden": "true" }, mark(series, 8, 8, 5));
    legend.push(element("li", { className: `series ${series}` }, key, name));
  }
  figure.replaceChildren(drawing);
  $("legend").replaceChildren(...legend);
  tabulate(measured, metric);
}

function tabulate(measured, metric) {
  const rows = measured.sort((a, b) => a.seconds - b.seconds).map((point) => element("tr", {},
    element("th", { scope: "row", textContent: point.id }),
    ...[point.steps, duration(point.seconds), point.metrics[metric]].map((text) => element("td", { textContent: text }))));
  $("chart-table").replaceChildren(
    element("thead", {}, element("tr", {}, ...["Model", "Steps", "One image", METRICS[metric]?.[0] ?? metric]
      .map((text) => element("th", { scope: "col", textContent: text })))),
    element("tbody", {}, ...rows));
}

/** Draw what the present family has; before models are loaded there is nothing to draw. */
export function show() {
  const found = points(), named = [...new Set(found.flatMap((point) => Object.keys(point.metrics)))];
  const ranking = ours().find((model) => model.ranking)?.ranking;
  const better = (name) => METRICS[name]?.[1] ?? (name === ranking?.metric ? ranking.better : undefined);
  const text = (name) => `${METRICS[name]?.[0] ?? name}${better(name) ? ` (${better(name)} is better)` : ""}`;
  const kept = $("metric").value || (named.includes("psnr_db") ? "psnr_db" : ranking?.metric);
  options($("metric"), named.map((name) => [name, text(name)]), kept);
  $("chart-empty").hidden = found.length > 0;
  $("chart-full").hidden = found.length === 0;
  draw();
}

$("metric").addEventListener("change", draw);
let before;
new ResizeObserver(([entry]) => {
  if (entry.contentRect.width !== before) draw();
  before = entry.contentRect.width;
}).observe(figure);
