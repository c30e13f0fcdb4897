// Near-duplicates to review: which picture to keep, and which to tag as duplicates.

import { album, describe, details, duplicates, getRow, imageURL } from "/page/albums.js";
import { ApiError } from "/page/api.js";
import { t } from "/page/i18n.js";
import { openInViewer, showFilter } from "/page/search.js";

const byId = (id) => document.getElementById(id);
const PAGE_SIZE = 20; // groups shown initially, and added by "More"
const DUPLICATE_TAG = "duplicate"; // tag of redundant pictures; nothing is ever deleted from here
const DISTINCT_TAG = "no duplicate"; // tag of pictures that only look alike
let results = null;
let activeRequest = null;
let visibleGroups = PAGE_SIZE;

/** Loads duplicates, unless they are loaded. */
export async function openDuplicates() {
  if (results || activeRequest) return;
  const controller = (activeRequest = new AbortController());
  byId("duplicatesnote").textContent = t("lookingForDuplicates");
  try {
    results = await duplicates(controller.signal);
    visibleGroups = PAGE_SIZE;
    renderDuplicates();
  } catch (error) {
    if (error.name === "AbortError") return;
    byId("duplicatesnote").textContent = error instanceof ApiError ? error.message : t("gone");
  }
  activeRequest = null;
}

/** Resets the section for another album. */
export function resetDuplicates() {
  activeRequest?.abort();
  results = activeRequest = null;
  byId("duplicates").replaceChildren();
}

const tags = (row) => getRow(row.id)?.tags ?? row.tags;

/** Returns whether a group has been reviewed. */
function isResolved({ pictures }) {
  if (pictures.length < 2) return false;
  const marked = pictures.filter((row) => tags(row).includes(DUPLICATE_TAG)).length;
  return marked >= pictures.length - 1 || pictures.every((row) => tags(row).includes(DISTINCT_TAG));
}

/** Renders the groups that have not been reviewed. */
export function renderDuplicates() {
  if (!results) return;
  const open = results.filter((group) => !isResolved(group));
  byId("duplicatesnote").textContent = open.length ? t("duplicateGroups", open.length) : t("noDuplicates");
  byId("duplicates").replaceChildren(...open.slice(0, visibleGroups).map(renderGroup));
  byId("moreduplicates").hidden = open.length <= visibleGroups;
  byId("marked").hidden = !results.some(({ pictures }) => pictures.some((row) => tags(row).includes(DUPLICATE_TAG)));
}

byId("moreduplicates").addEventListener("click", () => {
  visibleGroups += PAGE_SIZE;
  renderDuplicates();
  byId("duplicates").children[visibleGroups - PAGE_SIZE]?.querySelector("button, input")?.focus();
});

byId("marked").addEventListener("click", () => {
  showFilter(`tag:${DUPLICATE_TAG}`);
  location.hash = "#/search";
});

function renderGroup(group, number) {
  const form = document.createElement("form");
  const set = document.createElement("fieldset");
  const legend = document.createElement("legend");
  legend.textContent = t(group.kind === "similar" ? "similarGroup" : group.kind, group.pictures.length > 1 ? group.pictures.length : group.copies.length);
  const list = document.createElement("ul");
  list.className = "alike";
  const ids = group.pictures.map((row) => row.id);
  list.append(...group.pictures.map((row, index) => renderRow(row, index, ids, `keep${number}`)));
  set.append(legend, list);
  if (group.pictures.length === 1) {
    const copies = document.createElement("p");
    copies.className = "soft";
    copies.textContent = t("copiesAt", group.copies.join(" · "));
    set.append(copies);
  } else if (!album.readOnly) {
    const mark = document.createElement("button");
    mark.type = "submit";
    mark.textContent = t("markOthers");
    const distinct = document.createElement("button");
    distinct.type = "button";
    distinct.textContent = t("differentAll");
    const row = document.createElement("div");
    row.className = "row";
    row.append(mark, distinct);
    set.append(row);
    distinct.addEventListener("click", () => resolveGroup(form, ids, () => DISTINCT_TAG));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const kept = Number(new FormData(form).get(`keep${number}`));
      resolveGroup(form, ids, (id) => (id === kept ? null : DUPLICATE_TAG));
    });
  }
  form.append(set);
  return form;
}

function renderRow(row, index, ids, name) {
  const item = document.createElement("li");
  const button = document.createElement("button");
  button.type = "button";
  button.className = "small";
  const image = document.createElement("img");
  image.loading = "lazy";
  image.src = imageURL(row.id);
  image.alt = row.caption || row.name.split("/").at(-1);
  button.append(image);
  button.addEventListener("click", () => openInViewer(ids, index, button));
  const label = document.createElement("label");
  const keep = document.createElement("input");
  keep.type = "radio";
  keep.name = name;
  keep.value = row.id;
  keep.checked = index === 0;
  const words = document.createElement("span");
  words.textContent = ids.length > 1 && !album.readOnly ? t("keepThis", row.name.split("/").at(-1)) : row.name;
  if (ids.length > 1 && !album.readOnly) label.append(keep);
  label.append(words);
  const size = document.createElement("span");
  size.className = "soft";
  size.textContent = `${row.width} × ${row.height}${row.taken ? `, ${row.taken.replace("T", " ")}` : ""}`;
  item.append(button, label, size);
  return item;
}

/** Tags the pictures of a group and moves on to the next group. */
async function resolveGroup(form, ids, tagOf) {
  for (const button of form.querySelectorAll("button")) button.disabled = true;
  try {
    for (const id of ids) {
      const others = (await details(id)).own_tags.filter((tag) => tag !== DUPLICATE_TAG && tag !== DISTINCT_TAG);
      const tag = tagOf(id);
      await describe(id, { tags: tag ? [...others, tag] : others });
    }
  } catch (error) {
    byId("duplicatesnote").textContent = error instanceof ApiError ? error.message : t("gone");
    for (const button of form.querySelectorAll("button")) button.disabled = false;
    return;
  }
  const index = [...byId("duplicates").children].indexOf(form);
  renderDuplicates();
  const next = byId("duplicates").children[index] ?? byId("duplicates").lastElementChild;
  (next?.querySelector("input, button") ?? byId("duplicatesnote")).focus();
}
