// The list of conversations, and what is done with whole ones.

import { askText, confirmed } from "./dialogs.js";
import { announce, button, byId, download, element } from "./dom.js";
import { askSettings } from "./settings.js";
import * as tree from "./tree.js";

const CURRENT = "pyllm.conversation"; // in sessionStorage: which one this tab shows

export class Conversations {
  /** `tell(text)`: shows a problem to the user. */
  constructor(store, chat, tell) {
    this._store = store;
    this._chat = chat;
    this._tell = tell;
    this._all = [];
    const on = (id, act) => byId(id).addEventListener("click", act);
    on("new", () => this._new());
    on("menu", () => this._menu(byId("menu").getAttribute("aria-expanded") !== "true"));
    on("settings", () => this._settings());
    on("rename", () => this._rename());
    on("delete", () => this._delete());
    on("export", () => this._export([this._current]));
    on("export-all", () => this._export(this._all));
    on("import", () => byId("import-file").click());
    byId("import-file").addEventListener("change", (event) => this._import(event.target));
    byId("side").addEventListener("keydown", (event) => {
      if (event.key === "Escape" && byId("menu").getAttribute("aria-expanded") === "true") {
        event.stopPropagation();
        this._menu(false);
        byId("menu").focus();
      }
    });
  }

  async load() {
    this._all = await this._store.all();
    const id = sessionStorage.getItem(CURRENT);
    this._show(this._all.find((conversation) => conversation.id === id) ?? this._all[0] ?? tree.newConversation());
  }

  /** Called for each change. A conversation is kept from its first message on. */
  async save(conversation) {
    if (!conversation.messages.length) return;
    if (!this._all.includes(conversation)) {
      if (conversation.deleted) return;
      this._all.push(conversation);
    }
    this._all.sort((a, b) => b.updated - a.updated);
    this._list();
    try {
      await this._store.put(conversation);
    } catch (error) {
      this._tell(`The conversation could not be kept: ${error.message}`);
    }
  }

  _show(conversation) {
    this._current = conversation;
    sessionStorage.setItem(CURRENT, conversation.id);
    this._chat.show(conversation);
    this._list();
  }

  _list() {
    const title = tree.titleOf(this._current);
    byId("title").textContent = title;
    document.title = `${title} - pyllm`;
    const focused = document.activeElement?.dataset?.conversation;
    byId("conversations").replaceChildren(
      ...this._all.map((conversation) => {
        const open = () => {
          this._show(conversation);
          this._menu(false);
        };
        const current = conversation === this._current && "true";
        const attributes = { "aria-current": current, "data-conversation": conversation.id };
        const node = button(tree.titleOf(conversation), open, attributes);
        return element("li", {}, node);
      }),
    );
    if (focused) document.querySelector(`[data-conversation="${focused}"]`)?.focus();
  }

  _menu(open) {
    byId("menu").setAttribute("aria-expanded", open);
    if (open) byId("new").focus();
  }

  _new() {
    this._show(tree.newConversation(this._current));
    this._menu(false);
    byId("prompt").focus();
  }

  async _settings() {
    const conversation = this._current;
    const given = await askSettings(conversation);
    if (!given) return;
    Object.assign(conversation, given);
    this.save(conversation);
  }

  async _rename() {
    const conversation = this._current;
    const title = await askText({ title: "Rename", label: "Title", value: tree.titleOf(conversation) });
    if (title === null) return;
    conversation.title = title.trim();
    this.save(conversation);
    this._list();
  }

  async _delete() {
    const conversation = this._current;
    const text = `“${tree.titleOf(conversation)}” will be gone from this browser.`;
    if (!(await confirmed({ title: "Delete the conversation?", text, agree: "Delete" }))) return;
    conversation.deleted = true; // an answer that still comes must not bring it back
    this._chat.stop(conversation);
    this._all = this._all.filter((other) => other !== conversation);
    await this._store.delete(conversation.id);
    this._show(this._all[0] ?? tree.newConversation());
    announce("Deleted.");
    byId("prompt").focus();
  }

  _export(conversations) {
    const name = conversations.length === 1 ? tree.titleOf(conversations[0]) : "conversations";
    const file = `${name.replaceAll(/[^\p{L}\p{N}]+/gu, "-").slice(0, 40) || "conversation"}.json`;
    download(file, JSON.stringify({ format: "pyllm-conversations", version: 1, conversations }, null, 1));
  }

  async _import(input) {
    const [file] = input.files;
    input.value = ""; // the same file again is a change again
    if (!file) return;
    try {
      const data = JSON.parse(await file.text());
      if (!Array.isArray(data?.conversations)) throw new Error("conversations: expected a list");
      const added = data.conversations.map((given, i) => {
        try {
          return tree.imported(given);
        } catch (error) {
          throw new Error(`conversations[${i}].${error.message}`);
        }
      });
      for (const conversation of added) await this.save(conversation);
      if (added.length) this._show(added[0]);
      this._menu(false);
      announce(`${added.length} conversations imported.`);
    } catch (error) {
      this._tell(`${file.name} was not imported: ${error.message}`);
    }
  }
}
