// Drawing pictures: the form, and the pictures as they grow.

import { streamDrawings, toDataURL } from "/page/api.js";
import { t } from "/page/i18n.js";

const PREVIEWS = 12; // of each picture
const byId = (id) => document.getElementById(id);
let model = null;
let activeRequest = null; // AbortController
let like = null; // the picture to resemble, a File
let progress = null; // [step, steps] of the picture being drawn
let drawings = []; // { image, caption, link, seed, match, prompt } of the last request

/** Sets the model that draws, or null. */
export function setGenerator(name) {
  model = name;
}

/** Tells whether the server draws pictures. */
export function canDraw() {
  return Boolean(model);
}

/** Renders all texts, for instance in another language. */
export function renderDrawing() {
  byId("drawnote").textContent = progress ? t("drawingStep", progress) : "";
  for (const each of drawings) renderFacts(each);
}

/** Sets the picture to resemble, or null. */
export function setLike(file) {
  like = file;
  URL.revokeObjectURL(byId("likepicture").src);
  byId("likepicture").hidden = byId("nolike").hidden = !file;
  byId("likepicture").alt = file ? file.name : "";
  if (file) {
    byId("likepicture").src = URL.createObjectURL(file);
    byId("drawoptions").open = true;
  } else byId("likepicture").removeAttribute("src");
}

function addDrawing(prompt) {
  const [item, image, caption, link] = ["li", "img", "p", "a"].map((name) => document.createElement(name));
  image.alt = prompt;
  image.hidden = link.hidden = true;
  item.append(image, caption, link);
  item.setAttribute("aria-busy", "true");
  byId("drawings").append(item);
  return { item, image, caption, link, seed: null, match: null };
}

function show(drawing, data) {
  drawing.image.src = `data:image/png;base64,${data}`;
  drawing.image.hidden = false;
}

function renderFacts({ caption, link, seed, match }) {
  if (seed === null) return;
  caption.textContent = match === null ? t("drawn", seed) : t("drawnMatch", [seed, `${Math.round(match * 100)} %`]);
  link.textContent = t("download");
}

function finish(drawing, { b64_json: data, seed, match }) {
  show(drawing, data);
  Object.assign(drawing, { seed, match });
  drawing.link.href = drawing.image.src;
  drawing.link.download = `${seed}.png`;
  drawing.link.hidden = false;
  drawing.item.removeAttribute("aria-busy");
  renderFacts(drawing);
}

async function requestBody(prompt) {
  const minus = byId("drawminus").value.trim();
  const seed = byId("drawseed").value.trim();
  return {
    model,
    partial_images: PREVIEWS,
    n: Number(byId("drawcount").value),
    candidates: Number(byId("drawcandidates").value),
    ...(prompt ? { prompt } : {}),
    ...(minus ? { minus: [minus] } : {}),
    ...(seed ? { seed: Number(seed) } : {}),
    ...(like ? { like: [await toDataURL(like)] } : {}),
  };
}

byId("likefile").addEventListener("change", ({ target }) => {
  if (target.files.length) setLike(target.files[0]);
  target.value = "";
});
byId("nolike").addEventListener("click", () => setLike(null));
byId("stopdrawing").addEventListener("click", () => activeRequest?.abort());

byId("drawform").addEventListener("submit", async (event) => {
  event.preventDefault();
  const prompt = byId("prompt").value.trim();
  if (activeRequest || !(prompt || like)) return;
  activeRequest = new AbortController();
  byId("drawerror").hidden = true;
  byId("stopdrawing").hidden = false;
  byId("drawbutton").hidden = true;
  byId("drawings").replaceChildren();
  drawings = [];
  try {
    for await (const event of streamDrawings(await requestBody(prompt), activeRequest.signal)) {
      while (drawings.length <= event.index) drawings.push(addDrawing(prompt || like.name));
      const drawing = drawings[event.index];
      if (event.type === "image_generation.completed") finish(drawing, event);
      else {
        show(drawing, event.b64_json);
        progress = [event.step, event.steps];
        renderDrawing();
      }
    }
  } catch (error) {
    if (error.name !== "AbortError") {
      byId("drawerror").textContent = error.message;
      byId("drawerror").hidden = false;
    }
  }
  drawings = drawings.filter((drawing) => {
    if (drawing.seed === null) drawing.item.remove(); // it was not finished
    return drawing.seed !== null;
  });
  activeRequest = null;
  progress = null;
  renderDrawing();
  byId("stopdrawing").hidden = true;
  byId("drawbutton").hidden = false;
});
