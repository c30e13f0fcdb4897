// The viewer: one large picture with its caption, labels, conversation and details.

import { ApiError, request } from "/page/api.js";
import { renderAttention, renderWords } from "/page/attention.js";
import { renderChat, setChatModel, stopChat } from "/page/chat.js";
import { renderDetails, updateButtons } from "/page/details.js";
import { t } from "/page/i18n.js";

const byId = (id) => document.getElementById(id);
const view = byId("view");
let current = null;
let getNeighbor = async () => null;
let onClose = () => {};
let canCaption = false;

/** Sets the models for generating text and for classifying, or null. */
export function setModels(vlm, encoder) {
  canCaption = Boolean(vlm);
  setChatModel(vlm);
  byId("chatsection").hidden = !vlm;
  byId("labelsection").hidden = !encoder;
  refreshViewer();
}

/** Returns the displayed picture. */
export function currentPicture() {
  return current;
}

/**
 * Shows a picture: { name, caption, source, address, messages, attention, labels, busy, error, changed }.
 * `next(offset)` returns a neighboring picture, or null; `closed` is called when the viewer is closed.
 */
export function openViewer(picture, next, closed) {
  stopChat();
  current = picture;
  if (next) getNeighbor = next;
  if (closed && !view.open) onClose = closed; // when paging to a similar picture, focus still returns to the first opener
  byId("name").textContent = picture.name.split("/").at(-1);
  byId("picture").src = picture.source;
  byId("viewererror").hidden = true;
  renderLabels();
  renderChat(picture);
  renderDetails(picture);
  renderAttention(picture, null);
  renderWords(picture);
  refreshViewer();
  if (!view.open) view.showModal();
  byId("view").scrollTop = 0;
  byId("name").focus();
}

/** Updates all texts, for instance in another language. */
export function refreshViewer() {
  if (!current) return;
  const inAlbum = current.id !== undefined;
  byId("captionsection").hidden = !canCaption && !inAlbum;
  byId("caption").value = current.caption;
  byId("caption").placeholder = current.busy ? t("writing") : t("noCaption");
  byId("picture").alt = current.caption || current.name;
  byId("regenerate").textContent = t(current.caption ? "regenerate" : "writeOne");
  byId("regenerate").hidden = byId("showattention").hidden = !canCaption;
  byId("regenerate").disabled = current.busy;
  byId("showattention").disabled = current.busy || !current.caption;
  updateButtons(current);
}

/** Shows an error message. */
export function showError(error) {
  if (error.name === "AbortError") return;
  byId("viewererror").textContent = error instanceof ApiError ? error.message : t("gone");
  byId("viewererror").hidden = false;
}

/** Runs the action of a button, and shows errors. */
export async function runAction(button, action) {
  byId("viewererror").hidden = true;
  button.disabled = true;
  try {
    await action(current);
  } catch (error) {
    showError(error);
  }
  button.disabled = false;
  refreshViewer();
}

// Caption

/** Generates a caption: greedily, or sampled to get another one. */
export async function generateCaption(picture, sampled) {
  picture.busy = true;
  picture.attention = null;
  picture.changed();
  try {
    const sampling = sampled ? { top_p: 0.9, seed: Math.floor(Math.random() * 2 ** 31) } : {};
    picture.caption = (await request("/v1/caption", { image: await picture.address(), ...sampling })).caption;
    picture.error = "";
  } catch (error) {
    picture.error = error instanceof ApiError ? error.message.replace(/^picture 1: /, "") : t("gone");
  }
  picture.busy = false;
  picture.changed();
  if (picture === current && document.activeElement !== byId("caption")) refreshViewer();
}

function clearAttention() {
  current.attention = null;
  renderAttention(current, null);
  renderWords(current);
}

byId("caption").addEventListener("input", () => {
  current.caption = byId("caption").value;
  clearAttention();
  current.changed();
  byId("showattention").disabled = !current.caption;
  updateButtons(current);
});

byId("regenerate").addEventListener("click", () => runAction(byId("regenerate"), async (picture) => {
  await generateCaption(picture, picture.caption !== "");
  if (picture !== current) return;
  clearAttention();
  if (picture.error) showError(new ApiError(400, picture.error));
}));

byId("showattention").addEventListener("click", () => runAction(byId("showattention"), async (picture) => {
  picture.attention = await request("/v1/attention", { image: await picture.address(), text: picture.caption });
  if (picture !== current) return;
  renderWords(picture);
  await renderAttention(picture, -1);
}));

// Labels

byId("labelform").addEventListener("submit", (event) => {
  event.preventDefault();
  const labels = byId("labels").value.split(/[,，、;；]/).map((label) => label.trim()).filter(Boolean);
  if (!labels.length) return byId("labels").focus();
  runAction(event.submitter ?? byId("labelform").querySelector("button"), async (picture) => {
    const image = await picture.address();
    picture.labels = (await request("/v1/classify", { image, labels: [...new Set(labels)], top: 10 })).labels;
    if (picture === current) renderLabels();
  });
});

function renderLabels() {
  byId("ranked").replaceChildren(
    ...(current.labels ?? []).map(({ label, probability }) => {
      const row = document.createElement("li");
      const name = document.createElement("span");
      name.textContent = label;
      const meter = document.createElement("meter");
      meter.value = probability;
      meter.setAttribute("aria-label", label);
      const share = document.createElement("b");
      share.textContent = `${Math.round(probability * 100)}%`;
      row.append(name, meter, share);
      return row;
    }),
  );
}

// Navigation

async function navigate(by) {
  const from = current;
  try {
    const picture = await getNeighbor(by);
    if (picture && current === from && view.open) openViewer(picture);
  } catch (error) {
    showError(error);
  }
}

byId("previous").addEventListener("click", () => navigate(-1));
byId("next").addEventListener("click", () => navigate(1));
byId("close").addEventListener("click", () => view.close());
view.addEventListener("close", () => {
  stopChat();
  onClose();
});
view.addEventListener("keydown", (event) => {
  if (event.target.matches("input, textarea, select") || event.altKey || event.ctrlKey || event.metaKey) return;
  if (event.key === "ArrowLeft") navigate(-1);
  if (event.key === "ArrowRight") navigate(1);
});
