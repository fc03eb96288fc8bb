// The conversation that is shown: sending, stopping, branches, scrolling.

import { answer, requestOf } from "./answer.js";
import { announce, byId, Painter } from "./dom.js";
import { MessageView } from "./message.js";
import * as tree from "./tree.js";

const SAVE = 1000; // ms between savings of an answer that comes
const SPOKEN = 600; // characters of an answer that are announced

export class Chat {
  /** `model()`: { id, max_model_len } or null; `save(conversation)`. */
  constructor(server, model, save) {
    this._server = server;
    this._model = model;
    this._save = save;
    this._runs = new Map(); // conversation id -> { message, abort }: answers go on while another is shown
    this._views = [];
    this._prompt = byId("prompt");
    this._scroll = byId("scroll");
    this._following = true;
    this._scroll.addEventListener("scroll", () => {
      const { scrollHeight, scrollTop, clientHeight } = this._scroll;
      this._following = scrollHeight - scrollTop - clientHeight < 48;
    });
    byId("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      this._send();
    });
    byId("stop").addEventListener("click", () => this.stop());
    this._prompt.addEventListener("input", () => this._fit());
    this._prompt.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this._send();
    });
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && !document.querySelector("dialog[open]")) this.stop();
    });
  }

  show(conversation) {
    this.conversation = conversation;
    this._views = [];
    byId("messages").replaceChildren();
    this._following = true;
    this.update();
  }

  isRunning(conversation) {
    return this._runs.has(conversation.id);
  }

  stop(conversation = this.conversation) {
    this._runs.get(conversation.id)?.abort.abort();
  }

  /** Shows what has changed: views of messages that are still there stay. */
  update() {
    const shown = tree.path(this.conversation);
    const list = byId("messages");
    const run = this._runs.get(this.conversation.id);
    this._views = shown.map((message, i) => {
      const old = this._views[i];
      const view = old?.message === message ? old : new MessageView(message, this._acts(message));
      if (list.children[i] !== view.node) {
        if (list.children[i]) list.children[i].replaceWith(view.node);
        else list.append(view.node);
      }
      const family = tree.siblings(this.conversation, message);
      view.update(run?.message === message, [family.indexOf(message), family.length]);
      return view;
    });
    while (list.children.length > shown.length) list.lastElementChild.remove();
    byId("empty").hidden = shown.length > 0;
    byId("send").hidden = Boolean(run);
    byId("stop").hidden = !run;
    this._gauges(shown);
    this._follow();
  }

  // -- acts ---------------------------------------------------------------------------------------------------

  _send() {
    const text = this._prompt.value.trim();
    if (!text || this.isRunning(this.conversation)) return;
    this._prompt.value = "";
    this._fit();
    this._following = true;
    const last = tree.path(this.conversation).at(-1);
    this._generate(tree.add(this.conversation, last?.id ?? null, "user", text));
  }

  _acts(message) {
    const conversation = this.conversation;
    const idle = (act) => (given) => {
      if (!this.isRunning(conversation)) act(given);
    };
    return {
      edit: idle((text) => this._generate(tree.add(conversation, message.parent, "user", text))),
      regenerate: idle(() => this._generate(tree.find(conversation, message.parent))),
      retry: idle(() => {
        if (!message.content) tree.remove(conversation, message);
        this._generate(tree.find(conversation, message.parent));
      }),
      choose: idle((step) => {
        const family = tree.siblings(conversation, message);
        const next = family[family.indexOf(message) + step];
        tree.choose(conversation, next);
        this._save(conversation);
        this._following = false;
        this.update();
        const view = this._views.find((view) => view.message === next);
        const arrow = view.node.querySelector(`[data-step="${step}"]:enabled`) ?? view.node.querySelector("[data-step]:enabled");
        arrow?.focus();
        announce(`${family.indexOf(next) + 1} of ${family.length}: ${next.content.slice(0, SPOKEN)}`);
      }),
    };
  }

  /** Asks for an answer to the user's message `asked`. */
  async _generate(asked) {
    const conversation = this.conversation;
    const model = this._model();
    const shown = tree.path(conversation);
    const asking = shown.slice(0, shown.indexOf(asked) + 1);
    const message = tree.add(conversation, asked.id, "assistant", "");
    message.finish = "interrupted"; // if the page is closed meanwhile
    const abort = new AbortController();
    this._runs.set(conversation.id, { message, abort });
    conversation.updated = Date.now();
    this._save(conversation);
    this.update();
    announce("The answer is coming.");
    // Once what is shown was replaced, the focus may be on something that is gone.
    if (document.activeElement === document.body) this._prompt.focus();

    let saved = performance.now();
    const painter = new Painter(() => this._progress(conversation, message));
    const request = requestOf(conversation, asking, model?.id);
    await answer(this._server, request, message, abort.signal, () => {
      painter.ask();
      if (performance.now() - saved > SAVE) {
        saved = performance.now();
        this._save(conversation);
      }
    });
    painter.stop();
    if (message.error) delete message.finish;
    this._runs.delete(conversation.id);
    conversation.updated = Date.now();
    this._save(conversation);
    if (this.conversation === conversation) {
      const stopFocused = document.activeElement === byId("stop");
      this.update();
      if (stopFocused || document.activeElement === document.body) this._prompt.focus();
      const more = message.content.length > SPOKEN ? " …" : "";
      if (!message.error) announce(`Answer: ${message.content.slice(0, SPOKEN)}${more}`);
    }
  }

  /** A piece has come. */
  _progress(conversation, message) {
    if (this.conversation !== conversation) return;
    const view = this._views.find((view) => view.message === message);
    if (!view) return;
    view.update(true, [0, 1]);
    this._gauges(tree.path(conversation));
    this._follow();
  }

  // -- around the messages ------------------------------------------------------------------------------------

  _gauges(shown) {
    const last = shown.findLast((message) => message.role === "assistant");
    const room = this._model()?.max_model_len ?? 0;
    // Between two answers' counts, the pieces that have come are the best guess.
    const before = shown.findLast((message) => message.usage)?.usage.total_tokens ?? 0;
    const used = before + (last && !last.usage ? (last.pieces ?? 0) : 0);
    byId("speed").textContent = last?.speed ? `${last.speed.toFixed(1)} tokens/s` : "";
    const meter = byId("meter");
    meter.max = room || 1;
    meter.high = 0.85 * (room || 1);
    meter.value = Math.min(used, meter.max);
    const number = (value) => value.toLocaleString("en");
    byId("context").textContent = room ? `Context ${number(used)} of ${number(room)}` : "Context";
  }

  _follow() {
    if (this._following) this._scroll.scrollTop = this._scroll.scrollHeight;
  }

  _fit() {
    this._prompt.style.height = "auto";
    this._prompt.style.height = `${this._prompt.scrollHeight + 2}px`;
  }
}
