// A virtual grid of justified rows: of any number of pictures, only the visible ones are in the document.

import { getRow, imageURL, onRows, requestRows } from "/page/albums.js";
import { month as monthName, t } from "/page/i18n.js";

const GAP = 4;
const HEADING = 46; // height of a month's heading in pixels
const NARROW = 600; // width of the list in pixels below which rows are lower
const ROW_HEIGHT = { narrow: 112, wide: 208 }; // a row is at most this high
const RATIOS = [45, 350]; // width in percent of the height; other pictures are cropped
const DEFAULT_RATIO = 133;
const OVERSCAN_ROWS = 2; // rendered rows outside the viewport
const IDLE = 70; // milliseconds without scrolling before pictures are loaded

/**
 * A grid in a list element. `open` is called with the index of a clicked picture, `toggle` with that of one to select;
 * `above` is a sticky element that covers cards scrolled under it; `moved` is called with the index at the top.
 */
export class Grid {
  constructor(list, { headings, open, toggle, isSelected, above, moved }) {
    Object.assign(this, { list, headings, open, toggle, isSelected, above, moved });
    this.ids = [];
    this.ratios = null;
    this.months = null;
    this.rows = []; // { start, end, top, height }
    this.cards = new Map(); // index → card
    this.free = [];
    this.active = 0; // index of the focusable card
    this.timer = null;
    addEventListener("scroll", () => this.draw(), { passive: true });
    new ResizeObserver(() => {
      if (list.clientWidth !== this.width) this.measure(); // not if only its height has changed
    }).observe(list);
    list.addEventListener("keydown", (event) => this.key(event));
    list.addEventListener("click", (event) => {
      const card = event.target.closest("li");
      if (!card) return;
      const index = Number(card.dataset.index);
      if (event.target.closest(".select")) this.toggle(index, event.shiftKey);
      else this.open(index, event);
    });
    list.addEventListener("focusin", (event) => this.reach(Number(event.target.closest("li").dataset.index)));
    onRows((ids) => {
      const changed = new Set(ids);
      for (const [index, card] of this.cards) if (changed.has(this.ids[index])) this.fill(card, index);
    });
  }

  /**
   * Shows pictures by id, scrolled to the first. `ratios` are widths in percent of heights; `months` are pairs of a
   * month and the number of consecutive pictures that were taken in it, each of which gets a heading.
   */
  show(ids, ratios = null, months = null) {
    Object.assign(this, { ids, ratios, months });
    this.active = 0;
    for (const card of this.cards.values()) this.drop(card);
    this.cards.clear();
    if (this.list.clientWidth) scrollTo(0, 0);
    this.measure();
  }

  /** Updates the texts of all cards in another language. */
  speak() {
    this.drawHeadings();
    for (const [index, card] of this.cards) this.fill(card, index);
  }

  /** Shows which pictures are selected. */
  showSelection() {
    for (const [index, card] of this.cards) this.fill(card, index);
  }

  ratio(index) {
    const ratio = this.ratios?.[index] ?? DEFAULT_RATIO;
    return Math.min(Math.max(ratio, RATIOS[0]), RATIOS[1]) / 100;
  }

  measure() {
    const width = this.list.clientWidth;
    if (!width) return;
    this.width = width;
    const most = width < NARROW ? ROW_HEIGHT.narrow : ROW_HEIGHT.wide;
    this.rows = [];
    this.starts = [];
    let [top, index] = [0, 0];
    for (const [month, count] of this.months ?? [[null, this.ids.length]]) {
      if (this.months) {
        this.starts.push({ month, top, index });
        top += HEADING;
      }
      const end = index + count;
      let last = most; // height of the row above
      while (index < end) {
        const start = index;
        let sum = 0; // of the ratios
        do {
          sum += this.ratio(index);
          index += 1;
        } while (index < end && sum * most + GAP * (index - start - 1) < width);
        const filled = (width - GAP * (index - start - 1)) / sum;
        const height = filled <= most ? filled : last; // a month's last row is as high as the one above
        last = height;
        this.rows.push({ start, end: index, top, height });
        top += height + GAP;
      }
    }
    this.list.style.height = `${Math.max(0, top - GAP)}px`;
    this.drawHeadings();
    const hadFocus = this.list.contains(document.activeElement);
    for (const card of this.cards.values()) this.drop(card);
    this.cards.clear();
    if (hadFocus) this.go(this.active);
    else this.draw();
  }

  drawHeadings() {
    this.headings.replaceChildren(...(this.starts ?? []).map(({ month, top }) => {
      const heading = document.createElement("h2");
      heading.textContent = month ? monthName(month) : t("undated");
      heading.style.transform = `translateY(${top}px)`;
      return heading;
    }));
  }

