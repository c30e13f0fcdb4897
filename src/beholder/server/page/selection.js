// A selection of pictures: ratings, labels and keywords for many at once.

import { album, markPictures } from "/page/albums.js";
import { ApiError } from "/page/api.js";
import { t } from "/page/i18n.js";

const byId = (id) => document.getElementById(id);
const selected = new Set(); // ids
let grid = null;
let anchor = 0; // index selected last, from which a range extends
let onMarked = () => {};

/** Connects the selection with the grid; `marked` is called after pictures were changed. */
export function connectSelection(connected, marked) {
  grid = connected;
  onMarked = marked;
}

/** Returns whether a picture is selected. */
export function isSelected(id) {
  return selected.has(id);
}

/** Returns the number of selected pictures. */
export function selectionSize() {
  return selected.size;
}

/** Selects or deselects a picture of the grid; with `range`, all from the one before. */
export function toggleSelected(index, range) {
  if (album.readOnly) return;
  const select = !selected.has(grid.ids[index]);
  const [from, to] = range ? [Math.min(anchor, index), Math.max(anchor, index)] : [index, index];
  for (const id of grid.ids.slice(from, to + 1)) {
    if (select || range) selected.add(id);
    else selected.delete(id);
  }
  anchor = index;
  renderSelection();
  grid.showSelection();
}

/** Deselects all. */
export function clearSelection() {
  if (!selected.size) return;
  selected.clear();
  renderSelection();
  grid.showSelection();
}

/** Shows how many pictures are selected. */
export function renderSelection() {
  byId("selection").hidden = !selected.size;
  byId("selectioncount").textContent = t("selected", selected.size.toLocaleString());
  if (!selected.size) byId("selectionnote").textContent = "";
}

async function apply(changes) {
  const note = byId("selectionnote");
  for (const control of byId("selection").querySelectorAll("button, select, input")) control.disabled = true;
  try {
    const changed = await markPictures([...selected], changes);
    note.textContent = t("marked", changed.toLocaleString());
    await onMarked();
  } catch (error) {
    note.textContent = error instanceof ApiError ? error.message : t("gone");
  }
  for (const control of byId("selection").querySelectorAll("button, select, input")) control.disabled = false;
  byId("bulkrating").value = byId("bulklabel").value = "";
}

const words = () => [...new Set(byId("bulktags").value.split(/[,，、;；]/).map((word) => word.trim()).filter(Boolean))];

byId("bulkrating").addEventListener("change", ({ target }) => {
  if (target.value) apply({ rating: Number(target.value) });
});
byId("bulklabel").addEventListener("change", ({ target }) => {
  if (target.value) apply({ label: target.value === "none" ? "" : target.value });
});
byId("bulkform").addEventListener("submit", (event) => {
  event.preventDefault();
  if (words().length) apply({ add_tags: words() });
  else byId("bulktags").focus();
});
byId("bulkremove").addEventListener("click", () => {
  if (words().length) apply({ remove_tags: words() });
  else byId("bulktags").focus();
});
byId("selectall").addEventListener("click", () => {
  for (const id of grid.ids) selected.add(id);
  renderSelection();
  grid.showSelection();
});
byId("deselect").addEventListener("click", () => {
  clearSelection();
  grid.go(grid.active);
});
