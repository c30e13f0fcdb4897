// Adding folders to the album and updating it: which folders, the progress, and what could not be used.

import { album, indexingProgress, listFolders, startIndexing, stopIndexing } from "/page/albums.js";
import { ApiError } from "/page/api.js";
import { t } from "/page/i18n.js";

const byId = (id) => document.getElementById(id);
const INTERVAL = 700; // milliseconds between two looks at the progress
let place = { folder: "", name: "" };
let above = [];
const chosen = new Map(); // folder → name
let timer = null;
let progress = null;
let onDone = () => {};

/** Offers what the server allows; `done` is called when an index run has ended. */
export async function openIndexing(done) {
  onDone = done;
  clearTimeout(timer);
  progress = null;
  byId("indexnote").textContent = "";
  byId("indexproblems").hidden = byId("indexprogress").hidden = byId("stopindexing").hidden = true;
  byId("updatealbum").disabled = byId("addfolder").disabled = false;
  byId("indexbar").hidden = album.readOnly;
  if (album.readOnly) return;
  try {
    byId("addfolder").hidden = !(await listFolders("")).length;
    const running = await indexingProgress();
    if (running.state === "running") follow(running);
  } catch {
    byId("indexbar").hidden = true; // an older server
  }
}

/** Renders the dialog in another language. */
export function renderIndexing() {
  renderChosen();
  if (progress) renderProgress();
}

byId("addfolder").addEventListener("click", async () => {
  above = [];
  chosen.clear();
  await enter({ folder: "", name: t("allFolders") });
  byId("folderdialog").showModal();
});

byId("updatealbum").addEventListener("click", () => start([]));

byId("indexfolders").addEventListener("click", () => {
  byId("folderdialog").close();
  start([...chosen.keys()]);
});

byId("closefolders").addEventListener("click", () => byId("folderdialog").close());
byId("folderup").addEventListener("click", () => enter(above.pop()));

async function enter(to) {
  try {
    const inside = await listFolders(to.folder);
    place = to;
    byId("folderplace").textContent = [...above, to].map(({ name }) => name).join(" / ");
    byId("folderup").hidden = !above.length;
    byId("nofolders").hidden = inside.length > 0;
    byId("folderlist").replaceChildren(...inside.map(renderFolder));
    byId("foldererror").hidden = true;
  } catch (error) {
    byId("foldererror").textContent = error instanceof ApiError ? error.message : t("gone");
    byId("foldererror").hidden = false;
  }
  renderChosen();
}

function renderFolder({ folder, name }) {
  const item = document.createElement("li");
  const label = document.createElement("label");
  const check = document.createElement("input");
  check.type = "checkbox";
  check.checked = chosen.has(folder);
  check.addEventListener("change", () => {
    if (check.checked) chosen.set(folder, name);
    else chosen.delete(folder);
    renderChosen();
  });
  const words = document.createElement("span");
  words.textContent = name;
  label.append(check, words);
  const into = document.createElement("button");
  into.type = "button";
  into.textContent = "›";
  into.setAttribute("aria-label", t("openFolder", name));
  into.addEventListener("click", () => {
    above.push(place);
    enter({ folder, name });
  });
  item.append(label, into);
  return item;
}

function renderChosen() {
  byId("indexfolders").disabled = !chosen.size;
  byId("indexfolders").textContent = t("addFolders", chosen.size);
}

async function start(folders) {
  byId("indexnote").textContent = "";
  try {
    follow(await startIndexing(folders));
  } catch (error) {
    byId("indexnote").textContent = error instanceof ApiError ? error.message : t("gone");
  }
}

byId("stopindexing").addEventListener("click", async () => {
  byId("stopindexing").disabled = true;
  try {
    await stopIndexing();
  } catch {
    // the progress will tell
  }
});

function follow(now) {
  progress = now;
  renderProgress();
  if (now.state !== "running") {
    onDone();
    return;
  }
  const name = album.name;
  timer = setTimeout(async () => {
    try {
      const next = await indexingProgress();
      if (album.name === name) follow(next);
    } catch {
      if (album.name === name) follow(progress); // try again
    }
  }, INTERVAL);
}

function renderProgress() {
  const running = progress.state === "running";
  const { added = 0, changed = 0, moved = 0, removed = 0 } = progress.counts;
  byId("indexprogress").hidden = !running;
  if (progress.total === null) byId("indexprogress").removeAttribute("value");
  else {
    byId("indexprogress").max = Math.max(progress.total, 1);
    byId("indexprogress").value = progress.done;
  }
  byId("stopindexing").hidden = !running;
  byId("stopindexing").disabled = false;
  byId("updatealbum").disabled = byId("addfolder").disabled = running;
  const counted = t("indexCounts", [added, changed, moved, removed].map((count) => count.toLocaleString()));
  const state = {
    running: progress.total === null ? t("lookingForFiles") : t("indexed", [progress.done, progress.total].map((count) => count.toLocaleString())),
    done: t("indexDone"),
    stopped: t("indexStopped"),
    failed: progress.error ?? "",
    idle: "",
  }[progress.state];
  byId("indexnote").textContent = progress.state === "failed" ? state : `${state} ${counted}`;
  const failures = progress.counts.failed ?? 0;
  byId("indexproblems").hidden = !failures && !progress.passed_over.length;
  byId("indexproblemstitle").textContent = t("indexProblems", (failures + progress.passed_over.length).toLocaleString());
  const lines = [
    ...progress.passed_over,
    ...progress.failed.map(({ name, reason }) => `${name}: ${reason}`),
    ...(failures > progress.failed.length ? [t("andMore", failures - progress.failed.length)] : []),
  ];
  byId("indexproblemlist").replaceChildren(...lines.map((line) => {
    const item = document.createElement("li");
    item.textContent = line;
    return item;
  }));
}
