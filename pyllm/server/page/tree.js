// A conversation is a tree of messages. Each message names its parent, and its parent is before it in the list;
// `chosen` is the child that is shown, of a message or (for the first messages) of the conversation.

const ROLES = ["user", "assistant"];

export function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

export function newConversation({ system = "", settings = {} } = {}) {
  const now = Date.now();
  const messages = [];
  return { id: newId(), title: "", created: now, updated: now, system, settings: { ...settings }, chosen: null, messages };
}

/** Adds a message under `parent` (an id; null: at the beginning) and shows it. */
export function add(conversation, parent, role, content) {
  const message = { id: newId(), parent, role, content, reasoning: "", chosen: null, created: Date.now() };
  conversation.messages.push(message);
  choose(conversation, message);
  return message;
}

export function find(conversation, id) {
  return conversation.messages.find((message) => message.id === id) ?? null;
}

export function children(conversation, parent) {
  return conversation.messages.filter((message) => message.parent === parent);
}

export const siblings = (conversation, message) => children(conversation, message.parent);

export function choose(conversation, message) {
  (find(conversation, message.parent) ?? conversation).chosen = message.id;
}

/** The messages that are shown, from the first on. */
export function path(conversation) {
  const shown = [];
  const families = Map.groupBy
    ? Map.groupBy(conversation.messages, (message) => message.parent)
    : grouped(conversation.messages);
  for (let from = conversation, parent = null; families.has(parent); parent = from.id) {
    const family = families.get(parent);
    from = family.find((message) => message.id === from.chosen) ?? family.at(-1);
    shown.push(from);
  }
  return shown;
}

function grouped(messages) {
  const families = new Map();
  for (const message of messages) {
    families.set(message.parent, [...(families.get(message.parent) ?? []), message]);
  }
  return families;
}

/** Removes a message and all below it. */
export function remove(conversation, message) {
  const gone = new Set([message.id]);
  for (const other of conversation.messages) if (gone.has(other.parent)) gone.add(other.id);
  conversation.messages = conversation.messages.filter((other) => !gone.has(other.id));
  const parent = find(conversation, message.parent) ?? conversation;
  parent.chosen = children(conversation, message.parent).at(-1)?.id ?? null;
}

export function titleOf(conversation) {
  if (conversation.title) return conversation.title;
  const first = path(conversation)[0]?.content.trim().replaceAll(/\s+/g, " ") ?? "";
  return first ? (first.length > 48 ? `${first.slice(0, 47)}…` : first) : "New conversation";
}

/** A conversation of a file, with a new id and only what it should hold. Error: what is wrong, and where. */
export function imported(data) {
  const text = (value, place) => {
    if (typeof value !== "string") throw new Error(`${place}: expected text`);
    return value;
  };
  if (!Array.isArray(data?.messages)) throw new Error("messages: expected a list");
  const conversation = newConversation({
    system: text(data.system ?? "", "system"),
    settings: importedSettings(data.settings ?? {}),
  });
  conversation.title = text(data.title ?? "", "title");
  if (Number.isFinite(data.created)) conversation.created = data.created;
  const ids = new Map([[null, null]]); // theirs -> ours
  data.messages.forEach((given, i) => {
    const place = `messages[${i}]`;
    if (!ROLES.includes(given?.role)) throw new Error(`${place}.role: expected user or assistant`);
    if (!ids.has(given.parent ?? null)) throw new Error(`${place}.parent: expected an earlier message`);
    const id = text(given.id, `${place}.id`);
    if (ids.has(id)) throw new Error(`${place}.id: expected one of its own`);
    const content = text(given.content, `${place}.content`);
    const message = add(conversation, ids.get(given.parent ?? null), given.role, content);
    ids.set(id, message.id);
    message.reasoning = text(given.reasoning ?? "", `${place}.reasoning`);
    if (typeof given.model === "string") message.model = given.model;
  });
  const theirs = [data, ...data.messages];
  [conversation, ...conversation.messages].forEach((node, i) => {
    if (ids.get(theirs[i].chosen)) node.chosen = ids.get(theirs[i].chosen);
  });
  return conversation;
}

function importedSettings(given) {
  const known = Object.entries(given).filter(([, value]) => ["string", "number"].includes(typeof value));
  return Object.fromEntries(known);
}
