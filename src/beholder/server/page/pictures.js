// The pictures that were dropped, the grid of them, and their captions.

import { dataAddress } from "/page/server.js";
import { open, recaption } from "/page/view.js";
import { say } from "/page/words.js";

const AT_ONCE = 2; // captions asked for together; the server writes them in one go
const THUMBNAIL = 480;

export const pictures = [];
let captions = false;
let underWay = 0;
const waiting = [];

const grid = document.querySelector("#grid");

/** Whether the server writes captions; those that wait for it begin. */
export function allowCaptions() {
  captions = true;
  work();
}

/** Adds files; each gets a card at once, and a caption when it is its turn. */
export async function add(files) {
  for (const file of files) {
    const picture = {
      file,
      name: file.name,
      caption: "",
      error: "",
      busy: false,
      messages: [],
      looked: null,
      labels: null,
      source: URL.createObjectURL(file),
      address: () => dataAddress(file),
      changed: () => show(picture),
    };
    pictures.push(picture);
    picture.card = card(picture);
    grid.append(picture.card.item);
    waiting.push(picture);
    thumbnail(picture);
  }
  show();
  work();
}

function work() {
  while (captions && underWay < AT_ONCE && waiting.length) {
    underWay += 1;
    recaption(waiting.shift()).then(() => {
      underWay -= 1;
      work();
    });
  }
}

function card(picture) {
  const item = document.createElement("li");
  const button = document.createElement("button");
  button.type = "button";
  button.className = "card";
  const image = document.createElement("span");
  image.className = "blank";
  const text = document.createElement("span");
  text.className = "text";
  const caption = document.createElement("span");
  const file = document.createElement("span");
  file.className = "file";
  file.textContent = picture.file.name;
  text.append(caption, file);
  button.append(image, text);
  button.addEventListener("click", () => openFrom(picture));
  item.append(button);
  return { item, button, image, caption };
}

function openFrom(picture) {
  let place = pictures.indexOf(picture);
  open(
    picture,
    async (by) => (pictures[place + by] ? pictures[(place += by)] : null),
    () => pictures[place].card.button.focus(),
  );
}

async function thumbnail(picture) {
  try {
    const bitmap = await createImageBitmap(picture.file, { imageOrientation: "from-image" });
    const scale = Math.min(1, THUMBNAIL / Math.max(bitmap.width, bitmap.height));
    const canvas = new OffscreenCanvas(Math.max(1, bitmap.width * scale), Math.max(1, bitmap.height * scale));
    canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
    bitmap.close();
    const image = document.createElement("img");
    image.alt = "";
    image.src = URL.createObjectURL(await canvas.convertToBlob({ type: "image/jpeg", quality: 0.85 }));
    picture.card.image.replaceWith(image);
    picture.card.image = image;
  } catch {
    // a format that this browser does not draw; the server may read it all the same
  }
}

/** Brings the grid up to date: one card, or every one. */
export function show(only) {
  for (const picture of only ? [only] : pictures) {
    const { caption } = picture.card;
    caption.className = picture.error ? "wrong" : "";
    caption.textContent = picture.error || (picture.busy ? say("writing") : picture.caption || say("noCaption"));
  }
  document.querySelector("#pictures").hidden = !pictures.length;
  document.querySelector("#drop").classList.toggle("small", pictures.length > 0);
  document.querySelector("#count").textContent = pictures.length === 1 ? say("one") : say("many", pictures.length);
  document.querySelector("#download").hidden = !pictures.some((picture) => picture.caption);
}

/** All captions as JSON lines, in the form of `beholder caption --out`. */
export function captionsAsLines() {
  const lines = pictures.filter((picture) => picture.caption);
  return lines.map(({ file, caption }) => `${JSON.stringify({ image: file.name, caption })}\n`).join("");
}
