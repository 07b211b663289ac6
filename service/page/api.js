// The HTTP API for this page: errors as sentences, server-sent events, and retries while the server is busy.

export class ApiError extends Error {
  constructor(message, status, retryAfter) {
    super(message);
    Object.assign(this, { status, retryAfter });
  }
}

/** The server does not answer, or its answer broke off. */
export class Disconnected extends ApiError {
  constructor() {
    super("The server does not answer.", 0);
  }
}

let working = 0;

/**
 * Return true while a POST is under way. Its failure shows a lost server sooner than /readyz would, and it may hold the last
 * free connection.
 */
export const busy = () => working > 0;

async function reached(promise) {
  try {
    return await promise;
  } catch (error) {
    throw error instanceof TypeError || error.name === "TimeoutError" ? new Disconnected() : error;
  }
}

async function answer(path, options) {
  const response = await reached(fetch(path, options));
  if (response.ok) return response;
  const body = await response.json().catch(() => null);
  const message = body?.error?.message ?? `The server answered ${response.status}.`;
  throw new ApiError(message, response.status, Number(response.headers.get("retry-after")) || undefined);
}

const posted = (body, signal) =>
  ({ method: "POST", signal, headers: { "content-type": "application/json" }, body: JSON.stringify(body) });

export const get = async (path, signal) => reached((await answer(path, { signal })).json());

export async function post(path, body, signal) {
  working += 1;
  try {
    return await reached((await answer(path, posted(body, signal))).json());
  } finally {
    working -= 1;
  }
}

/** Yield the events of a streamed answer. The first, {type: "admitted"}, is made here when the server accepts the request. */
export async function* stream(path, body, signal) {
  working += 1;
  try {
    const response = await answer(path, posted({ ...body, stream: true }, signal));
    yield { type: "admitted" };
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "", last = "";
    for (;;) {
      const { done, value } = await reached(reader.read());
      if (done) break;
      const parts = (text + value).split("\n\n");
      text = parts.pop();
      for (const part of parts) {
        const data = part.split("\n").filter((line) => line.startsWith("data:")).map((line) => line.slice(5)).join("\n");
        if (!data) continue; // a comment that keeps the connection open
        const event = JSON.parse(data);
        if (event.error) throw new ApiError(event.error.message, 500);
        last = event.type;
        yield event;
      }
    }
    if (!last.endsWith(".completed")) throw new Disconnected();
  } finally {
    working -= 1;
  }
}

function pause(ms, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, ms);
    signal.addEventListener("abort", () => (clearTimeout(timer), reject(signal.reason)), { once: true });
  });
}

/**
 * Call attempt() until the server is not busy (429). Between attempts wait as long as it says, calling waiting(seconds left)
 * every second.
 */
export async function patiently(attempt, waiting, signal) {
  for (;;) {
    try {
      return await attempt();
    } catch (error) {
      if (error.status !== 429) throw error;
      for (let left = error.retryAfter ?? 1; left > 0; left -= 1) {
        waiting(left);
        await pause(1000, signal);
      }
    }
  }
}

export const aborted = (error) => error.name === "AbortError";
