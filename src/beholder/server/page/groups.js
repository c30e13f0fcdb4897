// Pictures that go together, a strip of each group.

import { groups, known, onRows, shown, want } from "/page/albums.js";
import { openFrom, showOnly } from "/page/search.js";
import { Refused } from "/page/server.js";
import { say } from "/page/words.js";

const at = (id) => document.getElementById(id);
const STRIP = 8; // pictures of a group
let found = null;
let under = null;

/** Has groups made, unless they are there. */
export function openGroups() {
  if (!found && !under) make();
}

/** Another album is on display. */
export function forgetGroups() {
  under?.abort();
  found = under = null;
  at("groups").replaceChildren();
}

/** In another language. */
export function drawGroups() {
  if (!found) return;
  at("groups").replaceChildren(...found.map(drawn));
  at("groupsnote").textContent = say("groupsMade", found.length);
  want(found.flatMap((group) => group.ids.slice(0, STRIP)));
}

at("groupform").addEventListener("submit", (event) => {
  event.preventDefault();
  make();
});

async function make() {
  under?.abort();
  const mine = (under = new AbortController());
  at("groupsnote").textContent = say("makingGroups");
  at("groupsnote").setAttribute("aria-busy", "true");
  const keywords = at("keywords").value.split(/[,，、;；]/).map((word) => word.trim()).filter(Boolean);
  try {
    const asked = Number(at("clusters").value) || null;
    found = (await groups(asked, [...new Set(keywords)], mine.signal)).data;
    drawGroups();
  } catch (error) {
    if (error.name === "AbortError") return;
    at("groupsnote").textContent = error instanceof Refused ? error.message : say("gone");
  }
  under = null;
  at("groupsnote").removeAttribute("aria-busy");
}

function drawn(group) {
  const section = document.createElement("section");
  const bar = document.createElement("div");
  bar.className = "bar";
  const title = document.createElement("h3");
  const name = group.number < 0 ? say("inNoGroup") : group.name;
  title.textContent = `${name} (${group.ids.length.toLocaleString()})`;
  title.id = `group${group.number}`;
  section.setAttribute("aria-labelledby", title.id);
  const all = document.createElement("button");
  all.type = "button";
  all.textContent = say("showAll");
  all.setAttribute("aria-describedby", title.id);
  all.addEventListener("click", () => {
    showOnly(() => say("groupNamed", group.number < 0 ? say("inNoGroup") : group.name), group.ids);
    location.hash = "#/search";
  });
  bar.append(title, all);
  section.append(bar, strip(group.ids, STRIP));
  const others = group.keywords.filter((word) => word !== group.name);
  if (others.length) {
    const also = document.createElement("p");
    also.className = "soft";
    also.textContent = say("alsoFits", others.join(", "));
    bar.after(also);
  }
  return section;
}

/** A row of small pictures that open; the rest of them follow by the arrows. */
export function strip(ids, most) {
  const list = document.createElement("ul");
  list.className = "strip";
  list.append(...ids.slice(0, most).map((id, place) => {
    const item = document.createElement("li");
    const button = document.createElement("button");
    button.type = "button";
    button.className = "small";
    button.dataset.picture = id;
    const image = document.createElement("img");
    image.loading = "lazy";
    image.src = shown(id);
    image.alt = named(id);
    button.append(image);
    button.addEventListener("click", () => openFrom(ids, place, button));
    item.append(button);
    return item;
  }));
  return list;
}

function named(id) {
  const row = known(id);
  return row ? row.caption || row.name.split("/").at(-1) : say("pictureNumber", id);
}

onRows((ids) => {
  for (const id of ids) {
    for (const image of document.querySelectorAll(`[data-picture="${Number(id)}"] img`)) image.alt = named(id);
  }
});
