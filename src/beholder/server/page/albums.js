// The served albums: their contents, and their pictures by id.

import { put, remove, request } from "/page/api.js";

const BATCH_SIZE = 100; // pictures per request
const MAX_CACHED_ROWS = 4000;
const DEFAULT_KIND = "thumbnail";

export const album = { name: null, facts: null, readOnly: false };
const rows = new Map(); // id → row; rows are replaced, never modified
const viewerPictures = new Map(); // id → picture as the viewer shows it, with its conversation and edits
const requestedIds = new Set();
const listeners = new Set();
let fetching = null;
let requestedAlbum = null; // the album selected last

const path = (rest = "", name = album.name) => `/v1/albums/${encodeURIComponent(name)}${rest}`;

/** Registers a listener that is called with the ids of rows that were loaded or changed. */
export function onRows(action) {
  listeners.add(action);
}

/** Returns the names of all albums. */
export async function listAlbums() {
  const { data, read_only: readOnly } = await request("/v1/albums");
  album.readOnly = readOnly;
  return data.map(({ id }) => id);
}

/** Selects an album once its facets are loaded; returns false if another was selected meanwhile. */
export async function selectAlbum(name) {
  requestedAlbum = name;
  const facts = await request(path("", name));
  if (requestedAlbum !== name) return false;
  Object.assign(album, { name, facts });
  rows.clear();
  viewerPictures.clear();
  requestedIds.clear();
  return true;
}

/** Reloads the facets of the album. */
export async function refreshFacets() {
  album.facts = await request(path());
}

/** Returns the URL of a picture for an `img`. */
export function imageURL(id, kind = DEFAULT_KIND) {
  return path(`/pictures/${id}/${kind}`);
}

/** Returns a row if it is loaded. */
export function getRow(id) {
  return rows.get(id);
}

/** Caches rows that came with another response, such as search results. */
export function cacheRows(some) {
  for (const row of some) rows.set(row.id, row);
  while (rows.size > MAX_CACHED_ROWS) rows.delete(rows.keys().next().value);
}

/** Loads rows in batches; `onRows` listeners are called as they arrive. */
export function requestRows(ids) {
  requestedIds.clear(); // earlier requests have scrolled out of view
  for (const id of ids) if (!rows.has(id)) requestedIds.add(id);
  if (requestedIds.size && !fetching) fetching = fetchRows().finally(() => { fetching = null; });
}

async function fetchRows() {
  while (requestedIds.size) {
    const some = [...requestedIds].slice(0, BATCH_SIZE);
    const name = album.name;
    let data = [];
    try {
      ({ data } = await request(path(`/pictures?ids=${some.join(",")}`)));
    } catch {
      return; // they are requested again when they scroll into view
    }
    if (name !== album.name) return;
    for (const id of some) requestedIds.delete(id);
    cacheRows(data);
    for (const listener of listeners) listener(some);
  }
}

/** Returns the ids of all pictures that match a filter, their proportions, and the months in which they were taken. */
export function pictureLayout(where, order, signal) {
  const query = new URLSearchParams({ where, order, layout: true });
  return request(path(`/ids?${query}`), undefined, signal);
}

/** Returns the pictures that best match a text, a picture of the album or another picture. */
export async function search(query, signal) {
  const { data } = await request("/v1/search", { album: album.name, ...query }, signal);
  cacheRows(data);
  return data;
}

/** Returns clusters of similar pictures. */
export function groups(clusters, keywords, signal) {
  return request(path("/groups"), { clusters, keywords }, signal);
}

/** Returns groups of near-duplicates. */
export async function duplicates(signal) {
  const results = (await request(path("/duplicates"), undefined, signal)).data;
  for (const group of results) cacheRows(group.pictures);
  return results;
}

/** Returns the positions of the pictures on the map. */
export function map(signal) {
  return request(path("/map"), undefined, signal);
}

/** Returns all metadata of one picture. */
export async function details(id) {
  const row = await request(path(`/pictures/${id}`));
  cacheRows([row]);
  return row;
}

/** Saves caption and tags by hand; `into_file` writes the caption into the file, too. */
export async function describe(id, changes) {
  const row = await put(path(`/pictures/${id}`), changes);
  cacheRows([row]);
  for (const listener of listeners) listener([id]);
  if (changes.tags) await refreshFacets();
  return row;
}

const MAX_MARKED = 20_000; // pictures per request

/** Rates, labels or tags pictures; returns how many were changed. */
export async function markPictures(ids, changes) {
  let changed = 0;
  for (let start = 0; start < ids.length; start += MAX_MARKED) {
    const some = ids.slice(start, start + MAX_MARKED);
    changed += (await request(path("/marks"), { ids: some, ...changes })).changed;
  }
  await forgetRows(ids);
  return changed;
}

/** Drops cached rows that have changed; visible ones are loaded again. */
async function forgetRows(ids) {
  for (const id of ids) rows.delete(id);
  await refreshFacets();
}

/** Returns the folders that may be added to albums, or those below one of them. */
export async function listFolders(parent) {
  return (await request(`/v1/folders?${new URLSearchParams({ parent })}`)).data;
}

/** Starts to add folders to the album, or to update it. */
export function startIndexing(folders) {
  return request(path("/index"), { folders });
}

/** Returns the progress of the index run. */
export function indexingProgress() {
  return request(path("/index"));
}

/** Stops the index run. */
export function stopIndexing() {
  return remove(path("/index"));
}

/** Forgets what is known of all pictures, after the album was indexed. */
export async function reloadAlbum() {
  rows.clear();
  viewerPictures.clear();
  await refreshFacets();
}

/** Returns a picture of the album for the viewer. */
export async function viewerPicture(id) {
  const row = rows.get(id) ?? (await details(id));
  if (!viewerPictures.has(id)) {
    const url = `album:${album.name}/${id}`;
    viewerPictures.set(id, {
      id,
      name: row.name,
      caption: row.caption ?? "",
      saved: row.caption ?? "",
      error: "",
      busy: false,
      messages: [],
      attention: null,
      labels: null,
      source: imageURL(id, "view"),
      address: async () => url,
      changed: () => {},
    });
  }
  return viewerPictures.get(id);
}
