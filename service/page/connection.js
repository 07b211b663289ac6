// Watches the server: asks /readyz every five seconds, at once after a failure, and every second until it is ready again.

import { Disconnected, busy, get } from "./api.js";

const CALM_MS = 5000, ANXIOUS_MS = 1000, PATIENCE_MS = 30000;

let state = "unknown", said = "", timer, tell;

async function ask() {
  clearTimeout(timer);
  let found = "ready", message = "";
  if (state !== "ready" || !busy()) {
    try {
      await get("readyz", AbortSignal.timeout(PATIENCE_MS));
    } catch (error) {
      found = error instanceof Disconnected ? "lost" : "unready";
      message = error.message;
    }
  }
  clearTimeout(timer);
  timer = setTimeout(ask, found === "ready" ? CALM_MS : ANXIOUS_MS);
  if (found === state && message === said) return;
  [state, said] = [found, message];
  tell(state, message);
}

/** Call changed(state, message) after every change. States: ready, unready (starting or draining), lost. */
export function watch(changed) {
  tell = changed;
  document.addEventListener("visibilitychange", () => document.hidden || ask());
  return ask();
}

/** Ask for the server's state at once if this error suggests that it is lost or not ready. */
export function suspect(error) {
  if (error instanceof Disconnected || error.status === 503) ask();
}
