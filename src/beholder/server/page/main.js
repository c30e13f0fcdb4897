// The page as a whole: sections, language, theme, dropped and pasted files, and the server's readiness.

import { album, listAlbums, reloadAlbum, selectAlbum } from "/page/albums.js";
import { request } from "/page/api.js";
import { canDraw, renderDrawing, setGenerator, setLike } from "/page/draw.js";
import { openDuplicates, renderDuplicates, resetDuplicates } from "/page/duplicates.js";
import { openGroups, renderGroups, resetGroups } from "/page/groups.js";
import { languages, setLanguage, t } from "/page/i18n.js";
import { openIndexing, renderIndexing } from "/page/indexing.js";
import { openMap, resetMap, translateMap } from "/page/map.js";
import { grid, renderFilters, runSearch } from "/page/search.js";
import { connectSelection, renderSelection } from "/page/selection.js";
import { renderTimeline } from "/page/timeline.js";
import { addFiles, captionsAsJSONLines, enableCaptions, pictures, refreshCards } from "/page/uploads.js";
import { refreshViewer, setModels } from "/page/viewer.js";

const byId = (id) => document.getElementById(id);
let state = "loading";
let names = "";

function readPreference(name) {
  try {
    return localStorage.getItem(name);
  } catch {
    return null; // storage is disabled
  }
}

function savePreference(name, value) {
  try {
    localStorage.setItem(name, value);
  } catch {
    // storage is disabled
  }
}

function renderStatus() {
  byId("status").textContent = names && state === "ready" ? `${t(state)}: ${names}` : t(state);
}

function changeLanguage(language) {
  setLanguage(language);
  byId("language").value = language;
  renderStatus();
  refreshCards();
  refreshViewer();
  renderDrawing();
  if (!album.name) return;
  renderFilters();
  grid.speak();
  renderSelection();
  renderTimeline();
  renderIndexing();
  renderGroups();
  renderDuplicates();
  translateMap();
}

// Sections: those of an album if there is one, and one for drawing if the server draws

const SECTIONS = {
  search: () => grid.measure(),
  groups: openGroups,
  map: openMap,
  duplicates: openDuplicates,
  own: () => {},
  draw: () => {},
};

function isOffered(section) {
  if (section === "own") return true;
  return section === "draw" ? canDraw() : Boolean(album.name);
}

function showSection() {
  const named = location.hash.slice(2);
  const now = named in SECTIONS && isOffered(named) ? named : album.name ? "search" : "own";
  for (const name of Object.keys(SECTIONS)) byId(`part-${name}`).hidden = name !== now;
  byId("parts").hidden = !album.name && !canDraw();
  for (const link of byId("parts").children) {
    link.hidden = !isOffered(link.hash.slice(2));
    if (link.hash === `#/${now}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  SECTIONS[now]();
}

addEventListener("hashchange", showSection);

async function switchAlbum(name) {
  if (!(await selectAlbum(name))) return;
  grid.show([]); // its ids belong to another album
  resetGroups();
  resetMap();
  resetDuplicates();
  byId("query").value = byId("where").value = "";
  renderFilters();
  showSection();
  openIndexing(afterIndexing);
  await runSearch();
}

connectSelection(grid, async () => {
  renderFilters();
  grid.draw(); // the rows that were dropped are loaded again
});

async function afterIndexing() {
  await reloadAlbum();
  resetGroups();
  resetMap();
  resetDuplicates();
  await runSearch();
}

byId("album").addEventListener("change", ({ target }) => {
  switchAlbum(target.value).catch(() => {
    state = "gone";
    renderStatus();
  });
});

async function openAlbums() {
  const names = await listAlbums();
  if (!names.length) return;
  byId("album").replaceChildren(...names.map((name) => {
    const option = document.createElement("option");
    option.textContent = name;
    return option;
  }));
  byId("album").hidden = names.length < 2;
  await switchAlbum(names[0]);
}

byId("language").addEventListener("change", ({ target }) => {
  savePreference("beholder-language", target.value);
  changeLanguage(target.value);
});

byId("order").addEventListener("change", ({ target }) => savePreference("beholder-order", target.value));

byId("theme").addEventListener("change", ({ target }) => {
  savePreference("beholder-theme", target.value);
  document.documentElement.dataset.theme = target.value;
});

// Adding pictures

function uploadFiles(files) {
  if (!byId("part-draw").hidden) {
    setLike(files[0]);
    return;
  }
  if (album.name) location.hash = "#/own";
  addFiles(files);
}

const drop = byId("drop");
let dragDepth = 0;
addEventListener("dragenter", (event) => {
  event.preventDefault();
  dragDepth += 1;
  drop.classList.add("over");
});
addEventListener("dragleave", () => {
  dragDepth -= 1;
  if (dragDepth <= 0) drop.classList.remove("over");
});
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => {
  event.preventDefault();
  dragDepth = 0;
  drop.classList.remove("over");
  if (event.dataTransfer.files.length) uploadFiles(event.dataTransfer.files);
});
addEventListener("paste", (event) => {
  const files = [...event.clipboardData.files].filter((file) => file.type.startsWith("image/"));
  if (files.length) {
    event.preventDefault();
    uploadFiles(files);
  }
});
byId("files").addEventListener("change", ({ target }) => {
  addFiles([...target.files]);
  target.value = "";
});

// Downloading captions

byId("download").addEventListener("click", () => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([captionsAsJSONLines()], { type: "application/x-ndjson" }));
  link.download = "captions.jsonl";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
});

// Arrow keys in the grid of uploads

byId("grid").addEventListener("keydown", (event) => {
  const cards = pictures.map((picture) => picture.card.button);
  const index = cards.indexOf(document.activeElement);
  const columns = getComputedStyle(byId("grid")).gridTemplateColumns.split(" ").length;
  const by = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[event.key];
  if (index < 0 || !by) return;
  event.preventDefault();
  cards[index + by]?.focus();
});

setModels(null, null);
document.documentElement.dataset.theme = byId("theme").value = readPreference("beholder-theme") ?? "auto";
byId("order").value = readPreference("beholder-order") ?? "newest";
if (byId("order").selectedIndex < 0) byId("order").value = "newest";
const preferred = readPreference("beholder-language") ?? navigator.language.slice(0, 2);
changeLanguage(languages.includes(preferred) ? preferred : "en");
showSection();

for (;;) {
  try {
    if (!(await request("/healthz")).ready) throw Object.assign(new Error(), { status: 503 });
    const models = (await request("/v1/models")).data;
    const firstWith = (work) => models.find((model) => model.capabilities.includes(work))?.id ?? null;
    names = models.map((model) => model.id).join(", ");
    state = "ready";
    setModels(firstWith("chat.completions"), firstWith("classify"));
    if (firstWith("caption")) enableCaptions();
    setGenerator(firstWith("images.generations"));
    showSection();
    await openAlbums();
    renderStatus();
    break;
  } catch (error) {
    state = error.status === 503 ? "loading" : "gone";
    renderStatus();
    await new Promise((done) => setTimeout(done, 1000));
  }
}
