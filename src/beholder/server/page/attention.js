// Attention maps: where in the picture the model attends for each word of a caption.

import { t } from "/page/i18n.js";
import { currentPicture } from "/page/viewer.js";

const byId = (id) => document.getElementById(id);

/** Renders a button for each word. */
export function renderWords(picture) {
  const group = byId("words");
  group.replaceChildren();
  group.hidden = !picture.attention;
  if (!picture.attention) return;
  [t("whole"), ...picture.attention.words].forEach((word, index) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = word;
    button.setAttribute("aria-pressed", String(index === 0));
    button.addEventListener("click", () => renderAttention(picture, index - 1));
    group.append(button);
  });
}

/** Shows the attention map of a word over the picture; -1 is the whole caption, null hides the map. */
export async function renderAttention(picture, index) {
  const canvas = byId("map");
  const { attention } = picture;
  byId("picture").hidden = index !== null;
  canvas.hidden = index === null;
  byId("mapnote").textContent = "";
  if (index === null) return;
  [...byId("words").children].forEach((button, number) => {
    button.setAttribute("aria-pressed", String(number === index + 1));
  });
  const image = new Image();
  image.src = attention.seen;
  await image.decode();
  if (picture !== currentPicture() || picture.attention !== attention) return;
  const map = index < 0 ? attention.overall : attention.maps[index];
  const [height, width] = [map.length, map[0].length];
  const values = map.flat();
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const small = new OffscreenCanvas(width, height);
  const pixels = new ImageData(width, height);
  values.forEach((value, number) => {
    pixels.data[number * 4 + 3] = 215 * (1 - (value - low) / Math.max(high - low, 1e-9)); // black, transparent where attention is high
  });
  small.getContext("2d").putImageData(pixels, 0, 0);
  canvas.width = image.width * 2;
  canvas.height = image.height * 2;
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  context.drawImage(small, 0, 0, canvas.width, canvas.height);
  const word = index < 0 ? t("whole") : attention.words[index];
  byId("mapnote").textContent = t("lookedFor", word);
}

byId("map").addEventListener("click", () => renderAttention(currentPicture(), null));
