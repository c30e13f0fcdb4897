// Where the model looked for each word of a caption.

import { shownPicture } from "/page/view.js";
import { say } from "/page/words.js";

const at = (id) => document.getElementById(id);

/** A button for each word. */
export function drawWords(picture) {
  const group = at("words");
  group.replaceChildren();
  group.hidden = !picture.looked;
  if (!picture.looked) return;
  [say("whole"), ...picture.looked.words].forEach((word, place) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = word;
    button.setAttribute("aria-pressed", String(place === 0));
    button.addEventListener("click", () => drawMap(picture, place - 1));
    group.append(button);
  });
}

/** Lights the picture by the map of a word; -1 is the whole caption, null shows the picture itself. */
export async function drawMap(picture, place) {
  const canvas = at("map");
  const { looked } = picture;
  at("picture").hidden = place !== null;
  canvas.hidden = place === null;
  at("mapnote").textContent = "";
  if (place === null) return;
  [...at("words").children].forEach((button, number) => {
    button.setAttribute("aria-pressed", String(number === place + 1));
  });
  const seen = new Image();
  seen.src = looked.seen;
  await seen.decode();
  if (picture !== shownPicture() || picture.looked !== looked) return;
  const map = place < 0 ? looked.overall : looked.maps[place];
  const [height, width] = [map.length, map[0].length];
  const values = map.flat();
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const small = new OffscreenCanvas(width, height);
  const pixels = new ImageData(width, height);
  values.forEach((value, number) => {
    pixels.data[number * 4 + 3] = 215 * (1 - (value - low) / Math.max(high - low, 1e-9)); // black, clear where lit
  });
  small.getContext("2d").putImageData(pixels, 0, 0);
  canvas.width = seen.width * 2;
  canvas.height = seen.height * 2;
  const paper = canvas.getContext("2d");
  paper.imageSmoothingQuality = "high";
  paper.drawImage(seen, 0, 0, canvas.width, canvas.height);
  paper.drawImage(small, 0, 0, canvas.width, canvas.height);
  const word = place < 0 ? say("whole") : looked.words[place];
  at("mapnote").textContent = say("lookedFor", word);
}

at("map").addEventListener("click", () => drawMap(shownPicture(), null));
