// The page: loads the list of models, shows the state of the server, and starts the sections, each a separate module.

import { get } from "./api.js";
import * as chart from "./chart.js";
import { watch } from "./connection.js";
import { $, say } from "./dom.js";
import * as gallery from "./gallery.js";
import "./latency.js";
import * as models from "./models.js";
import "./race.js";
import * as walk from "./walk.js";

const SIGNS = { ready: "Connected", unready: "Not ready", lost: "Disconnected" };
const LOST = "The server does not answer. This page keeps asking, and goes on when it is back.";
const AGAIN_MS = 1000;

let met = false; // true once the server has been ready

function refresh() {
  chart.show();
  gallery.offer();
  walk.offer();
}

function enable(on) {
  for (const button of document.querySelectorAll("[type=submit], #dice")) button.disabled = !on;
}

async function changed(state, message) {
  const sign = $("server"), banner = $("banner");
  sign.textContent = SIGNS[state];
  sign.dataset.state = banner.dataset.state = state;
  banner.hidden = state === "ready";
  banner.textContent = state === "lost" ? LOST : message;
  if (state !== "ready") enable(false);
  if (state === "lost") return met || say($("race-status"), "Waiting for the server…", "wait");
  try {
    models.show((await get("v1/models")).data); // also while models are loading: the list says which
  } catch (error) {
    say($("race-status"), error.message, "bad");
    return setTimeout(() => sign.dataset.state === state && changed(state, message), AGAIN_MS);
  }
  refresh();
  if (state === "unready" && !met) say($("race-status"), "Generate as soon as the server is ready.", "wait");
  if (state !== "ready" || sign.dataset.state !== "ready") return undefined;
  if (models.usable().length === 0) return say($("race-status"), "No model of this server can be used.", "bad");
  enable(true);
  say($("race-status"), met ? "The server is back." : "Choose models, a class and a seed, then generate.");
  met = true;
  return undefined;
}

$("family").addEventListener("change", refresh);
document.addEventListener("models", refresh);
watch(changed);
