// Markdown as chat models write it, to DOM nodes. HTML in it stays text; images become links, so that nothing
// is loaded from elsewhere. Every scan is linear, and nesting is bounded: the text may be hostile.

import { copyButton, element } from "./dom.js";

const DEPTH = 8; // of quotes, lists and emphasis
const FENCE = /^ {0,3}(`{3,}|~{3,}) *([^`\s]*)[^`]*$/;
const HEADING = /^ {0,3}(#{1,6})(?:[ \t]+|$)/;
const ITEM = /^( *)([-*+]|\d{1,9}[.)])(?: +|$)/;
const QUOTE = /^ {0,3}> ?/;
const URL_TEXT = /https?:\/\/[^\s<>"'`\])}]{1,2000}/y;

/** Shows `text` in `parent`. Of a text that has grown only the end is looked at: what came before stays. */
export function show(parent, text) {
  // More text can change the last line's kind, and so the last block and the one that it may join.
  const grown = parent.shown && text.startsWith(parent.shown);
  const kept = grown ? Math.max(0, parent.children.length - 2) : 0;
  const start = kept ? parent.children[kept].begins : 0;
  const blocks = split(text.slice(start).split("\n"));
  blocks.forEach((block, i) => {
    const old = parent.children[kept + i];
    const same = old?.source === block.source && old?.kind === block.kind;
    const node = same ? old : render(block, 0);
    // Names that no element has: a list's `start` would be the number of its first item.
    Object.assign(node, { source: block.source, kind: block.kind, begins: start + block.start });
    if (same) return;
    if (old) old.replaceWith(node);
    else parent.append(node);
  });
  while (parent.children.length > kept + blocks.length) parent.lastElementChild.remove();
  parent.shown = text;
}

// -- blocks ---------------------------------------------------------------------------------------------------

/** Blocks; `start`: the character of the text where one begins. */
function split(lines) {
  const blocks = [];
  let start = 0;
  for (let i = 0; i < lines.length; ) {
    if (!lines[i].trim()) {
      start += lines[i++].length + 1;
      continue;
    }
    const kind = kindOf(lines, i);
    const end = ENDS[kind](lines, i);
    const source = lines.slice(i, end).join("\n");
    blocks.push({ kind, lines: lines.slice(i, end), source, start });
    start += source.length + 1;
    i = end;
  }
  return blocks;
}

function kindOf(lines, i) {
  const line = lines[i];
  if (FENCE.test(line)) return "code";
  if (HEADING.test(line)) return "heading";
  if (isRule(line)) return "rule";
  if (QUOTE.test(line)) return "quote";
  if (ITEM.test(line)) return "list";
  if (line.includes("|") && alignments(lines[i + 1])) return "table";
  return "paragraph";
}

const ENDS = {
  code(lines, i) {
    const fence = FENCE.exec(lines[i])[1];
    for (let j = i + 1; j < lines.length; j++) {
      const line = lines[j].trim();
      if (line.startsWith(fence) && line === fence[0].repeat(line.length)) return j + 1;
    }
    return lines.length;
  },
  heading: (lines, i) => i + 1,
  rule: (lines, i) => i + 1,
  quote: (lines, i) => firstWhere(lines, i + 1, (j) => !QUOTE.test(lines[j])),
  table: (lines, i) => firstWhere(lines, i + 2, (j) => !lines[j].includes("|")),
  paragraph: (lines, i) => firstWhere(lines, i + 1, (j) => !lines[j].trim() || kindOf(lines, j) !== "paragraph"),
  list(lines, i) {
    const first = ITEM.exec(lines[i]);
    for (let j = i + 1; j < lines.length; j++) {
      if (!lines[j].trim() || indent(lines[j]) > first[1].length) continue;
      const blankBefore = !lines[j - 1].trim();
      if (isRule(lines[j])) return j;
      const item = ITEM.exec(lines[j]);
      if (item ? sort(item[2]) !== sort(first[2]) : blankBefore || kindOf(lines, j) !== "paragraph") return j;
    }
    return lines.length;
  },
};

function firstWhere(lines, start, test) {
  let i = start;
  while (i < lines.length && !test(i)) i++;
  return i;
}

const indent = (line) => line.length - line.trimStart().length;
const sort = (marker) => (/\d/.test(marker) ? marker.at(-1) : marker);

function isRule(line) {
  const marks = line.replaceAll(" ", "");
  return marks.length >= 3 && "-*_".includes(marks[0]) && marks === marks[0].repeat(marks.length);
}

