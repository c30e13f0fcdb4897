// The album as a map: alike pictures lie near each other. It is moved and made larger with mouse, fingers or keys.

import { known, map, onRows, shown, want } from "/page/albums.js";
import { openFrom } from "/page/search.js";
import { Refused } from "/page/server.js";
import { say } from "/page/words.js";

const at = (id) => document.getElementById(id);
const canvas = at("mapcanvas");
const NEAR = 24; // pixels within which a point is meant
const FACE = 64; // pixels of a point that is drawn as its picture; one in each cell of the map is
const CELL = 72;
const RESTED = 150; // milliseconds without a movement before pictures are fetched
let points = null; // { ids, x, y } in ±1
let under = null;
let view = { x: 0, y: 0, scale: 1 };
let chosen = -1;
const faces = new Map(); // number → picture

/** Has the map made, unless it is there. */
export async function openMap() {
  if (points) return draw();
  if (under) return;
  const mine = (under = new AbortController());
  at("maptold").textContent = say("makingMap");
  try {
    points = await map(mine.signal);
    view = { x: 0, y: 0, scale: 1 };
    chosen = -1;
    speakMap();
    draw();
  } catch (error) {
    if (error.name === "AbortError") return;
    at("maptold").textContent = error instanceof Refused ? error.message : say("gone");
  }
  under = null;
}

/** Another album is on display. */
export function forgetMap() {
  under?.abort();
  points = under = null;
  faces.clear();
  chosen = -1;
}

/** In another language. */
export function speakMap() {
  if (points) at("maptold").textContent = say("mapOf", points.ids.length.toLocaleString());
  tell();
}

const side = () => Math.min(canvas.clientWidth, canvas.clientHeight) / 2;
const toScreen = (place) => [
  canvas.clientWidth / 2 + (points.x[place] - view.x) * side() * view.scale * 0.95,
  canvas.clientHeight / 2 + (points.y[place] - view.y) * side() * view.scale * 0.95,
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
  const paper = canvas.getContext("2d");
  paper.setTransform(ratio, 0, 0, ratio, 0, 0);
  paper.clearRect(0, 0, width, height);
  const style = getComputedStyle(canvas);
  paper.fillStyle = style.color;
  paper.globalAlpha = points.ids.length > 5000 ? 0.5 : 0.8;
  const dot = Math.min(7, 1.6 + view.scale * (points.ids.length > 5000 ? 0.25 : 1));
  // Cells lie still on the map and not on the screen, so that moving it changes no choice.
  const cell = 2 ** Math.ceil(Math.log2(CELL / (side() * view.scale * 0.95)));
  const cells = new Map();
  for (let place = 0; place < points.ids.length; place += 1) {
    const [x, y] = toScreen(place);
    if (x < -40 || y < -40 || x > width + 40 || y > height + 40) continue;
    paper.fillRect(x - dot / 2, y - dot / 2, dot, dot);
    const key = Math.floor(points.x[place] / cell) * 1e6 + Math.floor(points.y[place] / cell);
    if (!cells.has(key)) cells.set(key, place);
  }
  paper.globalAlpha = 1;
  drawFaces(paper, [...cells.values()]);
  if (chosen >= 0) {
    const [x, y] = toScreen(chosen);
    paper.strokeStyle = style.outlineColor;
    paper.lineWidth = 3;
    paper.beginPath();
    paper.arc(x, y, faces.get(points.ids[chosen])?.complete ? 46 : 10, 0, 2 * Math.PI);
    paper.stroke();
  }
}

let rest = null;
function drawFaces(paper, seen) {
  clearTimeout(rest);
  rest = setTimeout(() => {
    for (const place of seen) {
      const id = points?.ids[place];
      if (id === undefined || faces.has(id)) continue;
      const face = new Image();
      face.addEventListener("load", draw);
      face.src = shown(id);
      faces.set(id, face);
      if (faces.size > 1000) faces.delete(faces.keys().next().value);
    }
  }, RESTED);
  for (const place of seen) {
    const face = faces.get(points.ids[place]);
    if (!face?.complete || !face.naturalWidth) continue;
    const scale = FACE / Math.max(face.naturalWidth, face.naturalHeight);
    const [x, y] = toScreen(place);
    const [width, height] = [face.naturalWidth * scale, face.naturalHeight * scale];
    paper.drawImage(face, x - width / 2, y - height / 2, width, height);
  }
}

