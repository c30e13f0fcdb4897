// The album as a grid: all pictures, or the results of a search, a filter, a group or an example picture.

import { album, getRow, pictureIds, search, viewerPicture } from "/page/albums.js";
import { ApiError } from "/page/api.js";
import { Grid } from "/page/grid.js";
import { t } from "/page/i18n.js";
import { openViewer } from "/page/viewer.js";

const byId = (id) => document.getElementById(id);
const DEBOUNCE = 160; // milliseconds without typing before searching
const MAX_RESULTS = 500;
const FIELDS = { year: "date", camera: "camera", tag: "tag", format: "format" };

let activeRequest = null; // AbortController of the running search
let timer = null;
let example = null; // shown instead of the whole album: { words, ids } or { words, like }
let summary = () => ""; // text above the grid, in the current language

export const grid = new Grid(byId("albumgrid"), (index) => openInViewer(grid.ids, index), byId("searchform"));

/** Opens a picture in the viewer, which pages through the ids; focus returns to the opener. */
export async function openInViewer(ids, start, opener) {
  let index = start;
  openViewer(
    await viewerPicture(ids[index]),
    async (by) => (ids[index + by] === undefined ? null : viewerPicture(ids[(index += by)])),
    () => (opener ? opener.focus() : grid.go(index)),
  );
}

/** Shows a given set of pictures, such as a group. */
export function showCollection(words, ids) {
  example = { words, ids };
  byId("query").value = "";
  byId("where").value = "";
  renderFilters();
  runSearch();
}

/** Searches for pictures similar to one of the album. */
export function showSimilar(id) {
  example = { words: () => t("likePicture", getRow(id)?.name.split("/").at(-1) ?? id), like: id };
  byId("query").value = "";
  runSearch();
}

/** Applies a filter. */
export function showFilter(where) {
  example = null;
  byId("query").value = "";
  byId("where").value = where;
  byId("filters").open = true;
  renderFilters();
  runSearch();
}

/** Renders the filter options, for a new album or in another language. */
export function renderFilters() {
  const { years, cameras, tags, formats } = album.facts;
  for (const [id, values] of Object.entries({ year: years, camera: cameras, tag: tags, format: formats })) {
    const select = byId(id);
    const now = new RegExp(`(?:^|\\s)${FIELDS[id]}:(?:"((?:[^"\\\\]|\\\\.)*)"|([^\\s()"]+))`).exec(byId("where").value);
    const value = now ? (now[1] ?? now[2]).replace(/\\(.)/g, "$1") : "";
    const all = document.createElement("option");
    all.value = "";
    all.textContent = t("any");
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
  byId("example").hidden = !example;
  byId("examplewords").textContent = example ? example.words() : "";
  byId("found").textContent = summary();
}

for (const [id, field] of Object.entries(FIELDS)) {
  byId(id).addEventListener("change", ({ target }) => {
    const others = byId("where").value.replace(new RegExp(`(^|\\s)${field}:("(?:[^"\\\\]|\\\\.)*"|[^\\s()"]+)`), "$1");
    const term = target.value ? `${field}:"${target.value.replace(/["\\]/g, "\\$&")}"` : "";
    byId("where").value = `${others.trim()} ${term}`.trim();
    runSearch();
  });
}

byId("order").addEventListener("change", () => runSearch());
byId("where").addEventListener("input", () => scheduleSearch());
byId("where").addEventListener("change", () => renderFilters());
byId("query").addEventListener("input", () => scheduleSearch());
byId("searchform").addEventListener("submit", (event) => {
  event.preventDefault();
  runSearch();
});
byId("noexample").addEventListener("click", () => {
  example = null;
  runSearch();
  byId("query").focus();
});

addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.target.matches("input, textarea, select") || byId("view").open || !album.name) return;
  event.preventDefault();
  location.hash = "#/search";
  setTimeout(() => byId("query").focus()); // once that section is visible
});

function scheduleSearch() {
  clearTimeout(timer);
  timer = setTimeout(runSearch, DEBOUNCE);
}

/** Runs the search with the current inputs; aborts the previous one. */
export async function runSearch() {
  clearTimeout(timer);
  activeRequest?.abort();
  const controller = (activeRequest = new AbortController());
  const text = byId("query").value.trim();
  const where = byId("where").value.trim();
  byId("where").removeAttribute("aria-invalid");
  byId("whereerror").hidden = true;
  byId("order").disabled = Boolean(text || example);
  try {
    if (text || example?.like) {
      const query = { top: MAX_RESULTS, ...(text && { query: text }), ...(where && { where }) };
      if (example?.like) query.like = example.like;
      const results = await search(query, controller.signal);
      const fits = results.filter((row) => row.fits || !text);
      summary = () => {
        if (!results.length) return t("foundNone");
        return fits.length ? t("foundFit", fits.length.toLocaleString()) : t("foundNearest");
      };
      show((fits.length ? fits : results).map((row) => row.id));
    } else if (example?.ids) {
      const among = where ? new Set(await pictureIds(where, byId("order").value, controller.signal)) : null;
      const ids = among ? example.ids.filter((id) => among.has(id)) : example.ids;
      summary = () => (ids.length === 1 ? t("one") : t("many", ids.length.toLocaleString()));
      show(ids);
    } else {
      const ids = await pictureIds(where, byId("order").value, controller.signal);
      summary = () => (ids.length === 1 ? t("one") : t("many", ids.length.toLocaleString()));
      show(ids);
    }
  } catch (error) {
    if (error.name === "AbortError") return;
    if (error instanceof ApiError && error.code === "invalid_filter") byId("where").setAttribute("aria-invalid", "true");
    byId("whereerror").textContent = error instanceof ApiError ? error.message : t("gone");
    byId("whereerror").hidden = false;
  }
}

function show(ids) {
  renderFilters();
  grid.show(ids);
}