  /** Returns the number of the row at a height in the list. */
  rowAt(top) {
    let [low, high] = [0, this.rows.length - 1];
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this.rows[middle].top <= top) low = middle;
      else high = middle - 1;
    }
    return Math.max(low, 0);
  }

  rowOf(index) {
    let [low, high] = [0, this.rows.length - 1];
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this.rows[middle].start <= index) low = middle;
      else high = middle - 1;
    }
    return Math.max(low, 0);
  }

  draw() {
    if (!this.list.clientWidth) return; // in a hidden section
    const top = -this.list.getBoundingClientRect().top;
    const firstRow = Math.max(0, this.rowAt(top) - OVERSCAN_ROWS);
    const lastRow = Math.min(this.rows.length, this.rowAt(top + innerHeight) + 1 + OVERSCAN_ROWS);
    const first = this.rows[firstRow]?.start ?? 0;
    const last = this.rows[lastRow - 1]?.end ?? 0;
    const held = document.activeElement?.closest?.("li");
    for (const [index, card] of this.cards) {
      if ((index < first || index >= last) && card.item !== held) {
        this.drop(card);
        this.cards.delete(index);
      }
    }
    for (let row = firstRow; row < lastRow; row += 1) this.drawRow(this.rows[row]);
    this.moved(this.rows[this.rowAt(top + 80)]?.start ?? 0);
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.settle(first, last), IDLE);
  }

  drawRow({ start, end, top, height }) {
    let left = 0;
    for (let index = start; index < end; index += 1) {
      const width = this.ratio(index) * height;
      if (!this.cards.has(index)) this.add(index);
      const { style } = this.cards.get(index).item;
      style.width = `${width}px`;
      style.height = `${height}px`;
      style.transform = `translate(${left}px, ${top}px)`;
      left += width + GAP;
    }
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
    this.fill(card, index);
    let successor = null; // in reading order, for screen readers
    for (const item of this.list.children) {
      if (Number(item.dataset.index) > index) {
        successor = item;
        break;
      }
    }
    this.list.insertBefore(card.item, successor);
  }

  drop(card) {
    card.item.remove();
    card.image.removeAttribute("src"); // cancel the download
    this.free.push(card);
  }

  fill({ item, button, select, caption, file, badge }, index) {
    const row = getRow(this.ids[index]);
    const name = row?.name.split("/").at(-1);
    item.dataset.index = index;
    item.setAttribute("aria-setsize", this.ids.length);
    item.setAttribute("aria-posinset", index + 1);
    button.tabIndex = select.tabIndex = index === this.active ? 0 : -1;
    const selected = this.isSelected(index);
    item.classList.toggle("selected", selected);
    select.setAttribute("aria-pressed", selected);
    select.setAttribute("aria-label", t("selectPicture", name ?? index + 1));
    caption.textContent = row ? (row.caption ?? name) : "…";
    file.textContent = [row?.caption ? name : "", row?.taken?.slice(0, 10)].filter(Boolean).join(" · ");
    const stars = row?.rating > 0 ? "★".repeat(row.rating) : "";
    badge.textContent = [row?.time === undefined ? "" : `▶ ${clock(row.time)}`, stars].filter(Boolean).join(" ");
    if (!row) button.setAttribute("aria-label", t("pictureNumber", index + 1));
    else button.removeAttribute("aria-label");
  }

  /** Makes a card the focusable one. */
  reach(index) {
    for (const each of [this.active, index]) {
      const card = this.cards.get(each);
      if (card) card.button.tabIndex = card.select.tabIndex = each === index ? 0 : -1;
    }
    this.active = index;
  }

  /** Scrolls a card into view and focuses it. */
  go(index) {
    if (!this.ids.length) return;
    const to = Math.min(Math.max(index, 0), this.ids.length - 1);
    const row = this.rows[this.rowOf(to)];
    const top = this.list.getBoundingClientRect().top + row.top;
    const covered = getComputedStyle(this.above).position === "sticky" ? this.above.offsetHeight + 8 : 8;
    if (top < covered) scrollBy(0, top - covered);
    else if (top + row.height > innerHeight - 10) scrollBy(0, top + row.height - innerHeight + 10);
    this.draw();
    this.cards.get(to)?.button.focus({ preventScroll: true });
  }

  /** Scrolls to the first picture of a month. */
  goToMonth(month) {
    const start = this.starts.find((each) => each.month === month);
    if (!start) return;
    const covered = getComputedStyle(this.above).position === "sticky" ? this.above.offsetHeight : 0;
    scrollBy(0, this.list.getBoundingClientRect().top + start.top - covered);
    this.draw();
  }

  /** Returns the index of the picture nearest below or above one. */
  neighborRow(index, by) {
    const from = this.rowOf(index);
    const row = this.rows[Math.min(Math.max(from + by, 0), this.rows.length - 1)];
    if (row === this.rows[from]) return index;
    const center = this.leftOf(index) + (this.ratio(index) * this.rows[from].height) / 2;
    let best = row.start;
    for (let each = row.start; each < row.end; each += 1) if (this.leftOf(each) <= center) best = each;
    return best;
  }

  leftOf(index) {
    const row = this.rows[this.rowOf(index)];
    let left = 0;
    for (let each = row.start; each < index; each += 1) left += this.ratio(each) * row.height + GAP;
    return left;
  }

  key(event) {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.key === "x" || event.key === "X") {
      event.preventDefault();
      this.toggle(this.active, event.shiftKey);
      return;
    }
    const screen = Math.max(1, Math.floor(innerHeight / (ROW_HEIGHT.wide + GAP)));
    const to = {
      ArrowLeft: () => this.active - 1,
      ArrowRight: () => this.active + 1,
      ArrowUp: () => this.neighborRow(this.active, -1),
      ArrowDown: () => this.neighborRow(this.active, 1),
      PageUp: () => this.neighborRow(this.active, -screen),
      PageDown: () => this.neighborRow(this.active, screen),
      Home: () => 0,
      End: () => this.ids.length - 1,
    }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    this.go(to());
  }
}

/** Returns a time in a video as text. */
export function clock(seconds) {
  const [hours, minutes, rest] = [seconds / 3600, (seconds / 60) % 60, seconds % 60].map(Math.floor);
  const two = (number) => String(number).padStart(2, "0");
  return hours ? `${hours}:${two(minutes)}:${two(rest)}` : `${minutes}:${two(rest)}`;
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
  const badge = document.createElement("span");
  badge.className = "badge";
  const select = document.createElement("button");
  select.type = "button";
  select.className = "select";
  text.append(caption, file);
  button.append(image, badge, text);
  item.append(button, select);
  return { item, button, select, image, caption, file, badge };
}
