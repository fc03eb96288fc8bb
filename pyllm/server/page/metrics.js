// The tab of live metrics: asks /metrics each second while somebody looks.

import { element } from "./dom.js";
import { Plot } from "./plot.js";
import { parse } from "./prometheus.js";

const SPAN = 300; // seconds that plots show
const WINDOW = 10; // seconds that rates are taken over
const PERIOD = 1000; // ms

const count = (value) => value.toLocaleString("en", { maximumFractionDigits: value < 10 ? 1 : 0 });
const percent = (value) => `${(100 * value).toFixed(value < 0.1 && value > 0 ? 1 : 0)} %`;
const seconds = (value) => (value < 1 ? `${(1000 * value).toFixed(value < 0.01 ? 1 : 0)} ms` : `${value.toFixed(1)} s`);

const gauge = (name) => (samples, i) => samples[i].values.get(name) ?? null;

/** KV blocks that hold something, of all models that are loaded. */
function blocksUsed(samples, i) {
  const total = samples[i].values.get("pyllm_kv_blocks");
  return total ? 1 - samples[i].values.get("pyllm_kv_blocks_free") / total : null;
}

/** Growth of two counters over the last `span` seconds, [of a, of b]; null where nothing is known. */
function growth(samples, i, a, b, span) {
  const to = samples[i];
  const from = samples[Math.max(0, Math.min(i - 1, i - span))];
  const grown = [a, b].map((name) => {
    if (name === "time") return to.time - from.time;
    return to.values.has(name) && from.values.has(name) ? to.values.get(name) - from.values.get(name) : NaN;
  });
  return grown[1] > 0 && grown[0] >= 0 ? grown : null; // less than before: the server was restarted
}

/** The growth of one counter per growth of another ("time": per second) over a window. */
const ratio = (a, b, span = WINDOW) => (samples, i) => {
  const grown = growth(samples, i, a, b, span);
  return grown && grown[0] / grown[1];
};
const mean = (histogram) => ratio(`${histogram}_sum`, `${histogram}_count`);

const PLOTS = [
  {
    title: "Requests",
    series: [
      { label: "running", of: gauge("pyllm_requests_running") },
      { label: "waiting", of: gauge("pyllm_requests_waiting") },
    ],
    format: count,
  },
  {
    title: "Tokens per second",
    series: [
      { label: "answers", of: ratio("pyllm_inter_token_latency_seconds_count", "time", 3) },
      { label: "with prompts", of: ratio("pyllm_engine_tokens_total", "time", 3) },
    ],
    format: count,
  },
  { title: "KV cache in use", series: [{ label: "", of: blocksUsed }], format: percent, most: 1 },
  {
    title: "Prefix hit rate, last minute",
    series: [{ label: "", of: ratio("pyllm_prompt_cached_tokens_total", "pyllm_prompt_tokens_total", 60) }],
    format: percent,
    most: 1,
  },
  { title: "Time to first token", series: [{ label: "mean", of: mean("pyllm_time_to_first_token_seconds") }], format: seconds },
  { title: "Between tokens", series: [{ label: "mean", of: mean("pyllm_inter_token_latency_seconds") }], format: seconds },
];

export class Metrics {
  constructor(server, parent) {
    this._server = server;
    this._samples = [];
    this._shown = false;
    this._timer = 0;
    this._plots = PLOTS.map((plot) => new Plot(plot));
    this._error = element("p", { class: "error", role: "alert", hidden: true });
    parent.append(
      element("h2", {}, "Metrics"),
      element("p", { class: "hint" }, "The last five minutes. Asked for each second while this tab is shown."),
      this._error,
      element("div", { class: "plots" }, ...this._plots.map((plot) => plot.node)),
    );
    document.addEventListener("visibilitychange", () => this._tick());
  }

  /** Whether the tab is the one that is shown. */
  show(shown) {
    this._shown = shown;
    this._tick();
  }

  async _tick() {
    clearTimeout(this._timer);
    if (!this._shown || document.hidden || this._asking) return;
    this._asking = true;
    try {
      const text = await (await this._server.request("metrics")).text();
      const time = performance.now() / 1000;
      this._samples.push({ time, values: parse(text) });
      this._samples = this._samples.filter((sample) => time - sample.time <= SPAN);
      for (const plot of this._plots) plot.update(this._samples, SPAN);
      this._error.hidden = true;
    } catch (error) {
      this._error.textContent = error.message;
      this._error.hidden = false;
      if (error.status === 401) this._shown = false; // asked, and got no key: not again each second
    }
    this._asking = false;
    clearTimeout(this._timer);
    this._timer = setTimeout(() => this._tick(), PERIOD);
  }
}
