// The server: requests with a key where one is needed, server-sent events, errors that say what to do.

const KEY = "pyllm.key"; // in sessionStorage: it ends with the tab

export class ServerError extends Error {
  /** `status`: of HTTP, 0 when there was no answer. */
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

export class Server {
  /** `askKey(wrong)`: asks the user for a key; "" or null when none is given. */
  constructor(askKey) {
    this._askKey = askKey;
    this._asking = null;
  }

  /** A response with a good status. `quiet`: does not ask for a key. ServerError; AbortError by `signal`. */
  async request(path, { body, signal, quiet = false } = {}) {
    for (;;) {
      const key = sessionStorage.getItem(KEY);
      const headers = key ? { authorization: `Bearer ${key}` } : {};
      if (body) headers["content-type"] = "application/json";
      let response;
      try {
        // Relative to the page: it may be served under a path by a proxy.
        response = await fetch(new URL(path, document.baseURI), {
          method: body ? "POST" : "GET",
          headers,
          body: body && JSON.stringify(body),
          signal,
          cache: "no-store",
          credentials: "same-origin",
        });
      } catch (error) {
        if (error.name === "AbortError") throw error;
        throw new ServerError("The server cannot be reached. Is it still running?", 0);
      }
      if (response.ok) return response;
      const failure = await failed(response);
      if (failure.status !== 401 || quiet) throw failure;
      if (key === sessionStorage.getItem(KEY) && !(await this._newKey(Boolean(key)))) throw failure;
    }
  }

  async json(path, options) {
    return (await this.request(path, options)).json();
  }

  /** One question for a key, however many requests wait for it. */
  async _newKey(wrong) {
    this._asking ??= this._askKey(wrong).finally(() => (this._asking = null));
    const key = (await this._asking)?.trim();
    if (key) sessionStorage.setItem(KEY, key);
    return key;
  }
}

async function failed(response) {
  let message = `The server answered with status ${response.status}.`;
  try {
    message = (await response.json()).error.message || message;
  } catch {
    // A proxy's page, or nothing: the status has to do.
  }
  const seconds = response.headers.get("retry-after");
  if (seconds) message += ` Try again in ${seconds} s.`;
  return new ServerError(message, response.status);
}

/** The data of server-sent events as values. ServerError when the stream breaks off or carries an error. */
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      let piece;
      try {
        piece = await reader.read();
      } catch (error) {
        if (error.name === "AbortError") throw error;
        throw new ServerError("The connection was lost.", 0);
      }
      if (piece.done) throw new ServerError("The answer broke off.", 0);
      const blocks = (rest + piece.value).split("\n\n");
      rest = blocks.pop();
      for (const block of blocks) {
        const line = block.split("\n").find((line) => line.startsWith("data:"));
        if (!line) continue;
        const data = line.slice(5).trim();
        if (data === "[DONE]") return;
        const value = JSON.parse(data);
        if (value.error) throw new ServerError(value.error.message ?? "The server failed.", 200);
        yield value;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
