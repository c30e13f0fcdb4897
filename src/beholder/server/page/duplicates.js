// Pictures that are nearly the same, to be looked through: which one stays, and which are marked in the album.

import { album, details, describe, duplicates, known, shown } from "/page/albums.js";
import { openFrom, showWhere } from "/page/search.js";
import { Refused } from "/page/server.js";
import { say } from "/page/words.js";

const at = (id) => document.getElementById(id);
const PAGE = 20; // groups that are shown at first, and with each "more"
const MARK = "duplicate"; // the tag of those that may go; nothing is ever deleted from here
const APART = "no duplicate"; // and of those that only look alike
let found = null;
let under = null;
let most = PAGE;

/** Has duplicates looked for, unless they were. */
export async function openDuplicates() {
  if (found || under) return;
  const mine = (under = new AbortController());
  at("duplicatesnote").textContent = say("lookingForDuplicates");
  try {
    found = await duplicates(mine.signal);
    most = PAGE;
    drawDuplicates();
  } catch (error) {
    if (error.name === "AbortError") return;
    at("duplicatesnote").textContent = error instanceof Refused ? error.message : say("gone");
  }
  under = null;
}

/** Another album is on display. */
export function forgetDuplicates() {
  under?.abort();
  found = under = null;
  at("duplicates").replaceChildren();
}

const tags = (row) => known(row.id)?.tags ?? row.tags;

/** Whether somebody has decided about a group. */
function settled({ pictures }) {
  if (pictures.length < 2) return false;
  const marked = pictures.filter((row) => tags(row).includes(MARK)).length;
  return marked >= pictures.length - 1 || pictures.every((row) => tags(row).includes(APART));
}

/** Draws the groups that nobody has decided about. */
export function drawDuplicates() {
  if (!found) return;
  const open = found.filter((group) => !settled(group));
  at("duplicatesnote").textContent = open.length ? say("duplicateGroups", open.length) : say("noDuplicates");
  at("duplicates").replaceChildren(...open.slice(0, most).map(drawn));
  at("moreduplicates").hidden = open.length <= most;
  at("marked").hidden = !found.some(({ pictures }) => pictures.some((row) => tags(row).includes(MARK)));
}

at("moreduplicates").addEventListener("click", () => {
  most += PAGE;
  drawDuplicates();
  at("duplicates").children[most - PAGE]?.querySelector("button, input")?.focus();
});

at("marked").addEventListener("click", () => {
  showWhere(`tag:${MARK}`);
  location.hash = "#/search";
});

function drawn(group, number) {
  const form = document.createElement("form");
  const set = document.createElement("fieldset");
  const legend = document.createElement("legend");
  legend.textContent = say(group.kind === "similar" ? "similarGroup" : group.kind, group.pictures.length > 1 ? group.pictures.length : group.copies.length);
  const list = document.createElement("ul");
  list.className = "alike";
  const ids = group.pictures.map((row) => row.id);
  list.append(...group.pictures.map((row, place) => shownRow(row, place, ids, `keep${number}`)));
  set.append(legend, list);
  if (group.pictures.length === 1) {
    const copies = document.createElement("p");
    copies.className = "soft";
    copies.textContent = say("copiesAt", group.copies.join(" · "));
    set.append(copies);
  } else if (!album.readOnly) {
    const mark = document.createElement("button");
    mark.type = "submit";
    mark.textContent = say("markOthers");
    const apart = document.createElement("button");
    apart.type = "button";
    apart.textContent = say("differentAll");
    const row = document.createElement("div");
    row.className = "row";
    row.append(mark, apart);
    set.append(row);
    apart.addEventListener("click", () => decide(form, ids, () => APART));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const kept = Number(new FormData(form).get(`keep${number}`));
      decide(form, ids, (id) => (id === kept ? null : MARK));
    });
  }
  form.append(set);
  return form;
}

function shownRow(row, place, ids, name) {
  const item = document.createElement("li");
  const button = document.createElement("button");
  button.type = "button";
  button.className = "small";
  const image = document.createElement("img");
  image.loading = "lazy";
  image.src = shown(row.id);
  image.alt = row.caption || row.name.split("/").at(-1);
  button.append(image);
  button.addEventListener("click", () => openFrom(ids, place, button));
  const label = document.createElement("label");
  const keep = document.createElement("input");
  keep.type = "radio";
  keep.name = name;
  keep.value = row.id;
  keep.checked = place === 0;
  const words = document.createElement("span");
  words.textContent = ids.length > 1 && !album.readOnly ? say("keepThis", row.name.split("/").at(-1)) : row.name;
  if (ids.length > 1 && !album.readOnly) label.append(keep);
  label.append(words);
  const size = document.createElement("span");
  size.className = "soft";
  size.textContent = `${row.width} × ${row.height}${row.taken ? `, ${row.taken.replace("T", " ")}` : ""}`;
  item.append(button, label, size);
  return item;
}

/** Puts one tag of ours on each picture, or none, and goes on to the next group. */
async function decide(form, ids, tagOf) {
  for (const button of form.querySelectorAll("button")) button.disabled = true;
  try {
    for (const id of ids) {
      const others = (await details(id)).own_tags.filter((tag) => tag !== MARK && tag !== APART);
      const tag = tagOf(id);
      await describe(id, { tags: tag ? [...others, tag] : others });
    }
  } catch (error) {
    at("duplicatesnote").textContent = error instanceof Refused ? error.message : say("gone");
    for (const button of form.querySelectorAll("button")) button.disabled = false;
    return;
  }
  const place = [...at("duplicates").children].indexOf(form);
  drawDuplicates();
  const next = at("duplicates").children[place] ?? at("duplicates").lastElementChild;
  (next?.querySelector("input, button") ?? at("duplicatesnote")).focus();
}
