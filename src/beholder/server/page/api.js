// Requests to the server that serves this page.

/** An error response, with the server's message. */
export class ApiError extends Error {
  constructor(status, message, code) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

async function send(path, body, signal, method = body === undefined ? "GET" : "POST") {
  for (let tries = 0; ; tries += 1) {
    const answer = await fetch(path, {
      method,
      headers: body === undefined ? {} : { "Content-Type": "application/json" },
      body: body === undefined ? undefined : JSON.stringify(body),
      signal,
    });
    const retryAfter = Number(answer.headers.get("Retry-After"));
    if (retryAfter && (answer.status === 202 || (answer.status === 429 && tries < 10))) {
      await new Promise((done) => setTimeout(done, retryAfter * 1000)); // being computed, or the server is busy
      signal?.throwIfAborted();
      continue;
    }
    if (answer.ok) return answer;
    let error = { message: `${answer.status}` };
    try {
      ({ error } = await answer.json());
    } catch {
      // not from our server: only the status is known
    }
    throw new ApiError(answer.status, error.message, error.code);
  }
}

/** Returns the JSON response of a GET request, or of a POST request if there is a body. */
export async function request(path, body, signal) {
  return (await send(path, body, signal)).json();
}

/** Returns the JSON response of a PUT request. */
export async function put(path, body) {
  return (await send(path, body, undefined, "PUT")).json();
}

/** Returns the JSON response of a DELETE request. */
export async function remove(path) {
  return (await send(path, undefined, undefined, "DELETE")).json();
}

/** Yields the data of the server-sent events that answer a request. */
async function* streamEvents(path, body, signal) {
  const answer = await send(path, { ...body, stream: true }, signal);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    buffer += value;
    const events = buffer.split("\n\n");
    buffer = events.pop();
    for (const event of events) {
      const data = event.replace(/^(event: .*\n)?data: /, "");
      if (data === "[DONE]") return;
      const parsed = JSON.parse(data);
      if (parsed.error) throw new ApiError(500, parsed.error.message);
      yield parsed;
    }
  }
}

/** Yields the text of a chat completion as it is streamed. */
export async function* streamChat(model, messages, signal) {
  for await (const chunk of streamEvents("/v1/chat/completions", { model, messages }, signal)) {
    const text = chunk.choices[0]?.delta.content;
    if (text) yield text;
  }
}

/** Yields the pictures of a request as they are drawn: partial ones, and those that are done. */
export function streamDrawings(body, signal) {
  return streamEvents("/v1/images/generations", body, signal);
}

/** Returns a file as a data URL. */
export function toDataURL(file) {
  return new Promise((done, failed) => {
    const reader = new FileReader();
    reader.onload = () => done(reader.result);
    reader.onerror = () => failed(reader.error);
    reader.readAsDataURL(file);
  });
}
