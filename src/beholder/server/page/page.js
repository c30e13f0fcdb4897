// The page as a whole: its parts, languages, colours, what is dropped or pasted, and whether the server is ready.

import { album, albums, choose as chooseAlbum } from "/page/albums.js";
import { drawDuplicates, forgetDuplicates, openDuplicates } from "/page/duplicates.js";
import { drawGroups, forgetGroups, openGroups } from "/page/groups.js";
import { forgetMap, openMap, speakMap } from "/page/map.js";
import { add, allowCaptions, captionsAsLines, pictures, show } from "/page/pictures.js";
import { choices, grid, look } from "/page/search.js";
import { ask } from "/page/server.js";
import { enable, fill } from "/page/view.js";
import { languages, say, speak } from "/page/words.js";

const at = (id) => document.getElementById(id);
let state = "loading";
let names = "";

function kept(name) {
  try {
    return localStorage.getItem(name);
  } catch {
    return null; // a browser that keeps nothing
  }
}

function keep(name, value) {
  try {
    localStorage.setItem(name, value);
  } catch {
    // then it is asked for again next time
  }
}

function status() {
  at("status").textContent = names && state === "ready" ? `${say(state)}: ${names}` : say(state);
}

function choose(language) {
  speak(language);
  at("language").value = language;
  status();
  show();
  fill();
  if (!album.name) return;
  choices();
  grid.speak();
  drawGroups();
  drawDuplicates();
  speakMap();
}

// Parts, where there is an album

const PARTS = { search: () => grid.measure(), groups: openGroups, map: openMap, duplicates: openDuplicates, own: () => {} };

function part() {
  const named = location.hash.slice(2);
  const now = album.name ? (named in PARTS ? named : "search") : "own";
  for (const name of Object.keys(PARTS)) at(`part-${name}`).hidden = name !== now;
  for (const link of at("parts").children) {
    if (link.hash === `#/${now}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (album.name) PARTS[now]();
}

addEventListener("hashchange", part);

async function take(name) {
  if (!(await chooseAlbum(name))) return;
  grid.show([]); // the numbers there are those of another album
  forgetGroups();
  forgetMap();
  forgetDuplicates();
  at("query").value = at("where").value = "";
  choices();
  part();
  await look();
}

at("album").addEventListener("change", ({ target }) => {
  take(target.value).catch(() => {
    state = "gone";
    status();
  });
});

async function openAlbums() {
  const names = await albums();
  if (!names.length) return;
  at("album").replaceChildren(...names.map((name) => {
    const option = document.createElement("option");
    option.textContent = name;
    return option;
  }));
  at("album").hidden = names.length < 2;
  at("parts").hidden = false;
  await take(names[0]);
}

at("language").addEventListener("change", ({ target }) => {
  keep("beholder-language", target.value);
  choose(target.value);
});

at("theme").addEventListener("change", ({ target }) => {
  keep("beholder-theme", target.value);
  document.documentElement.dataset.theme = target.value;
});

// Pictures come in

function addOwn(files) {
  if (album.name) location.hash = "#/own";
  add(files);
}

const drop = at("drop");
let inside = 0;
addEventListener("dragenter", (event) => {
  event.preventDefault();
  inside += 1;
  drop.classList.add("over");
});
addEventListener("dragleave", () => {
  inside -= 1;
  if (inside <= 0) drop.classList.remove("over");
});
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => {
  event.preventDefault();
  inside = 0;
  drop.classList.remove("over");
  if (event.dataTransfer.files.length) addOwn(event.dataTransfer.files);
});
addEventListener("paste", (event) => {
  const files = [...event.clipboardData.files].filter((file) => file.type.startsWith("image/"));
  if (files.length) {
    event.preventDefault();
    addOwn(files);
  }
});
at("files").addEventListener("change", ({ target }) => {
  add([...target.files]);
  target.value = "";
});

// And captions go out

at("download").addEventListener("click", () => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([captionsAsLines()], { type: "application/x-ndjson" }));
  link.download = "captions.jsonl";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
});

// The grid with the arrow keys

at("grid").addEventListener("keydown", (event) => {
  const cards = pictures.map((picture) => picture.card.button);
  const place = cards.indexOf(document.activeElement);
  const columns = getComputedStyle(at("grid")).gridTemplateColumns.split(" ").length;
  const by = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[event.key];
  if (place < 0 || !by) return;
  event.preventDefault();
  cards[place + by]?.focus();
});

enable(null, null);
document.documentElement.dataset.theme = at("theme").value = kept("beholder-theme") ?? "auto";
const wished = kept("beholder-language") ?? navigator.language.slice(0, 2);
choose(languages.includes(wished) ? wished : "en");
part();

for (;;) {
  try {
    if (!(await ask("/healthz")).ready) throw Object.assign(new Error(), { status: 503 });
    const models = (await ask("/v1/models")).data;
    const one = (work) => models.find((model) => model.capabilities.includes(work))?.id ?? null;
    names = models.map((model) => model.id).join(", ");
    state = "ready";
    enable(one("chat.completions"), one("classify"));
    if (one("caption")) allowCaptions();
    await openAlbums();
    status();
    break;
  } catch (error) {
    state = error.status === 503 ? "loading" : "gone";
    status();
    await new Promise((done) => setTimeout(done, 1000));
  }
}
