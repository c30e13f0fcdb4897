// The album as a map: similar pictures are close together. Pan and zoom by mouse, touch or keyboard.

import { getRow, imageURL, map, onRows, requestRows } from "/page/albums.js";
import { ApiError } from "/page/api.js";
import { t } from "/page/i18n.js";
import { openInViewer } from "/page/search.js";

const byId = (id) => document.getElementById(id);
const canvas = byId("mapcanvas");
const HIT_RADIUS = 24; // pixels
const THUMBNAIL_SIZE = 64; // pixels; each cell of the map shows one thumbnail
const CELL = 72;
const IDLE = 150; // milliseconds without movement before thumbnails are loaded
let points = null; // { ids, x, y } in ±1
let activeRequest = null;
let view = { x: 0, y: 0, scale: 1 };
let selected = -1;
const thumbnails = new Map(); // id → image

/** Loads the map, unless it is loaded. */
export async function openMap() {
  if (points) return draw();
  if (activeRequest) return;
  const controller = (activeRequest = new AbortController());
  byId("mapstatus").textContent = t("makingMap");
  try {
    points = await map(controller.signal);
    view = { x: 0, y: 0, scale: 1 };
    selected = -1;
    translateMap();
    draw();
  } catch (error) {
    if (error.name === "AbortError") return;
    byId("mapstatus").textContent = error instanceof ApiError ? error.message : t("gone");
  }
  activeRequest = null;
}

/** Resets the section for another album. */
export function resetMap() {
  activeRequest?.abort();
  points = activeRequest = null;
  thumbnails.clear();
  selected = -1;
}

/** Updates the texts in another language. */
export function translateMap() {
  if (points) byId("mapstatus").textContent = t("mapOf", points.ids.length.toLocaleString());
  renderCard();
}

const side = () => Math.min(canvas.clientWidth, canvas.clientHeight) / 2;
const toScreen = (index) => [
  canvas.clientWidth / 2 + (points.x[index] - view.x) * side() * view.scale * 0.95,
  canvas.clientHeight / 2 + (points.y[index] - view.y) * side() * view.scale * 0.95,
];

let drawing = 0;
function draw() {
  cancelAnimationFrame(drawing);
  drawing = requestAnimationFrame(paint);
}

function paint() {
  if (!points || !canvas.clientWidth) return;
  const ratio = devicePixelRatio;
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
  }
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  const style = getComputedStyle(canvas);
  context.fillStyle = style.color;
  context.globalAlpha = points.ids.length > 5000 ? 0.5 : 0.8;
  const dot = Math.min(7, 1.6 + view.scale * (points.ids.length > 5000 ? 0.25 : 1));
  // Cells are fixed to the map rather than the screen, so that panning does not change the thumbnails.
  const cell = 2 ** Math.ceil(Math.log2(CELL / (side() * view.scale * 0.95)));
  const cells = new Map();
  for (let index = 0; index < points.ids.length; index += 1) {
    const [x, y] = toScreen(index);
    if (x < -40 || y < -40 || x > width + 40 || y > height + 40) continue;
    context.fillRect(x - dot / 2, y - dot / 2, dot, dot);
    const key = Math.floor(points.x[index] / cell) * 1e6 + Math.floor(points.y[index] / cell);
    if (!cells.has(key)) cells.set(key, index);
  }
  context.globalAlpha = 1;
  drawThumbnails(context, [...cells.values()]);
  if (selected >= 0) {
    const [x, y] = toScreen(selected);
    context.strokeStyle = style.outlineColor;
    context.lineWidth = 3;
    context.beginPath();
    context.arc(x, y, thumbnails.get(points.ids[selected])?.complete ? 46 : 10, 0, 2 * Math.PI);
    context.stroke();
  }
}

let idleTimer = null;
function drawThumbnails(context, visible) {
  clearTimeout(idleTimer);
  idleTimer = setTimeout(() => {
    for (const index of visible) {
      const id = points?.ids[index];
      if (id === undefined || thumbnails.has(id)) continue;
      const thumbnail = new Image();
      thumbnail.addEventListener("load", draw);
      thumbnail.src = imageURL(id);
      thumbnails.set(id, thumbnail);
      if (thumbnails.size > 1000) thumbnails.delete(thumbnails.keys().next().value);
    }
  }, IDLE);
  for (const index of visible) {
    const thumbnail = thumbnails.get(points.ids[index]);
    if (!thumbnail?.complete || !thumbnail.naturalWidth) continue;
    const scale = THUMBNAIL_SIZE / Math.max(thumbnail.naturalWidth, thumbnail.naturalHeight);
    const [x, y] = toScreen(index);
    const [width, height] = [thumbnail.naturalWidth * scale, thumbnail.naturalHeight * scale];
    context.drawImage(thumbnail, x - width / 2, y - height / 2, width, height);
  }
}

function nearest(x, y, within) {
  let best = -1;
  let smallest = within ** 2;
  for (let index = 0; index < points.ids.length; index += 1) {
    const [px, py] = toScreen(index);
    const distance = (px - x) ** 2 + (py - y) ** 2;
    if (distance < smallest) [best, smallest] = [index, distance];
  }
  return best;
}

