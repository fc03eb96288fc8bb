// Elements are built, never parsed from text: what a model writes can only become text.

const SVG = "http://www.w3.org/2000/svg";

export const byId = (id) => document.getElementById(id);

/** An element. `on` holds listeners, anything else is an attribute; true sets an empty one, false none. */
export function element(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

export function button(label, onClick, attributes = {}) {
  return element("button", { type: "button", ...attributes, on: { click: onClick } }, label);
}

function fill(node, { on = {}, ...attributes }, children) {
  for (const [name, listener] of Object.entries(on)) node.addEventListener(name, listener);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) node.setAttribute(name, "");
    else if (value !== false && value != null) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child != null));
  return node;
}

/** Draws when asked to: once a frame at most, and no more than a fifth of the time. */
export class Painter {
  constructor(draw) {
    this._draw = draw;
    this._frame = 0;
    this._rest = 0; // until then
    this._timer = 0;
  }

  ask() {
    if (this._frame || this._timer) return;
    const wait = this._rest - performance.now();
    if (wait > 0) this._timer = setTimeout(() => ((this._timer = 0), this._next()), wait);
    else this._next();
  }

  stop() {
    clearTimeout(this._timer);
    cancelAnimationFrame(this._frame);
  }

  _next() {
    this._frame = requestAnimationFrame(() => {
      const begun = performance.now();
      this._frame = 0;
      this._draw();
      const ended = performance.now();
      this._rest = ended + 4 * (ended - begun);
    });
  }
}

/** Says a sentence to users of screen readers. */
export function announce(text) {
  const region = byId("announcer");
  region.textContent = "";
  requestAnimationFrame(() => (region.textContent = text));
}

/** Copies text. The clipboard's interface exists only on https and localhost: elsewhere a selection does it. */
export async function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = element("textarea", { class: "unseen" });
  area.value = text;
  document.body.append(area);
  area.select();
  const copied = document.execCommand("copy");
  area.remove();
  if (!copied) throw new Error("the browser does not allow it");
}

/** A button that copies what `text()` returns and says so. */
export function copyButton(text, label = "Copy") {
  const node = button(label, async () => {
    try {
      await copy(text());
      node.textContent = "Copied";
    } catch {
      node.textContent = "Not copied";
    }
    announce(node.textContent);
    setTimeout(() => (node.textContent = label), 1500);
  });
  return node;
}

/** Gives the user a file. */
export function download(name, text) {
  const link = element("a", { href: URL.createObjectURL(new Blob([text], { type: "application/json" })) });
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
