// Puts the page's parts together.

import { Server } from "./api.js";
import { Chat } from "./chat.js";
import { Conversations } from "./conversations.js";
import { askText } from "./dialogs.js";
import { button, byId, element } from "./dom.js";
import { Metrics } from "./metrics.js";
import { Store } from "./store.js";

const RETRY = 2000; // ms, while the server loads its model

const server = new Server((wrong) =>
  askText({
    title: "API key",
    label: "Key",
    type: "password",
    note: wrong ? "The server does not know this key." : "This server needs a key. It is kept until this tab is closed.",
  }),
);
let models = [];

function tell(text, retry) {
  byId("notice").replaceChildren(
    element("span", {}, text),
    ...(retry ? [button("Retry", retry)] : []),
    button("Dismiss", () => (byId("notice").hidden = true)),
  );
  byId("notice").hidden = false;
}

async function loadModels() {
  try {
    models = (await server.json("v1/models")).data;
  } catch (error) {
    tell(error.message, loadModels);
    if (error.status === 503) setTimeout(loadModels, RETRY);
    return;
  }
  byId("notice").hidden = true;
  if (models.every(({ state }) => state === "loading")) {
    tell("The model is being loaded.", loadModels);
    setTimeout(loadModels, RETRY);
  }
  const select = byId("model");
  const chosen = select.value;
  select.replaceChildren(...models.map(({ id }) => element("option", { value: id }, id)));
  if (models.some(({ id }) => id === chosen)) select.value = chosen;
  chat.update();
}

function showTab(name) {
  for (const tab of document.querySelectorAll("[role=tab]")) {
    const selected = tab.id === `tab-${name}`;
    tab.setAttribute("aria-selected", selected);
    tab.tabIndex = selected ? 0 : -1;
    byId(tab.getAttribute("aria-controls")).hidden = !selected;
  }
  byId("menu").hidden = name !== "chat";
  metrics.show(name === "metrics");
}

function startTabs() {
  const tabs = [...document.querySelectorAll("[role=tab]")];
  for (const tab of tabs) {
    tab.addEventListener("click", () => showTab(tab.getAttribute("aria-controls")));
    tab.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      const next = tabs[(tabs.indexOf(tab) + step + tabs.length) % tabs.length];
      next.focus();
      next.click();
    });
  }
}

const model = () => models.find(({ id }) => id === byId("model").value) ?? null;
const store = await Store.open();
const chat = new Chat(server, model, (conversation) => conversations.save(conversation));
const conversations = new Conversations(store, chat, tell);
const metrics = new Metrics(server, byId("metrics"));
byId("model").addEventListener("change", () => chat.update());
startTabs();
await conversations.load();
if (store.failed) tell(`This browser keeps no conversations: ${store.failed.message}`);
await loadModels();
byId("prompt").focus();
