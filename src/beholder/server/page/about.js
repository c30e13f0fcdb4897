// What the album adds to a picture: keeping its caption and keywords, facts about it, and its likes.

import { album, describe, details, search } from "/page/albums.js";
import { strip } from "/page/groups.js";
import { showLike } from "/page/search.js";
import { attempt, shownPicture } from "/page/view.js";
import { say } from "/page/words.js";

const at = (id) => document.getElementById(id);
const LIKES = 12;

/** Shows all of it for another picture. */
export async function drawAbout(picture) {
  const inAlbum = picture.id !== undefined;
  at("keeping").hidden = at("keywording").hidden = !inAlbum || album.readOnly;
  at("facts").hidden = !inAlbum;
  at("likes").hidden = !album.name;
  at("alllikes").hidden = !inAlbum;
  at("keptnote").textContent = "";
  at("likelist").replaceChildren();
  if (inAlbum) drawFacts(picture);
  if (album.name) drawLikes(picture);
}

/** Which buttons can be used now. */
export function fillAbout(picture) {
  if (picture.id === undefined || album.readOnly) return;
  at("keep").disabled = picture.caption === picture.saved && at("tags").value === at("tags").dataset.saved;
  at("intofile").disabled = !picture.caption.trim();
}

async function drawFacts(picture) {
  at("tags").value = at("tags").dataset.saved = "";
  at("factlist").replaceChildren();
  let row;
  try {
    row = await details(picture.id);
  } catch {
    return; // the picture itself will not be there either
  }
  if (picture !== shownPicture()) return;
  at("tags").value = at("tags").dataset.saved = row.own_tags.join(", ");
  const others = row.tags.filter((tag) => !row.own_tags.includes(tag));
  const size = `${row.width} × ${row.height}, ${(row.bytes / 1e6).toFixed(1)} MB`;
  const facts = { file: row.copies.join(" · "), taken: row.taken?.replace("T", " "), camera: row.camera, size };
  if (others.length) facts.fileTags = others.join(", ");
  for (const [name, value] of Object.entries(facts)) {
    if (!value) continue;
    const term = document.createElement("dt");
    term.textContent = say(name);
    const text = document.createElement("dd");
    text.textContent = value;
    at("factlist").append(term, text);
  }
  fillAbout(picture);
}

async function drawLikes(picture) {
  try {
    const like = picture.id === undefined ? { image: await picture.address() } : { like: picture.id };
    const found = await search({ ...like, top: LIKES });
    if (picture !== shownPicture()) return;
    at("likelist").replaceChildren(strip(found.map((row) => row.id), LIKES));
  } catch {
    at("likes").hidden = picture === shownPicture();
  }
}

at("tags").addEventListener("input", () => fillAbout(shownPicture()));

async function keep(intoFile) {
  const picture = shownPicture();
  const tags = at("tags").value.split(/[,，、;；]/).map((tag) => tag.trim()).filter(Boolean);
  const row = await describe(picture.id, { caption: picture.caption.trim(), tags, into_file: intoFile });
  picture.saved = picture.caption = row.caption ?? "";
  if (picture !== shownPicture()) return;
  at("tags").value = at("tags").dataset.saved = row.own_tags.join(", ");
  at("keptnote").textContent = say(intoFile ? "keptInFile" : "keptInAlbum");
}

at("keep").addEventListener("click", () => attempt(at("keep"), () => keep(false)));
at("intofile").addEventListener("click", () => attempt(at("intofile"), () => keep(true)));

at("alllikes").addEventListener("click", () => {
  const { id } = shownPicture();
  at("view").close();
  showLike(id);
  location.hash = "#/search";
});
