// A grid of any number of pictures, of which only those in sight are on the page.

import { known, onRows, shown, want } from "/page/albums.js";
import { say } from "/page/words.js";

const WIDTH = 184; // pixels of a card at least
const GAP = 14;
const TEXT = 62; // pixels of a card below its picture
const BEYOND = 2; // rows outside the window that are there all the same
const SETTLED = 70; // milliseconds after the last movement; before, no picture is asked for

/**
 * The grid in a list. `open` is called with the place of a picture that is chosen; what is `above` stays where it is
 * and covers cards that are scrolled under it.
 */
export class Grid {
  constructor(list, open, above) {
    this.list = list;
    this.open = open;
    this.above = above;
    this.ids = [];
    this.cards = new Map(); // place → card
    this.free = [];
    this.active = 0; // the place that the keyboard is at
    this.timer = null;
    addEventListener("scroll", () => this.draw(), { passive: true });
    new ResizeObserver(() => this.measure()).observe(list);
    list.addEventListener("keydown", (event) => this.key(event));
    list.addEventListener("click", (event) => {
      const card = event.target.closest("li");
      if (card) this.open(Number(card.dataset.place));
    });
    list.addEventListener("focusin", (event) => this.reach(Number(event.target.closest("li").dataset.place)));
    onRows((ids) => {
      const changed = new Set(ids);
      for (const [place, card] of this.cards) if (changed.has(this.ids[place])) this.fill(card, place);
    });
  }

  /** Shows pictures by their numbers, from the first. */
  show(ids) {
    this.ids = ids;
    this.active = 0;
    for (const card of this.cards.values()) this.drop(card);
    this.cards.clear();
    if (this.list.clientWidth) scrollTo(0, 0);
    this.measure();
  }

  /** The words of all cards in another language. */
  speak() {
    for (const [place, card] of this.cards) this.fill(card, place);
  }

  measure() {
    const width = this.list.clientWidth;
    if (!width) return;
    this.columns = Math.max(2, Math.floor((width + GAP) / (WIDTH + GAP)));
    this.width = (width - GAP * (this.columns - 1)) / this.columns;
    this.height = Math.round((this.width * 3) / 4) + TEXT;
    const rows = Math.ceil(this.ids.length / this.columns);
    this.list.style.height = `${Math.max(0, rows * (this.height + GAP) - GAP)}px`;
    for (const [place, card] of this.cards) this.put(card, place);
    this.draw();
  }

  draw() {
    if (!this.list.clientWidth) return; // on a part of the page that is not shown
    const top = -this.list.getBoundingClientRect().top;
    const step = this.height + GAP;
    const first = Math.max(0, Math.floor(top / step) - BEYOND) * this.columns;
    const last = Math.min(this.ids.length, (Math.ceil((top + innerHeight) / step) + BEYOND) * this.columns);
    const held = document.activeElement?.closest?.("li");
    for (const [place, card] of this.cards) {
      if ((place < first || place >= last) && card.item !== held) {
        this.drop(card);
        this.cards.delete(place);
      }
    }
    for (let place = first; place < last; place += 1) if (!this.cards.has(place)) this.add(place);
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.settle(first, last), SETTLED);
  }

  settle(first, last) {
    want(this.ids.slice(first, last));
    for (const [place, { image }] of this.cards) {
      const address = shown(this.ids[place]);
      if (image.getAttribute("src") !== address) image.src = address;
    }
  }

  add(place) {
    const card = this.free.pop() ?? made();
    this.cards.set(place, card);
    this.put(card, place);
    this.fill(card, place);
    const behind = [...this.list.children].find((item) => Number(item.dataset.place) > place);
    this.list.insertBefore(card.item, behind ?? null); // in the order in which they are read aloud
  }

  drop(card) {
    card.item.remove();
    card.image.removeAttribute("src"); // what is still on its way is called off
    this.free.push(card);
  }

  put({ item }, place) {
    const [column, row] = [place % this.columns, Math.floor(place / this.columns)];
    item.style.width = `${this.width}px`;
    item.style.height = `${this.height}px`;
    item.style.transform = `translate(${column * (this.width + GAP)}px, ${row * (this.height + GAP)}px)`;
  }

  fill({ item, button, caption, file }, place) {
    const row = known(this.ids[place]);
    item.dataset.place = place;
    item.setAttribute("aria-setsize", this.ids.length);
    item.setAttribute("aria-posinset", place + 1);
    button.tabIndex = place === this.active ? 0 : -1;
    caption.textContent = row ? (row.caption ?? row.name.split("/").at(-1)) : "…";
    file.textContent = row?.caption ? row.name.split("/").at(-1) : (row?.taken?.slice(0, 10) ?? "");
    if (!row) button.setAttribute("aria-label", say("pictureNumber", place + 1));
    else button.removeAttribute("aria-label");
  }

  /** The keyboard is at a place now. */
  reach(place) {
    const before = this.cards.get(this.active);
    if (before) before.button.tabIndex = -1;
    this.active = place;
    const card = this.cards.get(place);
    if (card) card.button.tabIndex = 0;
  }

  /** Brings a place into sight and the keyboard to it. */
  go(place) {
    if (!this.ids.length) return;
    const to = Math.min(Math.max(place, 0), this.ids.length - 1);
    const top = this.list.getBoundingClientRect().top + Math.floor(to / this.columns) * (this.height + GAP);
    const covered = getComputedStyle(this.above).position === "sticky" ? this.above.offsetHeight + 8 : 8;
    if (top < covered) scrollBy(0, top - covered);
    else if (top + this.height > innerHeight - 10) scrollBy(0, top + this.height - innerHeight + 10);
    this.draw();
    this.cards.get(to)?.button.focus({ preventScroll: true });
  }

  key(event) {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const screen = Math.max(1, Math.floor(innerHeight / (this.height + GAP))) * this.columns;
    const to = {
      ArrowLeft: this.active - 1,
      ArrowRight: this.active + 1,
      ArrowUp: this.active - this.columns,
      ArrowDown: this.active + this.columns,
      PageUp: this.active - screen,
      PageDown: this.active + screen,
      Home: 0,
      End: this.ids.length - 1,
    }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    this.go(to);
  }
}

function made() {
  const item = document.createElement("li");
  const button = document.createElement("button");
  button.type = "button";
  button.className = "card";
  const image = document.createElement("img");
  image.alt = "";
  image.decoding = "async";
  image.addEventListener("load", () => image.classList.remove("unseen"));
  image.addEventListener("error", () => image.classList.add("unseen"));
  const text = document.createElement("span");
  text.className = "text";
  const caption = document.createElement("span");
  caption.className = "said";
  const file = document.createElement("span");
  file.className = "file";
  text.append(caption, file);
  button.append(image, text);
  item.append(button);
  return { item, button, image, caption, file };
}
