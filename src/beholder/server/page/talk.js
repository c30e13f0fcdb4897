// The conversation about a picture, streamed.

import { talk } from "/page/server.js";
import { shownPicture, trouble } from "/page/view.js";

const at = (id) => document.getElementById(id);
let answering = null; // what stops the answer that is being written
let model = null;

/** Which model answers, or null. */
export function enableTalk(writer) {
  model = writer;
}

/** Ends the answer that is being written. */
export function stopTalk() {
  answering?.abort();
}

/** What was said so far. */
export function drawTalk(picture) {
  at("log").replaceChildren();
  for (const { role, content } of picture.messages) {
    line(role === "user" ? "asked" : "said", typeof content === "string" ? content : content.at(-1).text);
  }
}

function line(kind, text) {
  const said = document.createElement("p");
  said.className = kind;
  said.textContent = text;
  at("log").append(said);
  at("log").scrollTop = at("log").scrollHeight;
  return said;
}

at("stop").addEventListener("click", stopTalk);

at("talkform").addEventListener("submit", async (event) => {
  event.preventDefault();
  const question = at("question").value.trim();
  if (!question || answering) return;
  const picture = shownPicture();
  at("viewtrouble").hidden = true;
  at("question").value = "";
  answering = new AbortController();
  at("stop").hidden = false;
  at("send").hidden = true;
  line("asked", question);
  const said = line("said", "");
  said.setAttribute("aria-busy", "true");
  let answer = "";
  try {
    const words = { type: "text", text: question };
    const content = picture.messages.length
      ? question
      : [{ type: "image_url", image_url: { url: await picture.address() } }, words];
    picture.messages.push({ role: "user", content });
    for await (const piece of talk(model, picture.messages, answering.signal)) {
      answer += piece;
      said.textContent = answer;
      if (picture === shownPicture()) at("log").scrollTop = at("log").scrollHeight;
    }
  } catch (error) {
    if (picture === shownPicture()) trouble(error);
  }
  if (answer) picture.messages.push({ role: "assistant", content: answer });
  else {
    picture.messages.pop(); // so that the next question does not hang on one without an answer
    said.remove();
  }
  said.removeAttribute("aria-busy");
  answering = null;
  at("stop").hidden = true;
  at("send").hidden = false;
  if (picture === shownPicture() && at("view").open) at("question").focus();
});
