// /docs: shows openapi.json as a page. It handles only the parts of OpenAPI that this server uses, and loads nothing from
// another host.

import { element } from "./dom.js";

const spec = await (await fetch("openapi.json")).json();
const resolve = (schema) => (schema?.$ref ? spec.components.schemas[schema.$ref.split("/").pop()] : schema);
const base = new URL(".", location.href).href.replace(/\/$/, "");
document.getElementById("base").textContent = `${base}/v1`;

function typeOf(schema) {
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
  if (schema.anyOf) return schema.anyOf.map(typeOf).join(" | ");
  if (schema.type === "array") return `list of ${typeOf(schema.items)}`;
  return schema.const !== undefined ? JSON.stringify(schema.const) : schema.type ?? "any";
}

function limits(schema) {
  const bounds = schema.anyOf?.find((part) => part.type !== "null") ?? schema;
  const said = [schema.description];
  if (bounds.minimum !== undefined) said.push(`at least ${bounds.minimum}`);
  if (bounds.maximum !== undefined) said.push(`at most ${bounds.maximum}`);
  if (schema.default !== undefined && schema.default !== null) said.push(`default ${JSON.stringify(schema.default)}`);
  return said.filter(Boolean).join("; ");
}

function table(title, schema) {
  const rows = Object.entries(schema.properties ?? {}).map(([name, field]) => element("tr", {},
    element("td", {}, element("code", { textContent: name })),
    element("td", { textContent: typeOf(field) }),
    element("td", { textContent: limits(field) })));
  if (rows.length === 0) return "";
  return element("table", {}, element("caption", { textContent: title }), element("tbody", {}, ...rows));
}

function answers(schema) {
  if (!schema) return [];
  const items = Object.values(schema.properties ?? {}).map((field) => field.items ?? field).filter((field) => field.$ref);
  return [table("Answer", schema), ...items.map((field) => table(typeOf(field), resolve(field)))];
}

// Split text into paragraphs at blank lines, and turn backticks into <code>.
function paragraphs(text) {
  return text.split(/\n\s*\n/).map((paragraph) => element("p", {}, ...paragraph.split("`").map((piece, place) =>
    place % 2 ? element("code", { textContent: piece }) : piece)));
}

for (const [path, methods] of Object.entries(spec.paths)) {
  for (const [method, operation] of Object.entries(methods)) {
    const body = resolve(operation.requestBody?.content["application/json"].schema);
    const answer = resolve(operation.responses["200"]?.content?.["application/json"]?.schema);
    document.getElementById("operations").append(element("section", { className: "operation" },
      element("h2", {}, element("code", { textContent: `${method.toUpperCase()} ${path}` })),
      ...paragraphs(operation.description ?? operation.summary),
      ...(body ? [table("Body", body)] : []),
      ...answers(answer)));
  }
}
