// What the viewer shows of an album's picture: saving caption and keywords, metadata, similar pictures.

import { album, describe, details, markPictures, search } from "/page/albums.js";
import { clock } from "/page/grid.js";
import { createStrip } from "/page/groups.js";
import { t } from "/page/i18n.js";
import { showSimilar } from "/page/search.js";
import { currentPicture, runAction } from "/page/viewer.js";

const byId = (id) => document.getElementById(id);
const SIMILAR_COUNT = 12;

/** Renders everything for another picture. */
export async function renderDetails(picture) {
  const inAlbum = picture.id !== undefined;
  byId("savebar").hidden = byId("keywordfield").hidden = byId("ratingfield").hidden = !inAlbum || album.readOnly;
  byId("facts").hidden = !inAlbum;
  byId("likes").hidden = !album.name;
  byId("alllikes").hidden = !inAlbum;
  byId("savenote").textContent = "";
  byId("likelist").replaceChildren();
  if (inAlbum) renderMetadata(picture);
  if (album.name) renderSimilar(picture);
}

/** Enables the buttons that can be used. */
export function updateButtons(picture) {
  if (picture.id === undefined || album.readOnly) return;
  byId("save").disabled = picture.caption === picture.saved && byId("tags").value === byId("tags").dataset.saved;
  byId("intofile").disabled = !picture.caption.trim();
}

async function renderMetadata(picture) {
  byId("tags").value = byId("tags").dataset.saved = "";
  byId("factlist").replaceChildren();
  let row;
  try {
    row = await details(picture.id);
  } catch {
    return; // the picture can't be loaded either
  }
  if (picture !== currentPicture()) return;
  byId("tags").value = byId("tags").dataset.saved = row.own_tags.join(", ");
  const others = row.tags.filter((tag) => !row.own_tags.includes(tag));
  const size = `${row.width} × ${row.height}, ${(row.bytes / 1e6).toFixed(1)} MB`;
  const persons = row.tags.filter((tag) => tag.startsWith("person:")).map((tag) => tag.slice("person:".length));
  const facts = {
    file: row.copies.join(" · "),
    raw: row.raw.join(" · "),
    atTime: row.time === undefined ? "" : clock(row.time),
    taken: row.taken?.replace("T", " "),
    place: row.place,
    persons: persons.join(", "),
    camera: row.camera,
    size,
    label: row.label,
    text: row.text,
  };
  const words = others.filter((tag) => !tag.startsWith("person:"));
  if (words.length) facts.fileTags = words.join(", ");
  byId("stars").value = row.rating ?? "";
  for (const [name, value] of Object.entries(facts)) {
    if (!value) continue;
    const term = document.createElement("dt");
    term.textContent = t(name);
    const text = document.createElement("dd");
    text.textContent = value;
    byId("factlist").append(term, text);
  }
  updateButtons(picture);
}

async function renderSimilar(picture) {
  try {
    const like = picture.id === undefined ? { image: await picture.address() } : { like: picture.id };
    const results = await search({ ...like, top: SIMILAR_COUNT });
    if (picture !== currentPicture()) return;
    byId("likelist").replaceChildren(createStrip(results.map((row) => row.id), SIMILAR_COUNT));
  } catch {
    byId("likes").hidden = picture === currentPicture();
  }
}

byId("stars").addEventListener("change", ({ target }) => {
  if (target.value) runAction(target, (picture) => markPictures([picture.id], { rating: Number(target.value) }));
});

byId("tags").addEventListener("input", () => updateButtons(currentPicture()));

async function saveChanges(intoFile) {
  const picture = currentPicture();
  const tags = byId("tags").value.split(/[,，、;；]/).map((tag) => tag.trim()).filter(Boolean);
  const row = await describe(picture.id, { caption: picture.caption.trim(), tags, into_file: intoFile });
  picture.saved = picture.caption = row.caption ?? "";
  if (picture !== currentPicture()) return;
  byId("tags").value = byId("tags").dataset.saved = row.own_tags.join(", ");
  byId("savenote").textContent = t(intoFile ? "keptInFile" : "keptInAlbum");
}

byId("save").addEventListener("click", () => runAction(byId("save"), () => saveChanges(false)));
byId("intofile").addEventListener("click", () => runAction(byId("intofile"), () => saveChanges(true)));

byId("alllikes").addEventListener("click", () => {
  const { id } = currentPicture();
  byId("view").close();
  showSimilar(id);
  location.hash = "#/search";
});
