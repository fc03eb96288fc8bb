// One answer of the model, from the request to its last token.

import { events } from "./api.js";

/** The request's JSON for the messages of `shown`. Settings that are not set are the model's to choose. */
export function requestOf({ system, settings }, shown, model) {
  const { thinking, stop, ...sampling } = settings;
  const messages = shown
    .filter((message) => message.role === "user" || message.content)
    .map(({ role, content }) => ({ role, content }));
  if (system.trim()) messages.unshift({ role: "system", content: system });
  const request = { model, messages, ...sampling };
  if (stop) request.stop = stop.split("\n").filter(Boolean);
  if (thinking) request.chat_template_kwargs = { enable_thinking: thinking === "on" };
  return request;
}

/** Fills `message` while it comes and calls `changed` for each piece. Never throws: message.error tells. */
export async function answer(server, request, message, signal, changed) {
  const stream = { ...request, stream: true, stream_options: { include_usage: true } };
  let first = 0;
  let pieces = 0;
  message.model = request.model;
  try {
    const response = await server.request("v1/chat/completions", { body: stream, signal });
    for await (const chunk of events(response)) {
      const choice = chunk.choices[0];
      const { content, reasoning_content: reasoning, tool_calls: calls } = choice?.delta ?? {};
      if (content || reasoning || calls) {
        const now = performance.now();
        first ||= now;
        // A piece is mostly a token; the server's own figure replaces this one at the end.
        if (++pieces > 1) message.speed = ((pieces - 1) * 1000) / (now - first);
        message.pieces = pieces;
        message.content += content ?? "";
        message.reasoning += reasoning ?? "";
      }
      if (choice?.finish_reason) message.finish = choice.finish_reason;
      if (chunk.usage) message.usage = chunk.usage;
      if (chunk.timings) message.speed = chunk.timings.decode_tokens_per_second || message.speed;
      changed();
    }
  } catch (error) {
    if (error.name === "AbortError") message.finish = "stopped";
    else message.error = error.message;
  }
}