function render({ kind, lines }, depth) {
  switch (kind) {
    case "code":
      return code(lines);
    case "heading": {
      const level = HEADING.exec(lines[0])[1].length;
      const text = lines[0].replace(HEADING, "").trim().replace(/ #+$/, "");
      // The page's own headings are h1 and h2.
      return element(`h${Math.min(level + 2, 6)}`, {}, ...inline(text, depth));
    }
    case "rule":
      return element("hr");
    case "quote":
      return element("blockquote", {}, ...nested(lines.map((line) => line.replace(QUOTE, "")), depth));
    case "list":
      return list(lines, depth);
    case "table":
      return table(lines, depth);
    default:
      return element("p", {}, ...inline(lines.map((line) => line.trim()).join("\n"), depth));
  }
}

function nested(lines, depth) {
  if (depth >= DEPTH) return [lines.join("\n")];
  return split(lines).map((block) => render(block, depth + 1));
}

function code(lines) {
  const [, fence, language] = FENCE.exec(lines[0]);
  const margin = indent(lines[0]);
  const last = lines.length > 1 && lines.at(-1).trim().startsWith(fence) ? -1 : undefined;
  const body = lines.slice(1, last).map((line) => line.slice(Math.min(margin, indent(line))));
  const text = body.join("\n");
  const name = language || "text";
  return element(
    "div",
    { class: "code" },
    element("div", { class: "code-head" }, element("span", {}, name), copyButton(() => text)),
    element("pre", { tabindex: "0", role: "region", "aria-label": `Code, ${name}` }, element("code", {}, text)),
  );
}

function list(lines, depth) {
  const first = ITEM.exec(lines[0]);
  const items = [];
  let width = 0;
  for (const line of lines) {
    const item = ITEM.exec(line);
    if (item && item[1].length <= first[1].length) {
      width = item[0].length;
      items.push([line.slice(width)]);
    } else {
      items.at(-1).push(line.slice(Math.min(width, indent(line))));
    }
  }
  const ordered = /\d/.test(first[2]);
  const start = ordered && parseInt(first[2], 10);
  const tight = !lines.some((line, i) => !line.trim() && i < lines.length - 1);
  return element(
    ordered ? "ol" : "ul",
    { start: ordered && start !== 1 ? start : false, class: tight ? "tight" : false },
    ...items.map((item) => element("li", {}, ...nested(item, depth))),
  );
}

function table(lines, depth) {
  const aligned = alignments(lines[1]);
  const row = (line, tag) => {
    const found = cells(line);
    return element(
      "tr",
      {},
      ...aligned.map((align, i) => {
        const scope = tag === "th" ? "col" : false;
        return element(tag, { scope, class: align }, ...inline(found[i] ?? "", depth));
      }),
    );
  };
  return element(
    "div",
    { class: "table", tabindex: "0", role: "region", "aria-label": "Table" },
    element(
      "table",
      {},
      element("thead", {}, row(lines[0], "th")),
      element("tbody", {}, ...lines.slice(2).map((line) => row(line, "td"))),
    ),
  );
}

function cells(line) {
  const text = line.trim().replace(/^\|/, "").replace(/\|$/, "");
  return text.split(/(?<!\\)\|/).map((cell) => cell.trim().replaceAll("\\|", "|"));
}

/** Of a table's second line, per column; null when it is none. */
function alignments(line) {
  if (!line || !line.includes("-") || !line.includes("|")) return null;
  const found = cells(line);
  if (!found.every((cell) => /^:?-+:?$/.test(cell))) return null;
  return found.map((cell) => (cell.endsWith(":") ? (cell.startsWith(":") ? "center" : "right") : "left"));
}

// -- inline ---------------------------------------------------------------------------------------------------

const EMPHASIS = [
  ["***", (inner) => element("strong", {}, element("em", {}, ...inner))],
  ["**", (inner) => element("strong", {}, ...inner)],
  ["__", (inner) => element("strong", {}, ...inner)],
  ["~~", (inner) => element("del", {}, ...inner)],
  ["*", (inner) => element("em", {}, ...inner)],
  ["_", (inner) => element("em", {}, ...inner)],
];
const ESCAPED = /[!-/:-@[-`{-~]/;
const WORD = /[\p{L}\p{N}_]/u;

/** Nodes and strings. */
function inline(text, depth) {
  if (depth > 2 * DEPTH) return [text];
  const nodes = [];
  const closers = new Map(); // delimiter -> where the next search for it may begin; Infinity: there is none
  let plain = 0;
  let i = 0;
  const put = (node, end) => {
    if (i > plain) nodes.push(text.slice(plain, i));
    nodes.push(node);
    i = plain = end;
  };
  while (i < text.length) {
    const found = next(text, i, depth, closers);
    if (found) put(...found);
    else i += text[i] === "`" || text[i] === "*" || text[i] === "_" ? run(text, i) : 1;
  }
  if (i > plain) nodes.push(text.slice(plain));
  return nodes;
}

/** What begins at text[i], as [node, its end]; null for plain text. */
function next(text, i, depth, closers) {
  switch (text[i]) {
    case "\n":
      return [element("br"), i + 1];
    case "\\":
      return ESCAPED.test(text[i + 1] ?? "") ? [text[i + 1], i + 2] : null;
    case "`":
      return codeSpan(text, i, closers);
    case "[":
      return link(text, i, depth);
    case "!":
      return text[i + 1] === "[" ? link(text, i + 1, depth) : null;
    case "h":
      return address(text, i);
    case "*":
    case "_":
    case "~":
      return emphasis(text, i, depth, closers);
    default:
      return null;
  }
}

function run(text, i) {
  let end = i;
  while (text[end] === text[i]) end++;
  return end - i;
}

function codeSpan(text, i, closers) {
  const fence = "`".repeat(run(text, i));
  if (closers.get(fence) === Infinity) return null;
  for (let end = i + fence.length; ; ) {
    end = text.indexOf(fence, end);
    if (end < 0) {
      closers.set(fence, Infinity);
      return null;
    }
    const length = run(text, end);
    if (length === fence.length) {
      const inner = text.slice(i + fence.length, end).replaceAll("\n", " ");
      const padded = inner.startsWith(" ") && inner.endsWith(" ") && inner.trim();
      return [element("code", {}, padded ? inner.slice(1, -1) : inner), end + fence.length];
    }
    end += length;
  }
}

function emphasis(text, i, depth, closers) {
  for (const [mark, wrap] of EMPHASIS) {
    if (!text.startsWith(mark, i)) continue;
    const start = i + mark.length;
    const word = mark[0] === "_";
    if (!text[start]?.trim() || text[start] === mark[0] || (word && WORD.test(text[i - 1] ?? ""))) continue;
    const end = closer(text, start + 1, mark, word, closers);
    if (end > 0) return [wrap(inline(text.slice(start, end), depth + 1)), end + mark.length];
  }
  return null;
}

function closer(text, start, mark, word, closers) {
  let at = Math.max(start, closers.get(mark) ?? 0);
  while ((at = text.indexOf(mark, at)) >= 0) {
    const length = run(text, at);
    const before = text[at - 1];
    const inside = before.trim() && before !== mark[0] && before !== "\\";
    if (inside && (length === mark.length || length === 3) && !(word && WORD.test(text[at + length] ?? ""))) {
      closers.set(mark, at);
      return at + (length > mark.length ? length - mark.length : 0);
    }
    at += length;
  }
  closers.set(mark, Infinity);
  return -1;
}

function link(text, i, depth) {
  let open = 0;
  let end = i;
  for (const limit = Math.min(text.length, i + 500); end < limit; end++) {
    if (text[end] === "[") open++;
    else if (text[end] === "]" && --open === 0) break;
  }
  if (text[end] !== "]" || open || text[end + 1] !== "(") return null;
  const target = /\(\s*<?((?:[^\s()<>]|\([^\s()]{0,500}\)){1,2000})>?(?:\s+"[^"\n]{0,500}")?\s{0,9}\)/y;
  target.lastIndex = end + 1;
  const found = target.exec(text);
  const safe = found && webAddress(found[1]);
  if (!safe) return null;
  const label = text.slice(i + 1, end);
  return [anchor(safe, label.trim() ? inline(label, 2 * DEPTH + depth) : [safe]), target.lastIndex];
}

function address(text, i) {
  if (WORD.test(text[i - 1] ?? "")) return null;
  URL_TEXT.lastIndex = i;
  const found = URL_TEXT.exec(text)?.[0].replace(/[.,;:!?*_~]+$/, "");
  const safe = found && webAddress(found);
  return safe ? [anchor(safe, [found]), i + found.length] : null;
}

/** The address if it is one of the web, else null: javascript:, data: and their like stay text. */
function webAddress(text) {
  if (!/^https?:\/\//i.test(text)) return null;
  try {
    return new URL(text).href;
  } catch {
    return null;
  }
}

function anchor(href, children) {
  return element("a", { href, rel: "noopener noreferrer nofollow", target: "_blank" }, ...children);
}
