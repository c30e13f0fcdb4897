// One picture, large: its caption, labels, and what the modules beside add to it.

import { drawAbout, fillAbout } from "/page/about.js";
import { drawMap, drawWords } from "/page/attention.js";
import { Refused, ask } from "/page/server.js";
import { drawTalk, enableTalk, stopTalk } from "/page/talk.js";
import { say } from "/page/words.js";

const at = (id) => document.getElementById(id);
const view = at("view");
let current = null;
let step = async () => null;
let closed = () => {};
let writes = false;

/** What the server can do: names of the models that write and that compare, or null. */
export function enable(writer, encoder) {
  writes = Boolean(writer);
  enableTalk(writer);
  at("talking").hidden = !writer;
  at("labelling").hidden = !encoder;
  fill();
}

/** The picture on display. */
export function shownPicture() {
  return current;
}

/**
 * Shows a picture: { name, caption, source, address, messages, looked, labels, busy, error, changed }.
 * `next(by)` gives the picture before or behind it, or null; `end` is called when the view is closed.
 */
export function open(picture, next, end) {
  stopTalk();
  current = picture;
  if (next) step = next;
  if (end && !view.open) closed = end; // from a picture to one that is like it: where the first came from
  at("name").textContent = picture.name.split("/").at(-1);
  at("picture").src = picture.source;
  at("viewtrouble").hidden = true;
  drawLabels();
  drawTalk(picture);
  drawAbout(picture);
  drawMap(picture, null);
  drawWords(picture);
  fill();
  if (!view.open) view.showModal();
  at("view").scrollTop = 0;
  at("name").focus();
}

/** Brings the texts up to date, for instance in another language. */
export function fill() {
  if (!current) return;
  const inAlbum = current.id !== undefined;
  at("captioning").hidden = !writes && !inAlbum;
  at("caption").value = current.caption;
  at("caption").placeholder = current.busy ? say("writing") : say("noCaption");
  at("picture").alt = current.caption || current.name;
  at("regenerate").textContent = say(current.caption ? "regenerate" : "writeOne");
  at("regenerate").hidden = at("attend").hidden = !writes;
  at("regenerate").disabled = current.busy;
  at("attend").disabled = current.busy || !current.caption;
  fillAbout(current);
}

/** Says what went wrong. */
export function trouble(error) {
  if (error.name === "AbortError") return;
  at("viewtrouble").textContent = error instanceof Refused ? error.message : say("gone");
  at("viewtrouble").hidden = false;
}

/** Does something that a button asks for, and says what goes wrong. */
export async function attempt(button, action) {
  at("viewtrouble").hidden = true;
  button.disabled = true;
  try {
    await action(current);
  } catch (error) {
    trouble(error);
  }
  button.disabled = false;
  fill();
}

// Caption

/** Has a caption written: the likeliest, or another that is drawn. */
export async function recaption(picture, drawn) {
  picture.busy = true;
  picture.looked = null;
  picture.changed();
  try {
    const how = drawn ? { top_p: 0.9, seed: Math.floor(Math.random() * 2 ** 31) } : {};
    picture.caption = (await ask("/v1/caption", { image: await picture.address(), ...how })).caption;
    picture.error = "";
  } catch (error) {
    picture.error = error instanceof Refused ? error.message.replace(/^picture 1: /, "") : say("gone");
  }
  picture.busy = false;
  picture.changed();
  if (picture === current && document.activeElement !== at("caption")) fill();
}

function forgetLooks() {
  current.looked = null;
  drawMap(current, null);
  drawWords(current);
}

at("caption").addEventListener("input", () => {
  current.caption = at("caption").value;
  forgetLooks();
  current.changed();
  at("attend").disabled = !current.caption;
  fillAbout(current);
});

at("regenerate").addEventListener("click", () => attempt(at("regenerate"), async (picture) => {
  await recaption(picture, picture.caption !== "");
  if (picture !== current) return;
  forgetLooks();
  if (picture.error) trouble(new Refused(400, picture.error));
}));

at("attend").addEventListener("click", () => attempt(at("attend"), async (picture) => {
  picture.looked = await ask("/v1/attention", { image: await picture.address(), text: picture.caption });
  if (picture !== current) return;
  drawWords(picture);
  await drawMap(picture, -1);
}));

// Labels

at("labelform").addEventListener("submit", (event) => {
  event.preventDefault();
  const labels = at("labels").value.split(/[,，、;；]/).map((label) => label.trim()).filter(Boolean);
  if (!labels.length) return at("labels").focus();
  attempt(event.submitter ?? at("labelform").querySelector("button"), async (picture) => {
    const image = await picture.address();
    picture.labels = (await ask("/v1/classify", { image, labels: [...new Set(labels)], top: 10 })).labels;
    if (picture === current) drawLabels();
  });
});

function drawLabels() {
  at("ranked").replaceChildren(
    ...(current.labels ?? []).map(({ label, probability }) => {
      const row = document.createElement("li");
      const name = document.createElement("span");
      name.textContent = label;
      const meter = document.createElement("meter");
      meter.value = probability;
      meter.setAttribute("aria-label", label);
      const share = document.createElement("b");
      share.textContent = `${Math.round(probability * 100)}%`;
      row.append(name, meter, share);
      return row;
    }),
  );
}

// Moving about

async function move(by) {
  const from = current;
  try {
    const picture = await step(by);
    if (picture && current === from && view.open) open(picture);
  } catch (error) {
    trouble(error);
  }
}

at("previous").addEventListener("click", () => move(-1));
at("next").addEventListener("click", () => move(1));
at("close").addEventListener("click", () => view.close());
view.addEventListener("close", () => {
  stopTalk();
  closed();
});
view.addEventListener("keydown", (event) => {
  if (event.target.matches("input, textarea, select") || event.altKey || event.ctrlKey || event.metaKey) return;
  if (event.key === "ArrowLeft") move(-1);
  if (event.key === "ArrowRight") move(1);
});
