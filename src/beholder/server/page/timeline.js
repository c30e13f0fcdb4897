// The timeline beside the grid: years, and the months of the year in view.

import { month as monthName, t } from "/page/i18n.js";

const byId = (id) => document.getElementById(id);
let months = []; // of the grid, in its order
let current = null;
let onMonth = () => {};

/** Shows the months of the grid, or nothing without any; `go` is called with a month to scroll to. */
export function showTimeline(starts, go) {
  months = starts.map(({ month }) => month);
  onMonth = go;
  current = undefined;
  byId("timeline").hidden = months.length < 2;
}

/** Marks the month in view. */
export function markMonth(month) {
  if (month === current || byId("timeline").hidden) return;
  current = month;
  renderTimeline();
}

/** Renders the timeline, for instance in another language. */
export function renderTimeline() {
  const focused = byId("timeline").contains(document.activeElement) ? document.activeElement.dataset.month : undefined;
  const years = [...new Set(months.map((month) => month?.slice(0, 4) ?? ""))];
  const now = current?.slice(0, 4) ?? "";
  byId("timeline").replaceChildren(...years.map((year) => {
    const item = document.createElement("li");
    const inYear = months.filter((month) => (month?.slice(0, 4) ?? "") === year);
    item.append(createLink(year || t("undated"), inYear[0], year === now && inYear[0] === current));
    if (year && year === now && inYear.length > 1) {
      const list = document.createElement("ol");
      list.append(...inYear.map((month) => {
        const inside = document.createElement("li");
        inside.append(createLink(monthName(month, true), month, month === current));
        return inside;
      }));
      item.append(list);
    }
    return item;
  }));
  if (focused !== undefined) byId("timeline").querySelector(`[data-month="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
}

function createLink(text, month, isCurrent) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = text;
  button.dataset.month = month ?? "";
  if (isCurrent) button.setAttribute("aria-current", "date");
  button.addEventListener("click", () => onMonth(month));
  return button;
}
