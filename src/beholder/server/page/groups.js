// Clusters of similar pictures, each shown as a strip.

import { getRow, groups, imageURL, onRows, requestRows } from "/page/albums.js";
import { ApiError } from "/page/api.js";
import { t } from "/page/i18n.js";
import { openInViewer, showCollection } from "/page/search.js";

const byId = (id) => document.getElementById(id);
const STRIP_LENGTH = 8; // pictures per group
let results = null;
let activeRequest = null;

/** Computes groups, unless they are loaded. */
export function openGroups() {
  if (!results && !activeRequest) computeGroups();
}

/** Resets the section for another album. */
export function resetGroups() {
  activeRequest?.abort();
  results = activeRequest = null;
  byId("groups").replaceChildren();
}

/** Renders the groups. */
export function renderGroups() {
  if (!results) return;
  byId("groups").replaceChildren(...results.map(renderGroup));
  byId("groupsnote").textContent = t("groupsMade", results.length);
  requestRows(results.flatMap((group) => group.ids.slice(0, STRIP_LENGTH)));
}

byId("groupform").addEventListener("submit", (event) => {
  event.preventDefault();
  computeGroups();
});

async function computeGroups() {
  activeRequest?.abort();
  const controller = (activeRequest = new AbortController());
  byId("groupsnote").textContent = t("makingGroups");
  byId("groupsnote").setAttribute("aria-busy", "true");
  const keywords = byId("keywords").value.split(/[,，、;；]/).map((word) => word.trim()).filter(Boolean);
  try {
    const clusters = Number(byId("clusters").value) || null;
    results = (await groups(clusters, [...new Set(keywords)], controller.signal)).data;
    renderGroups();
  } catch (error) {
    if (error.name === "AbortError") return;
    byId("groupsnote").textContent = error instanceof ApiError ? error.message : t("gone");
  }
  activeRequest = null;
  byId("groupsnote").removeAttribute("aria-busy");
}

function renderGroup(group) {
  const section = document.createElement("section");
  const bar = document.createElement("div");
  bar.className = "bar";
  const title = document.createElement("h3");
  const name = group.number < 0 ? t("inNoGroup") : group.name;
  title.textContent = `${name} (${group.ids.length.toLocaleString()})`;
  title.id = `group${group.number}`;
  section.setAttribute("aria-labelledby", title.id);
  const all = document.createElement("button");
  all.type = "button";
  all.textContent = t("showAll");
  all.setAttribute("aria-describedby", title.id);
  all.addEventListener("click", () => {
    showCollection(() => t("groupNamed", group.number < 0 ? t("inNoGroup") : group.name), group.ids);
    location.hash = "#/search";
  });
  bar.append(title, all);
  section.append(bar, createStrip(group.ids, STRIP_LENGTH));
  const others = group.keywords.filter((word) => word !== group.name);
  if (others.length) {
    const also = document.createElement("p");
    also.className = "soft";
    also.textContent = t("alsoFits", others.join(", "));
    bar.after(also);
  }
  return section;
}

/** Creates a row of thumbnails; the viewer pages through all ids. */
export function createStrip(ids, count) {
  const list = document.createElement("ul");
  list.className = "strip";
  list.append(...ids.slice(0, count).map((id, index) => {
    const item = document.createElement("li");
    const button = document.createElement("button");
    button.type = "button";
    button.className = "small";
    button.dataset.picture = id;
    const image = document.createElement("img");
    image.loading = "lazy";
    image.src = imageURL(id);
    image.alt = altText(id);
    button.append(image);
    button.addEventListener("click", () => openInViewer(ids, index, button));
    item.append(button);
    return item;
  }));
  return list;
}

function altText(id) {
  const row = getRow(id);
  return row ? row.caption || row.name.split("/").at(-1) : t("pictureNumber", id);
}

onRows((ids) => {
  for (const id of ids) {
    for (const image of document.querySelectorAll(`[data-picture="${Number(id)}"] img`)) image.alt = altText(id);
  }
});