function nearest(x, y, within) {
  let best = -1;
  let least = within ** 2;
  for (let place = 0; place < points.ids.length; place += 1) {
    const [px, py] = toScreen(place);
    const apart = (px - x) ** 2 + (py - y) ** 2;
    if (apart < least) [best, least] = [place, apart];
  }
  return best;
}

/** The nearest point in a direction: less far along it than three times aside. */
function towards(dx, dy) {
  const [cx, cy] = chosen < 0 ? [canvas.clientWidth / 2, canvas.clientHeight / 2] : toScreen(chosen);
  let best = -1;
  let least = Infinity;
  for (let place = 0; place < points.ids.length; place += 1) {
    if (place === chosen) continue;
    const [x, y] = toScreen(place);
    const along = (x - cx) * dx + (y - cy) * dy;
    const aside = Math.abs((x - cx) * dy) + Math.abs((y - cy) * dx);
    if (along <= 0.5 || along + 3 * aside >= least) continue;
    [best, least] = [place, along + 3 * aside];
  }
  return best;
}

function choose(place) {
  if (place === chosen) return;
  chosen = place;
  if (place >= 0) {
    want([points.ids[place]]);
    const [x, y] = toScreen(place);
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    if (x < 20 || y < 20 || x > width - 20 || y > height - 20) [view.x, view.y] = [points.x[place], points.y[place]];
  }
  tell();
  draw();
}

function tell() {
  const id = points && chosen >= 0 ? points.ids[chosen] : null;
  at("mapcard").hidden = id === null;
  if (id === null) return;
  const row = known(id);
  at("mapname").textContent = row ? row.caption || row.name.split("/").at(-1) : say("pictureNumber", id);
  const image = at("mapimage");
  if (image.getAttribute("src") !== shown(id)) image.src = shown(id);
}

onRows((ids) => {
  if (points && chosen >= 0 && ids.includes(points.ids[chosen])) tell();
});

function openChosen() {
  if (points && chosen >= 0) openFrom([points.ids[chosen]], 0, canvas);
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

at("mapopen").addEventListener("click", openChosen);
at("mapcloser").addEventListener("click", () => zoom(1.6));
at("mapfarther").addEventListener("click", () => zoom(1 / 1.6));
at("mapwhole").addEventListener("click", () => {
  view = { x: 0, y: 0, scale: 1 };
  draw();
});

const fingers = new Map();
let moved = 0;
canvas.addEventListener("pointerdown", (event) => {
  fingers.set(event.pointerId, [event.offsetX, event.offsetY]);
  canvas.setPointerCapture(event.pointerId);
  moved = 0;
});
canvas.addEventListener("pointermove", (event) => {
  if (!points) return;
  const before = fingers.get(event.pointerId);
  const now = [event.offsetX, event.offsetY];
  if (!before) {
    const near = nearest(...now, NEAR);
    if (near >= 0 && event.pointerType === "mouse") choose(near);
    return;
  }
  if (fingers.size === 1) move(now[0] - before[0], now[1] - before[1]);
  if (fingers.size === 2) {
    const [other] = [...fingers].filter(([id]) => id !== event.pointerId).map(([, place]) => place);
    const apart = (one) => Math.hypot(one[0] - other[0], one[1] - other[1]);
    zoom(apart(now) / Math.max(apart(before), 1), (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
  }
  moved += Math.hypot(now[0] - before[0], now[1] - before[1]);
  fingers.set(event.pointerId, now);
});
const lifted = (event) => {
  if (!fingers.delete(event.pointerId) || !points || event.type === "pointercancel" || moved > 6) return;
  const near = nearest(event.offsetX, event.offsetY, NEAR * 2);
  if (near < 0) return;
  const again = near === chosen;
  choose(near);
  if (again || event.pointerType === "mouse") openChosen();
};
canvas.addEventListener("pointerup", lifted);
canvas.addEventListener("pointercancel", lifted);
canvas.addEventListener("wheel", (event) => {
  event.preventDefault();
  zoom(Math.exp(-event.deltaY / 400), event.offsetX, event.offsetY);
}, { passive: false });
canvas.addEventListener("keydown", (event) => {
  if (!points || event.altKey || event.ctrlKey || event.metaKey) return;
  const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  if (way) {
    const to = towards(...way);
    if (to >= 0) choose(to);
  } else if (event.key === "Enter" || event.key === " ") openChosen();
  else if (event.key === "+" || event.key === "=") zoom(1.6);
  else if (event.key === "-") zoom(1 / 1.6);
  else return;
  event.preventDefault();
});
new ResizeObserver(draw).observe(canvas);
