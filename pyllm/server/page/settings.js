// The form for a conversation's system prompt and sampling settings.

import { askForm } from "./dialogs.js";
import { element } from "./dom.js";

// name, label, lowest, highest, step
const NUMBERS = [
  ["temperature", "Temperature", 0, 2, 0.05],
  ["top_p", "Top p", 0, 1, 0.01],
  ["top_k", "Top k (0: all)", 0, 1000, 1],
  ["min_p", "Min p", 0, 1, 0.01],
  ["repetition_penalty", "Repetition penalty", 0.5, 2, 0.01],
  ["presence_penalty", "Presence penalty", -2, 2, 0.1],
  ["frequency_penalty", "Frequency penalty", -2, 2, 0.1],
  ["max_tokens", "Longest answer, tokens", 1, 1_000_000, 1],
  ["seed", "Seed", 0, 2 ** 31, 1],
];
const THINKING = [
  ["", "As the model does"],
  ["on", "On"],
  ["off", "Off"],
];

/** Asks, and returns { system, settings }; null when cancelled. Fields left empty are not in `settings`. */
export function askSettings({ system, settings }) {
  const systemPrompt = element("textarea", { rows: 4, autofocus: true });
  systemPrompt.value = system;
  const numbers = NUMBERS.map(([name, label, min, max, step]) => {
    const value = settings[name] ?? "";
    return [name, label, element("input", { type: "number", min, max, step, value, placeholder: "model's" })];
  });
  const thinking = element("select", {}, ...THINKING.map(([value, label]) => element("option", { value }, label)));
  thinking.value = settings.thinking ?? "";
  const stop = element("textarea", { rows: 2 });
  stop.value = settings.stop ?? "";
  const field = (label, input) => element("label", { class: "field" }, label, input);
  const body = [
    field("System prompt", systemPrompt),
    element(
      "fieldset",
      { class: "grid" },
      element("legend", {}, "Sampling"),
      ...numbers.map(([, label, input]) => field(label, input)),
      field("Thinking", thinking),
    ),
    field("Stop at any of these texts, one a line", stop),
    element("p", { class: "hint" }, "Empty fields have the model's recommended values. New conversations begin with these."),
  ];
  const read = () => {
    const given = {};
    for (const [name, , input] of numbers) if (input.value !== "") given[name] = input.valueAsNumber;
    if (thinking.value) given.thinking = thinking.value;
    if (stop.value.trim()) given.stop = stop.value;
    return { system: systemPrompt.value, settings: given };
  };
  return askForm({ title: "Settings of this conversation", body, read });
}
