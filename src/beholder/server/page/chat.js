// The conversation about a picture, with streamed answers.

import { streamChat } from "/page/api.js";
import { currentPicture, showError } from "/page/viewer.js";

const byId = (id) => document.getElementById(id);
let activeRequest = null; // AbortController of the answer being generated
let model = null;

/** Sets the model that answers, or null. */
export function setChatModel(name) {
  model = name;
}

/** Stops the answer being generated. */
export function stopChat() {
  activeRequest?.abort();
}

/** Renders the conversation so far. */
export function renderChat(picture) {
  byId("log").replaceChildren();
  for (const { role, content } of picture.messages) {
    addMessage(role === "user" ? "user" : "assistant", typeof content === "string" ? content : content.at(-1).text);
  }
}

function addMessage(kind, text) {
  const answerElement = document.createElement("p");
  answerElement.className = kind;
  answerElement.textContent = text;
  byId("log").append(answerElement);
  byId("log").scrollTop = byId("log").scrollHeight;
  return answerElement;
}

byId("stop").addEventListener("click", stopChat);

byId("chatform").addEventListener("submit", async (event) => {
  event.preventDefault();
  const question = byId("question").value.trim();
  if (!question || activeRequest) return;
  const picture = currentPicture();
  byId("viewererror").hidden = true;
  byId("question").value = "";
  activeRequest = new AbortController();
  byId("stop").hidden = false;
  byId("send").hidden = true;
  addMessage("user", question);
  const answerElement = addMessage("assistant", "");
  answerElement.setAttribute("aria-busy", "true");
  let answer = "";
  try {
    const text = { type: "text", text: question };
    const content = picture.messages.length
      ? question
      : [{ type: "image_url", image_url: { url: await picture.address() } }, text];
    picture.messages.push({ role: "user", content });
    for await (const piece of streamChat(model, picture.messages, activeRequest.signal)) {
      answer += piece;
      answerElement.textContent = answer;
      if (picture === currentPicture()) byId("log").scrollTop = byId("log").scrollHeight;
    }
  } catch (error) {
    if (picture === currentPicture()) showError(error);
  }
  if (answer) picture.messages.push({ role: "assistant", content: answer });
  else {
    picture.messages.pop(); // drop the unanswered question
    answerElement.remove();
  }
  answerElement.removeAttribute("aria-busy");
  activeRequest = null;
  byId("stop").hidden = true;
  byId("send").hidden = false;
  if (picture === currentPicture() && byId("view").open) byId("question").focus();
});
