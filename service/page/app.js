// The page: the list of models, whether the server is there, and the sections, each a module of its own.

import { get } from "./api.js";
import * as chart from "./chart.js";
import { watch } from "./connection.js";
import { $, say } from "./dom.js";
import * as gallery from "./gallery.js";
import "./latency.js";
import * as models from "./models.js";
import "./race.js";
import * as walk from "./walk.js";

const STARTERS = "[type=submit], #dice";
const SIGNS = { ready: "Connected", unready: "Not ready", lost: "Disconnected" };

let met = false; // the server was ready once

function refresh() {
  chart.show();
  gallery.offer();
  walk.offer();
}

async function load() {
  const list = (await get("v1/models")).data;
  models.show(list);
  refresh();
  document.body.classList.remove("loading");
  const none = models.usable().length === 0;
  if (none) say($("race-status"), "No model of this server can be used.", "bad");
  for (const button of document.querySelectorAll(STARTERS)) button.disabled = none;
  return list;
}

async function changed(state, message) {
  $("server").textContent = SIGNS[state];
  $("server").dataset.state = state;
  $("banner").hidden = state === "ready";
  $("banner").dataset.state = state;
  for (const button of document.querySelectorAll(STARTERS)) button.disabled = state !== "ready";
  if (state === "lost") {
    $("banner").textContent = "The server does not answer. This page keeps asking, and goes on when it is back.";
    if (!met) say($("race-status"), "Waiting for the server…", "wait");
    return;
  }
  if (state === "unready") $("banner").textContent = message;
  try {
    await load(); // also while models are loading: it tells which
    if (state === "ready") {
      say($("race-status"), met ? "The server is back." : "Choose models, a class and a seed, then generate.");
      met = true;
    }
  } catch (error) {
    say($("race-status"), error.message, "bad");
  }
}

$("family").addEventListener("change", refresh);
document.addEventListener("models", refresh);
watch(changed);
