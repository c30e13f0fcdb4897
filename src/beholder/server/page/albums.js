// The albums that the server has: what is in them, and their pictures by number.

import { ask, put } from "/page/server.js";

const AT_ONCE = 100; // pictures asked for in one request
const KEPT = 4000; // rows that stay in memory
const FORM = "thumbnail";

export const album = { name: null, facts: null, readOnly: false };
const rows = new Map(); // number → row; a row is never changed, but put in the place of another
const subjects = new Map(); // number → what is on display, with its conversation and what was typed
const wanted = new Set();
const listeners = new Set();
let waiting = null;
let wish = null; // the album that was asked for last

const path = (rest = "", name = album.name) => `/v1/albums/${encodeURIComponent(name)}${rest}`;

/** Calls an action with the numbers of rows that have come or changed. */
export function onRows(action) {
  listeners.add(action);
}

/** The names of all albums; the first is chosen. */
export async function albums() {
  const { data, read_only: readOnly } = await ask("/v1/albums");
  album.readOnly = readOnly;
  return data.map(({ id }) => id);
}

/** Takes an album, all at once when it is known what is in it; false where another was asked for meanwhile. */
export async function choose(name) {
  wish = name;
  const facts = await ask(path("", name));
  if (wish !== name) return false;
  Object.assign(album, { name, facts });
  rows.clear();
  subjects.clear();
  wanted.clear();
  return true;
}

/** Counts anew what there is in the album. */
export async function count() {
  album.facts = await ask(path());
}

/** The address of a picture in an `img`. */
export function shown(id, form = FORM) {
  return path(`/pictures/${id}/${form}`);
}

/** A row, if it is here. */
export function known(id) {
  return rows.get(id);
}

/** Rows that came with something else, such as a search. */
export function keep(some) {
  for (const row of some) rows.set(row.id, row);
  while (rows.size > KEPT) rows.delete(rows.keys().next().value);
}

/** Has rows fetched, some at a time; `onRows` tells when they are here. */
export function want(ids) {
  wanted.clear(); // what was wanted before is out of sight
  for (const id of ids) if (!rows.has(id)) wanted.add(id);
  if (wanted.size && !waiting) waiting = fetchWanted().finally(() => { waiting = null; });
}

async function fetchWanted() {
  while (wanted.size) {
    const some = [...wanted].slice(0, AT_ONCE);
    const of = album.name;
    let data = [];
    try {
      ({ data } = await ask(path(`/pictures?ids=${some.join(",")}`)));
    } catch {
      return; // they are wanted again when they come into sight again
    }
    if (of !== album.name) return;
    for (const id of some) wanted.delete(id);
    keep(data);
    for (const listener of listeners) listener(some);
  }
}

/** All numbers that a filter lets through. */
export async function numbers(where, order, signal) {
  const asked = new URLSearchParams({ where, order });
  return (await ask(path(`/ids?${asked}`), undefined, signal)).ids;
}

/** The pictures that go best with words, a picture of the album or another one. */
export async function search(asked, signal) {
  const { data } = await ask("/v1/search", { album: album.name, ...asked }, signal);
  keep(data);
  return data;
}

/** Groups that go together. */
export function groups(clusters, keywords, signal) {
  return ask(path("/groups"), { clusters, keywords }, signal);
}

/** Groups of pictures that are nearly the same. */
export async function duplicates(signal) {
  const found = (await ask(path("/duplicates"), undefined, signal)).data;
  for (const group of found) keep(group.pictures);
  return found;
}

/** Where the pictures lie on a map. */
export function map(signal) {
  return ask(path("/map"), undefined, signal);
}

/** All that is known of one picture. */
export async function details(id) {
  const row = await ask(path(`/pictures/${id}`));
  keep([row]);
  return row;
}

/** Sets what a person says of a picture: caption, tags, and whether the caption goes into the file, too. */
export async function describe(id, said) {
  const row = await put(path(`/pictures/${id}`), said);
  keep([row]);
  for (const listener of listeners) listener([id]);
  if (said.tags) await count();
  return row;
}

/** A picture of the album as the view takes it. */
export async function subject(id) {
  const row = rows.get(id) ?? (await details(id));
  if (!subjects.has(id)) {
    const of = `album:${album.name}/${id}`;
    subjects.set(id, {
      id,
      name: row.name,
      caption: row.caption ?? "",
      saved: row.caption ?? "",
      error: "",
      busy: false,
      messages: [],
      looked: null,
      labels: null,
      source: shown(id, "view"),
      address: async () => of,
      changed: () => {},
    });
  }
  return subjects.get(id);
}
