// The album as a grid: all pictures, or the results of a search, a filter, a group or an example picture.

import { album, getRow, pictureLayout, search, viewerPicture } from "/page/albums.js";
import { ApiError } from "/page/api.js";
import { Grid } from "/page/grid.js";
import { t } from "/page/i18n.js";
import { clearSelection, isSelected, selectionSize, toggleSelected } from "/page/selection.js";
import { markMonth, showTimeline } from "/page/timeline.js";
import { openViewer } from "/page/viewer.js";

const byId = (id) => document.getElementById(id);
const DEBOUNCE = 160; // milliseconds without typing before searching
const MAX_RESULTS = 500;
// The fields of the filter that can be picked, each with its operator.
const FIELDS = {
  year: ["date", ":"],
  camera: ["camera", ":"],
  tag: ["tag", ":"],
  format: ["format", ":"],
  rating: ["rating", ">="],
  label: ["label", ":"],
  person: ["person", ":"],
};

let activeRequest = null; // AbortController of the running search
let timer = null;
let example = null; // shown instead of the whole album: { words, ids } or { words, like }
let summary = () => ""; // text above the grid, in the current language

export const grid = new Grid(byId("albumgrid"), {
  headings: byId("monthheadings"),
  open: (index, event) => {
    if (selectionSize() || event.shiftKey) toggleSelected(index, event.shiftKey);
    else openInViewer(grid.ids, index);
  },
  toggle: toggleSelected,
  isSelected: (index) => isSelected(grid.ids[index]),
  above: byId("searchform"),
  moved: (index) => markMonth(grid.starts?.findLast((start) => start.index <= index)?.month),
});

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
  const { years, cameras, tags, formats, ratings, labels, persons } = album.facts;
  const stars = [5, 4, 3, 2, 1].filter((least) => ratings.some(([rating]) => rating >= least));
  const values = {
    year: years,
    camera: cameras,
    tag: tags.filter(([tag]) => !tag.startsWith("person:")),
    format: formats,
    rating: stars.map((least) => [String(least), ratings.reduce((sum, [rating, count]) => sum + (rating >= least ? count : 0), 0)]),
    label: labels,
    person: persons,
  };
  for (const [id, choices] of Object.entries(values)) {
    const select = byId(id);
    const [field, operator] = FIELDS[id];
    const now = new RegExp(`(?:^|\\s)${field}${operator}(?:"((?:[^"\\\\]|\\\\.)*)"|([^\\s()"]+))`).exec(byId("where").value);
    const value = now ? (now[1] ?? now[2]).replace(/\\(.)/g, "$1") : "";
    const all = document.createElement("option");
    all.value = "";
    all.textContent = t("any");
    select.replaceChildren(all, ...choices.map(([text, count]) => {
      const option = document.createElement("option");
      option.value = text;
      const words = id === "rating" ? t("starsAndMore", "★".repeat(Number(text))) : text;
      option.textContent = `${words} (${count.toLocaleString()})`;
      return option;
    }));
    select.value = value;
    if (select.selectedIndex < 0) select.selectedIndex = 0;
    select.disabled = !choices.length;
    select.closest("label").hidden = !choices.length && ["rating", "label", "person"].includes(id);
  }
  byId("example").hidden = !example;
  byId("examplewords").textContent = example ? example.words() : "";
  byId("found").textContent = summary();
}

for (const [id, [field, operator]] of Object.entries(FIELDS)) {
  byId(id).addEventListener("change", ({ target }) => {
    const others = byId("where").value.replace(new RegExp(`(^|\\s)${field}${operator}("(?:[^"\\\\]|\\\\.)*"|[^\\s()"]+)`), "$1");
    const term = target.value ? `${field}${operator}"${target.value.replace(/["\\]/g, "\\$&")}"` : "";
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
      const shown = fits.length ? fits : results;
      show({ ids: shown.map((row) => row.id), ratios: shown.map((row) => (100 * row.width) / row.height) });
    } else {
      const order = byId("order").value;
      let layout = await pictureLayout(where, order, controller.signal);
      if (example?.ids) layout = among(example.ids, layout);
      const { ids } = layout;
      summary = () => (ids.length === 1 ? t("one") : t("many", ids.length.toLocaleString()));
      const dated = order !== "path" && !example?.ids && layout.months.some(([month]) => month);
      show({ ids, ratios: layout.ratios, months: dated ? layout.months : null });
    }
  } catch (error) {
    if (error.name === "AbortError") return;
    if (error instanceof ApiError && error.code === "invalid_filter") byId("where").setAttribute("aria-invalid", "true");
    byId("whereerror").textContent = error instanceof ApiError ? error.message : t("gone");
    byId("whereerror").hidden = false;
  }
}

/** Returns the layout of some pictures, in their own order, of those that are in a layout. */
function among(ids, layout) {
  const ratios = new Map(layout.ids.map((id, index) => [id, layout.ratios[index]]));
  const kept = ids.filter((id) => ratios.has(id));
  return { ids: kept, ratios: kept.map((id) => ratios.get(id)) };
}

function show({ ids, ratios, months = null }) {
  clearSelection();
  renderFilters();
  showTimeline([], () => {});
  grid.show(ids, ratios, months);
  showTimeline(months ? grid.starts : [], (month) => grid.goToMonth(month));
  grid.draw();
}
