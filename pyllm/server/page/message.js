// How one message looks, and what can be done with it.

import { button, copyButton, element } from "./dom.js";
import { show } from "./markdown.js";

const FINISHED = { length: "cut off at the longest length", stopped: "stopped", interrupted: "interrupted" };

export class MessageView {
  /** `acts`: what its buttons do: edit, regenerate, retry, choose(step). */
  constructor(message, acts) {
    this.message = message;
    this._acts = acts;
    const own = message.role === "user";
    this._body = element("div", { class: own ? "text" : "text markdown" });
    this._reasoning = element("div", { class: "markdown" });
    this._summary = element("summary", {}, "Reasoning");
    this._details = element("details", { class: "reasoning", hidden: true }, this._summary, this._reasoning);
    this._error = element("p", { class: "error", role: "alert", hidden: true });
    this._note = element("span", { class: "note" });
    this._branch = element("span", { class: "branch" });
    this._tools = element("div", { class: "tools" });
    this.node = element(
      "li",
      { class: message.role },
      element(
        "article",
        { "aria-label": own ? "You" : "Answer" },
        this._details,
        this._body,
        this._error,
        this._tools,
      ),
    );
  }

  /** `running`: it still comes; `position`: [which of its siblings, how many]. */
  update(running, position) {
    const { role, content, reasoning, error, finish, speed } = this.message;
    if (role === "user") this._body.textContent = content;
    else show(this._body, content);
    this._details.hidden = !reasoning;
    // Folded, it costs nothing until somebody looks.
    if (this._details.open || !running) show(this._reasoning, reasoning);
    this._summary.textContent = running && !content ? "Reasoning…" : "Reasoning";
    this.node.classList.toggle("running", running);
    this.node.firstElementChild.setAttribute("aria-busy", running);
    this._error.hidden = !error;
    this._error.replaceChildren(error ?? "", " ", button("Retry", this._acts.retry));
    if (running) {
      this._tools.replaceChildren();
      return;
    }
    const rate = speed ? `${speed.toFixed(1)} tokens/s` : "";
    this._note.textContent = [rate, FINISHED[finish]].filter(Boolean).join(", ");
    this._showBranch(...position);
    const own = role === "user";
    this._tools.replaceChildren(
      this._branch,
      copyButton(() => this.message.content),
      own ? button("Edit", () => this._edit()) : button("Regenerate", this._acts.regenerate),
      this._note,
    );
  }

  _showBranch(index, count) {
    const what = this.message.role === "user" ? "version" : "answer";
    if (count < 2) {
      this._branch.replaceChildren();
      return;
    }
    const arrow = (sign, label, step) =>
      button(sign, () => this._acts.choose(step), {
        "aria-label": `${label} ${what}`,
        disabled: index + step < 0 || index + step >= count,
        "data-step": step,
      });
    this._branch.replaceChildren(
      arrow("‹", "Previous", -1),
      element("span", { "aria-label": `${what} ${index + 1} of ${count}` }, `${index + 1}/${count}`),
      arrow("›", "Next", 1),
    );
  }

  _edit() {
    const area = element("textarea", { "aria-label": "Edit message", rows: 3 });
    area.value = this.message.content;
    const done = () => {
      form.replaceWith(this._body);
      this._tools.hidden = false;
      this._tools.querySelector("button:last-of-type").focus();
    };
    const send = (event) => {
      event.preventDefault();
      if (area.value.trim()) this._acts.edit(area.value);
    };
    const keys = (event) => {
      if (event.key === "Escape") {
        event.stopPropagation();
        done();
      } else if (event.key === "Enter" && !event.shiftKey && !event.isComposing) send(event);
    };
    const form = element(
      "form",
      { class: "edit", on: { submit: send, keydown: keys } },
      area,
      element(
        "div",
        { class: "row end" },
        button("Cancel", done),
        element("button", { type: "submit", class: "primary" }, "Send"),
      ),
    );
    this._body.replaceWith(form);
    this._tools.hidden = true;
    area.focus();
  }
}
