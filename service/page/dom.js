// Helpers that build elements and format numbers.

export const $ = (id) => document.getElementById(id);

export function element(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

export function svg(tag, attributes = {}, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

/** Return the part of a model id after its family. */
export const short = (id) => id.slice(id.indexOf("/") + 1);

/** Return the same as nodes between which a line may break, after the @. */
export const breakable = (id) => short(id).split(/(?<=@)/).flatMap((part, place) => (place ? [element("wbr"), part] : [part]));

export function duration(seconds) {
  if (seconds < 0.01) return `${(seconds * 1000).toFixed(1)} ms`;
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 100) return `${seconds.toPrecision(3)} s`;
  return seconds < 300 ? `${Math.round(seconds)} s` : `${Math.round(seconds / 60)} min`;
}

export const times = (ratio) => `${ratio < 10 ? ratio.toFixed(2) : ratio.toPrecision(3)}×`;

/** Call tell(seconds) ten times a second. Return a function that stops it. */
export function ticking(tell) {
  const began = performance.now();
  const timer = setInterval(() => tell((performance.now() - began) / 1000), 100);
  return () => clearInterval(timer);
}

/** Make an <img> from an image of an answer or event. */
export function picture(image, format, alt) {
  return element("img", { src: `data:image/${format};base64,${image.b64_json}`, alt, title: alt });
}

/** Show a message below a section's form; screen readers read it too. kind: "", "bad" or "wait". */
export function say(place, text, kind = "") {
  if (place.textContent !== text) place.textContent = text;
  place.className = `status ${kind}`;
}

export function options(select, values, kept = select.value) {
  select.replaceChildren(...values.map(([value, text]) => element("option", { value, textContent: text })));
  if (values.some(([value]) => value === kept)) select.value = kept;
}
