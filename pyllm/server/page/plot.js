// A small line plot over the last minutes.

import { element, svg } from "./dom.js";

const WIDTH = 320;
const HEIGHT = 96;
const GAP = 5; // seconds without a sample: the line is broken

export class Plot {
  /** `series`: { label, of(samples, i) -> number or null }; `format`: of a value; `most`: top of the axis. */
  constructor({ title, series, format, most }) {
    Object.assign(this, { _title: title, _series: series, _format: format, _most: most });
    this._lines = series.map((_, i) => svg("path", { class: `line line-${i}` }));
    this._svg = svg(
      "svg",
      { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" },
      svg("path", { class: "axis", d: `M0 ${HEIGHT - 0.5}H${WIDTH}M0 0.5H${WIDTH}` }),
      ...this._lines,
    );
    this._values = series.map(() => element("strong", {}, "–"));
    const keys = series.map((line, i) =>
      element("span", { class: `key key-${i}` }, line.label && `${line.label} `, this._values[i]),
    );
    this._top = element("span", { class: "top" });
    this.node = element(
      "figure",
      { class: "plot" },
      element("figcaption", {}, element("h3", {}, title), element("p", {}, ...keys)),
      element("div", { class: "area" }, this._top, this._svg),
    );
  }

  /** `samples`: of [seconds, values]; `span`: seconds that the plot shows. */
  update(samples, span) {
    const now = samples.at(-1).time;
    const drawn = this._series.map(({ of }) => samples.map((sample, i) => [sample.time, of(samples, i)]));
    const all = drawn.flat().flatMap(([, value]) => (value == null ? [] : [value]));
    const top = this._most ?? ceiling(Math.max(0, ...all));
    drawn.forEach((points, i) => {
      this._lines[i].setAttribute("d", path(points, now, span, top));
      const last = points.at(-1)[1];
      this._values[i].textContent = last == null ? "–" : this._format(last);
    });
    this._top.textContent = this._format(top);
    const said = this._series.map(({ label }, i) => `${label} ${this._values[i].textContent}`.trim());
    this._svg.setAttribute("aria-label", `${this._title}: now ${said.join(", ")}; the axis ends at ${this._format(top)}`);
  }
}

function path(points, now, span, top) {
  let before = null;
  let d = "";
  for (const [time, value] of points) {
    if (value != null) {
      const x = WIDTH * (1 - (now - time) / span);
      const y = HEIGHT - 1 - (HEIGHT - 2) * Math.min(1, value / top);
      d += `${before !== null && time - before <= GAP ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`;
    }
    before = value == null ? null : time;
  }
  return d;
}

/** 1, 2 or 5 times a power of ten, not below `value`. */
function ceiling(value) {
  if (value <= 0) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].find((step) => step * power >= value) * power;
}
