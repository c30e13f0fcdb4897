// Talks to the server that this page came from.

/** An answer that is an error, in the server's words. */
export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
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
    const later = Number(answer.headers.get("Retry-After"));
    if (later && (answer.status === 202 || (answer.status === 429 && tries < 10))) {
      await new Promise((done) => setTimeout(done, later * 1000)); // it is being made, or many ask at once
      signal?.throwIfAborted();
      continue;
    }
    if (answer.ok) return answer;
    let message = `${answer.status}`;
    try {
      message = (await answer.json()).error.message;
    } catch {
      // not from our server: the number has to do
    }
    throw new Refused(answer.status, message);
  }
}

/** What the server answers, as an object. */
export async function ask(path, body, signal) {
  return (await send(path, body, signal)).json();
}

/** Puts something in its place, and what the server says of it then. */
export async function put(path, body) {
  return (await send(path, body, undefined, "PUT")).json();
}

/** The pieces of an answer in a conversation, as they come. */
export async function* talk(model, messages, signal) {
  const answer = await send("/v1/chat/completions", { model, messages, stream: true }, signal);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    held += value;
    const events = held.split("\n\n");
    held = events.pop();
    for (const event of events) {
      const data = event.replace(/^data: /, "");
      if (data === "[DONE]") return;
      const told = JSON.parse(data);
      if (told.error) throw new Refused(500, told.error.message);
      const piece = told.choices[0]?.delta.content;
      if (piece) yield piece;
    }
  }
}

/** A file as a data address. */
export function dataAddress(file) {
  return new Promise((done, failed) => {
    const reader = new FileReader();
    reader.onload = () => done(reader.result);
    reader.onerror = () => failed(reader.error);
    reader.readAsDataURL(file);
  });
}
