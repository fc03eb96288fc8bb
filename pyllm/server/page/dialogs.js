// Questions to the user, in the browser's own dialogs: they keep the focus and close with Escape.

import { button, element } from "./dom.js";

/** Shows `body` and resolves to `read()` when the user agrees, else to null. */
function open(title, body, agree, read, attributes = {}) {
  return new Promise((resolve) => {
    const heading = element("h2", { id: "dialog-title" }, title);
    const close = (value) => {
      resolve(value);
      dialog.close();
    };
    const form = element(
      "form",
      {
        on: {
          submit: (event) => {
            event.preventDefault();
            close(read());
          },
        },
      },
      heading,
      ...body,
      element(
        "div",
        { class: "row end" },
        button("Cancel", () => close(null)),
        element("button", { type: "submit", class: "primary" }, agree),
      ),
    );
    const dialog = element("dialog", { "aria-labelledby": "dialog-title", ...attributes }, form);
    dialog.addEventListener("close", () => {
      resolve(null);
      dialog.remove();
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}

export function askText({ title, label, value = "", type = "text", note = "" }) {
  const input = element("input", { type, value, autocomplete: "off", autofocus: true });
  const body = [note && element("p", {}, note), element("label", { class: "field" }, label, input)];
  return open(title, body.filter(Boolean), "OK", () => input.value);
}

export async function confirmed({ title, text, agree }) {
  return (await open(title, [element("p", {}, text)], agree, () => true)) ?? false;
}

export function askForm({ title, body, read }) {
  return open(title, body, "Save", read, { class: "wide" });
}
