// A virtual grid: of any number of pictures, only the visible ones are in the document.

import { getRow, imageURL, onRows, requestRows } from "/page/albums.js";
import { t } from "/page/i18n.js";

const WIDTH = 184; // minimum width of a card in pixels
const GAP = 14;
const TEXT = 62; // height of the text below a picture in pixels
const OVERSCAN_ROWS = 2; // rendered rows outside the viewport
const IDLE = 70; // milliseconds without scrolling before pictures are loaded

/**
 * A grid in a list element. `open` is called with the index of a clicked picture; `above` is a sticky element that
 * covers cards scrolled under it.
 */
export class Grid {
  constructor(list, open, above) {
    this.list = list;
    this.open = open;
    this.above = above;
    this.ids = [];
    this.cards = new Map(); // index → card
    this.free = [];
    this.active = 0; // index of the focusable card
    this.timer = null;
    addEventListener("scroll", () => this.draw(), { passive: true });
    new ResizeObserver(() => this.measure()).observe(list);
    list.addEventListener("keydown", (event) => this.key(event));
    list.addEventListener("click", (event) => {
      const card = event.target.closest("li");
      if (card) this.open(Number(card.dataset.index));
    });
    list.addEventListener("focusin", (event) => this.reach(Number(event.target.closest("li").dataset.index)));
    onRows((ids) => {
      const changed = new Set(ids);
      for (const [index, card] of this.cards) if (changed.has(this.ids[index])) this.fill(card, index);
    });
  }

  /** Shows pictures by id, scrolled to the first. */
  show(ids) {
    this.ids = ids;
    this.active = 0;
    for (const card of this.cards.values()) this.drop(card);
    this.cards.clear();
    if (this.list.clientWidth) scrollTo(0, 0);
    this.measure();
  }

  /** Updates the texts of all cards in another language. */
  speak() {
    for (const [index, card] of this.cards) this.fill(card, index);
  }

  measure() {
    const width = this.list.clientWidth;
    if (!width) return;
    this.columns = Math.max(2, Math.floor((width + GAP) / (WIDTH + GAP)));
    this.width = (width - GAP * (this.columns - 1)) / this.columns;
    this.height = Math.round((this.width * 3) / 4) + TEXT;
    const rows = Math.ceil(this.ids.length / this.columns);
    this.list.style.height = `${Math.max(0, rows * (this.height + GAP) - GAP)}px`;
    for (const [index, card] of this.cards) this.put(card, index);
    this.draw();
  }

  draw() {
    if (!this.list.clientWidth) return; // in a hidden section
    const top = -this.list.getBoundingClientRect().top;
    const step = this.height + GAP;
    const first = Math.max(0, Math.floor(top / step) - OVERSCAN_ROWS) * this.columns;
    const last = Math.min(this.ids.length, (Math.ceil((top + innerHeight) / step) + OVERSCAN_ROWS) * this.columns);
    const held = document.activeElement?.closest?.("li");
    for (const [index, card] of this.cards) {
      if ((index < first || index >= last) && card.item !== held) {
        this.drop(card);
        this.cards.delete(index);
      }
    }
    for (let index = first; index < last; index += 1) if (!this.cards.has(index)) this.add(index);
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.settle(first, last), IDLE);
  }

  settle(first, last) {
    requestRows(this.ids.slice(first, last));
    for (const [index, { image }] of this.cards) {
      const address = imageURL(this.ids[index]);
      if (image.getAttribute("src") !== address) image.src = address;
    }
  }

  add(index) {
    const card = this.free.pop() ?? createCard();
    this.cards.set(index, card);
    this.put(card, index);
    this.fill(card, index);
    const successor = [...this.list.children].find((item) => Number(item.dataset.index) > index);
    this.list.insertBefore(card.item, successor ?? null); // in reading order, for screen readers
  }

  drop(card) {
    card.item.remove();
    card.image.removeAttribute("src"); // cancel the download
    this.free.push(card);
  }

  put({ item }, index) {
    const [column, row] = [index % this.columns, Math.floor(index / this.columns)];
    item.style.width = `${this.width}px`;
    item.style.height = `${this.height}px`;
    item.style.transform = `translate(${column * (this.width + GAP)}px, ${row * (this.height + GAP)}px)`;
  }

  fill({ item, button, caption, file }, index) {
    const row = getRow(this.ids[index]);
    item.dataset.index = index;
    item.setAttribute("aria-setsize", this.ids.length);
    item.setAttribute("aria-posinset", index + 1);
    button.tabIndex = index === this.active ? 0 : -1;
    caption.textContent = row ? (row.caption ?? row.name.split("/").at(-1)) : "…";
    file.textContent = row?.caption ? row.name.split("/").at(-1) : (row?.taken?.slice(0, 10) ?? "");
    if (!row) button.setAttribute("aria-label", t("pictureNumber", index + 1));
    else button.removeAttribute("aria-label");
  }

  /** Makes a card the focusable one. */
  reach(index) {
    const before = this.cards.get(this.active);
    if (before) before.button.tabIndex = -1;
    this.active = index;
    const card = this.cards.get(index);
    if (card) card.button.tabIndex = 0;
  }

  /** Scrolls a card into view and focuses it. */
  go(index) {
    if (!this.ids.length) return;
    const to = Math.min(Math.max(index, 0), this.ids.length - 1);
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

function createCard() {
  const item = document.createElement("li");
  const button = document.createElement("button");
  button.type = "button";
  button.className = "card";
  const image = document.createElement("img");
  image.alt = "";
  image.decoding = "async";
  image.addEventListener("load", () => image.classList.remove("broken"));
  image.addEventListener("error", () => image.classList.add("broken"));
  const text = document.createElement("span");
  text.className = "text";
  const caption = document.createElement("span");
  caption.className = "caption";
  const file = document.createElement("span");
  file.className = "file";
  text.append(caption, file);
  button.append(image, text);
  item.append(button);
  return { item, button, image, caption, file };
}