/** Returns the nearest point in a direction; sideways distance counts three times. */
function nearestInDirection(dx, dy) {
  const [cx, cy] = selected < 0 ? [canvas.clientWidth / 2, canvas.clientHeight / 2] : toScreen(selected);
  let best = -1;
  let smallest = Infinity;
  for (let index = 0; index < points.ids.length; index += 1) {
    if (index === selected) continue;
    const [x, y] = toScreen(index);
    const along = (x - cx) * dx + (y - cy) * dy;
    const aside = Math.abs((x - cx) * dy) + Math.abs((y - cy) * dx);
    if (along <= 0.5 || along + 3 * aside >= smallest) continue;
    [best, smallest] = [index, along + 3 * aside];
  }
  return best;
}

function select(index) {
  if (index === selected) return;
  selected = index;
  if (index >= 0) {
    requestRows([points.ids[index]]);
    const [x, y] = toScreen(index);
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    if (x < 20 || y < 20 || x > width - 20 || y > height - 20) [view.x, view.y] = [points.x[index], points.y[index]];
  }
  renderCard();
  draw();
}

function renderCard() {
  const id = points && selected >= 0 ? points.ids[selected] : null;
  byId("mapcard").hidden = id === null;
  if (id === null) return;
  const row = getRow(id);
  byId("mapname").textContent = row ? row.caption || row.name.split("/").at(-1) : t("pictureNumber", id);
  const image = byId("mapimage");
  if (image.getAttribute("src") !== imageURL(id)) image.src = imageURL(id);
}

onRows((ids) => {
  if (points && selected >= 0 && ids.includes(points.ids[selected])) renderCard();
});

function openSelected() {
  if (points && selected >= 0) openInViewer([points.ids[selected]], 0, canvas);
}

function zoom(by, x = canvas.clientWidth / 2, y = canvas.clientHeight / 2) {
  const before = view.scale;
  view.scale = Math.min(400, Math.max(0.8, view.scale * by));
  const factor = (1 / before - 1 / view.scale) / (side() * 0.95);
  view.x += (x - canvas.clientWidth / 2) * factor;
  view.y += (y - canvas.clientHeight / 2) * factor;
  draw();
}

function move(dx, dy) {
  view.x -= dx / (side() * view.scale * 0.95);
  view.y -= dy / (side() * view.scale * 0.95);
  draw();
}

byId("mapopen").addEventListener("click", openSelected);
byId("mapcloser").addEventListener("click", () => zoom(1.6));
byId("mapfarther").addEventListener("click", () => zoom(1 / 1.6));
byId("mapwhole").addEventListener("click", () => {
  view = { x: 0, y: 0, scale: 1 };
  draw();
});

const pointers = new Map();
let moved = 0;
canvas.addEventListener("pointerdown", (event) => {
  pointers.set(event.pointerId, [event.offsetX, event.offsetY]);
  canvas.setPointerCapture(event.pointerId);
  moved = 0;
});
canvas.addEventListener("pointermove", (event) => {
  if (!points) return;
  const before = pointers.get(event.pointerId);
  const now = [event.offsetX, event.offsetY];
  if (!before) {
    const hit = nearest(...now, HIT_RADIUS);
    if (hit >= 0 && event.pointerType === "mouse") select(hit);
    return;
  }
  if (pointers.size === 1) move(now[0] - before[0], now[1] - before[1]);
  if (pointers.size === 2) {
    const [other] = [...pointers].filter(([id]) => id !== event.pointerId).map(([, index]) => index);
    const distance = (one) => Math.hypot(one[0] - other[0], one[1] - other[1]);
    zoom(distance(now) / Math.max(distance(before), 1), (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
  }
  moved += Math.hypot(now[0] - before[0], now[1] - before[1]);
  pointers.set(event.pointerId, now);
});
const onPointerEnd = (event) => {
  if (!pointers.delete(event.pointerId) || !points || event.type === "pointercancel" || moved > 6) return;
  const hit = nearest(event.offsetX, event.offsetY, HIT_RADIUS * 2);
  if (hit < 0) return;
  const again = hit === selected;
  select(hit);
  if (again || event.pointerType === "mouse") openSelected();
};
canvas.addEventListener("pointerup", onPointerEnd);
canvas.addEventListener("pointercancel", onPointerEnd);
canvas.addEventListener("wheel", (event) => {
  event.preventDefault();
  zoom(Math.exp(-event.deltaY / 400), event.offsetX, event.offsetY);
}, { passive: false });
canvas.addEventListener("keydown", (event) => {
  if (!points || event.altKey || event.ctrlKey || event.metaKey) return;
  const direction = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  if (direction) {
    const to = nearestInDirection(...direction);
    if (to >= 0) select(to);
  } else if (event.key === "Enter" || event.key === " ") openSelected();
  else if (event.key === "+" || event.key === "=") zoom(1.6);
  else if (event.key === "-") zoom(1 / 1.6);
  else return;
  event.preventDefault();
});
new ResizeObserver(draw).observe(canvas);
