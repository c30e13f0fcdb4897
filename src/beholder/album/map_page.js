"use strict";
// A map of pictures: drag, wheel, two fingers, or arrow keys, + and -; 0 shows all again.
const { pictures, regions } = JSON.parse(document.getElementById("map-data").textContent);
const canvas = document.getElementById("map");
const about = document.getElementById("about");
const pen = canvas.getContext("2d");
const view = { x: 0, y: 0, scale: 1 }; // the place in the middle, and pixels for 1 of the map's units
const pointers = new Map(); // fingers, or the mouse with a button held
let chosen = null;
let planned = false;

for (const picture of pictures) {
  if (picture.image) {
    picture.element = new Image();
    picture.element.onload = plan;
    picture.element.src = "data:image/jpeg;base64," + picture.image;
  }
}

function plan() {
  if (!planned) {
    planned = true;
    requestAnimationFrame(draw);
  }
}

function onScreen(point) {
  return [
    canvas.clientWidth / 2 + (point.x - view.x) * view.scale,
    canvas.clientHeight / 2 - (point.y - view.y) * view.scale,
  ];
}

function draw() {
  planned = false;
  const density = window.devicePixelRatio || 1;
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  canvas.width = width * density;
  canvas.height = height * density;
  pen.scale(density, density);
  const style = getComputedStyle(document.body);
  pen.fillStyle = style.color;
  const side = Math.min(96, Math.max(28, view.scale / 9));
  const taken = new Set(); // cells of the screen where a thumbnail lies already
  for (const picture of pictures) {
    const [x, y] = onScreen(picture);
    picture.shown = null;
    if (x < -side || y < -side || x > width + side || y > height + side) continue;
    const cell = Math.floor(x / side) + ":" + Math.floor(y / side);
    const image = picture.element;
    if (image && image.complete && image.naturalWidth && !taken.has(cell)) {
      taken.add(cell);
      const shrink = side / Math.max(image.naturalWidth, image.naturalHeight);
      const [wide, high] = [image.naturalWidth * shrink * 0.94, image.naturalHeight * shrink * 0.94];
      picture.shown = [x - wide / 2, y - high / 2, wide, high];
      pen.globalAlpha = 1;
      pen.drawImage(image, ...picture.shown);
    } else {
      pen.globalAlpha = 0.45;
      pen.beginPath();
      pen.arc(x, y, 2, 0, 2 * Math.PI);
      pen.fill();
    }
  }
  pen.globalAlpha = 1;
  if (chosen && chosen.shown) {
    pen.strokeStyle = style.color;
    pen.lineWidth = 3;
    pen.strokeRect(...chosen.shown);
  }
  pen.font = "600 15px system-ui, sans-serif";
  pen.textAlign = "center";
  pen.textBaseline = "middle";
  pen.lineWidth = 4;
  pen.strokeStyle = style.backgroundColor;
  for (const region of regions) {
    const [x, y] = onScreen(region);
    pen.strokeText(region.name, x, y);
    pen.fillText(region.name, x, y);
  }
}

function nearest(x, y) {
  let best = null;
  let least = 30;
  for (const picture of pictures) {
    const [left, top] = onScreen(picture);
    const inside =
      picture.shown &&
      x >= picture.shown[0] && x <= picture.shown[0] + picture.shown[2] &&
      y >= picture.shown[1] && y <= picture.shown[1] + picture.shown[3];
    const apart = inside ? Math.hypot(x - left, y - top) / 4 : Math.hypot(x - left, y - top);
    if (apart < least) [best, least] = [picture, apart];
  }
  return best;
}

function choose(picture) {
  if (picture === chosen) return;
  chosen = picture;
  about.textContent = picture ? picture.lines.join(" · ") : about.dataset.hint;
  plan();
}

function zoom(factor, x = canvas.clientWidth / 2, y = canvas.clientHeight / 2) {
  const scale = Math.min(Math.max(view.scale * factor, 50), 200000);
  const [across, up] = [x - canvas.clientWidth / 2, canvas.clientHeight / 2 - y];
  view.x += across / view.scale - across / scale; // what is under the pointer stays there
  view.y += up / view.scale - up / scale;
  view.scale = scale;
  plan();
}

function pan(across, down) {
  view.x -= across / view.scale;
  view.y += down / view.scale;
  plan();
}

function showAll() {
  Object.assign(view, { x: 0, y: 0, scale: Math.min(canvas.clientWidth, canvas.clientHeight) / 2.2 });
  plan();
}

canvas.addEventListener("pointerdown", (event) => {
  canvas.setPointerCapture(event.pointerId);
  pointers.set(event.pointerId, event);
});
for (const name of ["pointerup", "pointercancel"]) {
  canvas.addEventListener(name, (event) => pointers.delete(event.pointerId));
}
canvas.addEventListener("pointermove", (event) => {
  const before = pointers.get(event.pointerId);
  if (!before) return choose(nearest(event.offsetX, event.offsetY));
  const others = [...pointers.values()].filter((other) => other.pointerId !== event.pointerId);
  if (others.length) {
    const [other] = others;
    const apart = (one) => Math.hypot(one.offsetX - other.offsetX, one.offsetY - other.offsetY) || 1;
    const middle = [(event.offsetX + other.offsetX) / 2, (event.offsetY + other.offsetY) / 2];
    zoom(apart(event) / apart(before), ...middle);
    pan((event.offsetX - before.offsetX) / 2, (event.offsetY - before.offsetY) / 2);
  } else {
    pan(event.offsetX - before.offsetX, event.offsetY - before.offsetY);
  }
  pointers.set(event.pointerId, event);
});
canvas.addEventListener("wheel", (event) => {
  event.preventDefault();
  zoom(Math.exp(-event.deltaY / (event.deltaMode ? 15 : 400)), event.offsetX, event.offsetY);
}, { passive: false });
canvas.addEventListener("dblclick", (event) => zoom(2, event.offsetX, event.offsetY));
canvas.addEventListener("keydown", (event) => {
  const steps = { ArrowLeft: [60, 0], ArrowRight: [-60, 0], ArrowUp: [0, 60], ArrowDown: [0, -60] };
  if (event.key in steps) pan(...steps[event.key]);
  else if (event.key === "+" || event.key === "=") zoom(1.4);
  else if (event.key === "-") zoom(1 / 1.4);
  else if (event.key === "0") showAll();
  else return;
  event.preventDefault();
  choose(nearest(canvas.clientWidth / 2, canvas.clientHeight / 2));
});
window.addEventListener("resize", plan);
about.textContent = about.dataset.hint;
showAll();
