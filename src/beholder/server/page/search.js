// The album as a grid: all of it, or what a search, a filter, a group or an example leaves of it.

import { album, known, numbers, search, subject } from "/page/albums.js";
import { Grid } from "/page/grid.js";
import { Refused } from "/page/server.js";
import { open } from "/page/view.js";
import { say } from "/page/words.js";

const at = (id) => document.getElementById(id);
const TYPING = 160; // milliseconds of rest before what is typed is looked for
const MOST = 500; // pictures that a search shows
const FIELDS = { year: "date", camera: "camera", tag: "tag", format: "format" };

let under = null; // the search that is under way
let timer = null;
let example = null; // what is shown in the place of all pictures: { words, ids } or { words, like }
let told = () => ""; // what is above the grid, in the language of the moment

export const grid = new Grid(at("albumgrid"), (place) => openFrom(grid.ids, place), at("searchform"));

/** Opens a picture among others, which the arrows lead to; in the end the keyboard is where it came from. */
export async function openFrom(ids, start, opener) {
  let place = start;
  open(
    await subject(ids[place]),
    async (by) => (ids[place + by] === undefined ? null : subject(ids[(place += by)])),
    () => (opener ? opener.focus() : grid.go(place)),
  );
}

/** Shows pictures that were found elsewhere, such as a group. */
export function showOnly(words, ids) {
  example = { words, ids };
  at("query").value = "";
  at("where").value = "";
  choices();
  look();
}

/** Looks for the likes of a picture of the album. */
export function showLike(id) {
  example = { words: () => say("likePicture", known(id)?.name.split("/").at(-1) ?? id), like: id };
  at("query").value = "";
  look();
}

/** Shows what a filter leaves. */
export function showWhere(where) {
  example = null;
  at("query").value = "";
  at("where").value = where;
  at("filters").open = true;
  choices();
  look();
}

/** Fills the choices of the filters, for a new album or in another language. */
export function choices() {
  const { years, cameras, tags, formats } = album.facts;
  for (const [id, values] of Object.entries({ year: years, camera: cameras, tag: tags, format: formats })) {
    const select = at(id);
    const now = new RegExp(`(?:^|\\s)${FIELDS[id]}:(?:"((?:[^"\\\\]|\\\\.)*)"|([^\\s()"]+))`).exec(at("where").value);
    const value = now ? (now[1] ?? now[2]).replace(/\\(.)/g, "$1") : "";
    const all = document.createElement("option");
    all.value = "";
    all.textContent = say("any");
    select.replaceChildren(all, ...values.map(([text, count]) => {
      const option = document.createElement("option");
      option.value = text;
      option.textContent = `${text} (${count.toLocaleString()})`;
      return option;
    }));
    select.value = value;
    if (select.selectedIndex < 0) select.selectedIndex = 0;
    select.disabled = !values.length;
  }
  at("example").hidden = !example;
  at("examplewords").textContent = example ? example.words() : "";
  at("found").textContent = told();
}

for (const [id, field] of Object.entries(FIELDS)) {
  at(id).addEventListener("change", ({ target }) => {
    const others = at("where").value.replace(new RegExp(`(^|\\s)${field}:("(?:[^"\\\\]|\\\\.)*"|[^\\s()"]+)`), "$1");
    const term = target.value ? `${field}:"${target.value.replace(/["\\]/g, "\\$&")}"` : "";
    at("where").value = `${others.trim()} ${term}`.trim();
    look();
  });
}

at("order").addEventListener("change", () => look());
at("where").addEventListener("input", () => later());
at("where").addEventListener("change", () => choices());
at("query").addEventListener("input", () => later());
at("searchform").addEventListener("submit", (event) => {
  event.preventDefault();
  look();
});
at("noexample").addEventListener("click", () => {
  example = null;
  look();
  at("query").focus();
});

addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.target.matches("input, textarea, select") || at("view").open || !album.name) return;
  event.preventDefault();
  location.hash = "#/search";
  setTimeout(() => at("query").focus()); // when that part is on display
});

function later() {
  clearTimeout(timer);
  timer = setTimeout(look, TYPING);
}

/** Looks for what is typed and chosen now; what was looked for before is called off. */
export async function look() {
  clearTimeout(timer);
  under?.abort();
  const mine = (under = new AbortController());
  const words = at("query").value.trim();
  const where = at("where").value.trim();
  at("where").removeAttribute("aria-invalid");
  at("wheretrouble").hidden = true;
  at("order").disabled = Boolean(words || example);
  try {
    if (words || example?.like) {
      const asked = { top: MOST, ...(words && { query: words }), ...(where && { where }) };
      if (example?.like) asked.like = example.like;
      const found = await search(asked, mine.signal);
      const fits = found.filter((row) => row.fits || !words);
      told = () => {
        if (!found.length) return say("foundNone");
        return fits.length ? say("foundFit", fits.length.toLocaleString()) : say("foundNearest");
      };
      show((fits.length ? fits : found).map((row) => row.id));
    } else if (example?.ids) {
      const among = where ? new Set(await numbers(where, at("order").value, mine.signal)) : null;
      const ids = among ? example.ids.filter((id) => among.has(id)) : example.ids;
      told = () => (ids.length === 1 ? say("one") : say("many", ids.length.toLocaleString()));
      show(ids);
    } else {
      const ids = await numbers(where, at("order").value, mine.signal);
      told = () => (ids.length === 1 ? say("one") : say("many", ids.length.toLocaleString()));
      show(ids);
    }
  } catch (error) {
    if (error.name === "AbortError") return;
    if (error instanceof Refused && error.message.startsWith("the filter")) at("where").setAttribute("aria-invalid", "true");
    at("wheretrouble").textContent = error instanceof Refused ? error.message : say("gone");
    at("wheretrouble").hidden = false;
  }
}

function show(ids) {
  choices();
  grid.show(ids);
}
