// Uploaded pictures: their grid and their captions.

import { toDataURL } from "/page/api.js";
import { t } from "/page/i18n.js";
import { generateCaption, openViewer } from "/page/viewer.js";

const MAX_CONCURRENT = 2; // caption requests; the server batches them
const THUMBNAIL_SIDE = 480;

export const pictures = [];
let canCaption = false;
let activeCaptions = 0;
const waiting = [];

const grid = document.querySelector("#grid");

/** Starts captioning: the server has a model for it. */
export function enableCaptions() {
  canCaption = true;
  startCaptions();
}

/** Adds files; each gets a card immediately, and a caption in turn. */
export async function addFiles(files) {
  for (const file of files) {
    const picture = {
      file,
      name: file.name,
      caption: "",
      error: "",
      busy: false,
      messages: [],
      attention: null,
      labels: null,
      source: URL.createObjectURL(file),
      address: () => toDataURL(file),
      changed: () => refreshCards(picture),
    };
    pictures.push(picture);
    picture.card = createCard(picture);
    grid.append(picture.card.item);
    waiting.push(picture);
    thumbnail(picture);
  }
  refreshCards();
  startCaptions();
}

function startCaptions() {
  while (canCaption && activeCaptions < MAX_CONCURRENT && waiting.length) {
    activeCaptions += 1;
    generateCaption(waiting.shift()).then(() => {
      activeCaptions -= 1;
      startCaptions();
    });
  }
}

function createCard(picture) {
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
  button.addEventListener("click", () => openUpload(picture));
  item.append(button);
  return { item, button, image, caption };
}

function openUpload(picture) {
  let index = pictures.indexOf(picture);
  openViewer(
    picture,
    async (by) => (pictures[index + by] ? pictures[(index += by)] : null),
    () => pictures[index].card.button.focus(),
  );
}

async function thumbnail(picture) {
  try {
    const bitmap = await createImageBitmap(picture.file, { imageOrientation: "from-image" });
    const scale = Math.min(1, THUMBNAIL_SIDE / Math.max(bitmap.width, bitmap.height));
    const canvas = new OffscreenCanvas(Math.max(1, bitmap.width * scale), Math.max(1, bitmap.height * scale));
    canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
    bitmap.close();
    const image = document.createElement("img");
    image.alt = "";
    image.src = URL.createObjectURL(await canvas.convertToBlob({ type: "image/jpeg", quality: 0.85 }));
    picture.card.image.replaceWith(image);
    picture.card.image = image;
  } catch {
    // a format that this browser can't decode; the server may
  }
}

/** Updates one card, or all cards. */
export function refreshCards(only) {
  for (const picture of only ? [only] : pictures) {
    const { caption } = picture.card;
    caption.className = picture.error ? "wrong" : "";
    caption.textContent = picture.error || (picture.busy ? t("writing") : picture.caption || t("noCaption"));
  }
  document.querySelector("#pictures").hidden = !pictures.length;
  document.querySelector("#drop").classList.toggle("small", pictures.length > 0);
  document.querySelector("#count").textContent = pictures.length === 1 ? t("one") : t("many", pictures.length);
  document.querySelector("#download").hidden = !pictures.some((picture) => picture.caption);
}

/** Returns all captions as JSON lines, in the format of `beholder caption --out`. */
export function captionsAsJSONLines() {
  const lines = pictures.filter((picture) => picture.caption);
  return lines.map(({ file, caption }) => `${JSON.stringify({ image: file.name, caption })}\n`).join("");
}
