"""Chat templates: messages to the prompt that the model was trained on.

A model's own Jinja template runs in sandbox.py. Whatever messages, tools and arguments hold stays plain text in
the prompt: only what the template's author wrote becomes control tokens.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pyllm import tool_prompt
from pyllm.errors import PyllmError
from pyllm.marked import Marked, marks_of, segments

if TYPE_CHECKING:
    from pyllm.sandbox import CompiledTemplate
    from pyllm.tokenizer import Tokenizer
    from pyllm.vocabulary import Metadata

# Templates make markers of some of these ('<|' + role + '|>'), so they count as the template's own words.
ROLES = (
    "system",
    "developer",
    "user",
    "assistant",
    "tool",
    "function",
    "ipython",
    "observation",
    "model",
    "document",
    "context",
    "available_tools",
    "tool_results",
)
_MAX_DEPTH = 64  # of values within values
_PROBE = "A probe."  # a system message that shows whether a template has one
_USER = {"role": Marked("user"), "content": "Hi"}

# For models whose file has no template: by the tokens that the vocabulary has, the first that fit.
_CHATML = """\
{%- for message in messages -%}
{{ '<|im_start|>' + message.role + '\\n' + message.content | trim + '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}
"""
_LLAMA3 = """\
{%- for message in messages -%}
{{ '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' + message.content | trim + '<|eot_id|>' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif -%}
"""
_GEMMA = """\
{%- set first = namespace(text='') -%}
{%- for message in messages -%}
{%- if message.role in ('system', 'developer') -%}
{%- set first.text = first.text + message.content | trim + '\\n\\n' -%}
{%- else -%}
{{ '<start_of_turn>' + ('model' if message.role == 'assistant' else 'user') + '\\n' }}
{{- first.text + message.content | trim + '<end_of_turn>\\n' }}
{%- set first.text = '' -%}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<start_of_turn>model\\n' }}{%- endif -%}
"""
_PLAIN = """\
{%- for message in messages -%}
{{ message.role | capitalize + ': ' + message.content | trim + '\\n\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ 'Assistant:' }}{%- endif -%}
"""
_BUILT_IN: tuple[tuple[str, str, tuple[bytes, ...]], ...] = (
    ("chatml", _CHATML, (b"<|im_start|>", b"<|im_end|>")),
    ("llama3", _LLAMA3, (b"<|start_header_id|>", b"<|end_header_id|>", b"<|eot_id|>")),
    ("gemma", _GEMMA, (b"<start_of_turn>", b"<end_of_turn>")),
    ("plain", _PLAIN, ()),
)


def template_text(file: Metadata) -> str:
    """The source of all the templates that a file brings; "" where there is none."""
    keys = ("tokenizer.chat_template", "tokenizer.chat_template.tool_use")
    return "\n".join(_source(file, key) or "" for key in keys)


class ChatTemplate:
    """One model's way to write a conversation. Any number of threads may use one.

    Attributes: source (Jinja); built_in (the name of pyllm's own form that is used: chatml, llama3, gemma or
    plain; None when the file brings its template); stop (texts that end an answer where no token does).
    """

    def __init__(
        self,
        source: str,
        tokenizer: Tokenizer,
        *,
        tool_source: str | None = None,
        built_in: str | None = None,
    ) -> None:
        """Raises PyllmError when a source is no template. tool_source: used instead when there are tools."""
        self.source = source
        self.built_in = built_in
        self.stop = ("\nUser:",) if built_in == "plain" else ()
        self._tokenizer = tokenizer
        self._template = _compile(source)
        self._tool_template = None if tool_source is None else _compile(tool_source)
        self._special = tokenizer.special_tokens(reserved=source + (tool_source or ""))
        self._tokens = {
            f"{name}_token": Marked(tokenizer.vocabulary.tokens[i].decode("utf-8", "replace"))
            for name in ("bos", "eos", "pad", "unk")
            if (i := getattr(tokenizer, "unknown" if name == "unk" else name)) is not None
        }

    @classmethod
    def from_gguf(cls, file: Metadata, tokenizer: Tokenizer) -> ChatTemplate:
        """The file's own template; where it has none, a built-in form that fits the vocabulary."""
        source = _source(file, "tokenizer.chat_template")
        if source is not None:
            return cls(source, tokenizer, tool_source=_source(file, "tokenizer.chat_template.tool_use"))
        ids = tokenizer.vocabulary.ids
        name, source, _ = next(form for form in _BUILT_IN if all(token in ids for token in form[2]))
        bos = "{{- bos_token -}}\n" if tokenizer.add_bos else ""
        return cls(bos + source, tokenizer, built_in=name)

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        **arguments: Any,
    ) -> str:
        """The prompt as text. Further arguments (enable_thinking, documents) go to the template as they are.

        Raises PyllmError for messages of a wrong form, and for a template that fails, refuses or runs too long.
        """
        return str.__str__(self._render(messages, tools, add_generation_prompt, arguments))

    def encode(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        **arguments: Any,
    ) -> list[int]:
        """The prompt as token ids. Text that users wrote never becomes a control token."""
        text = self._render(messages, tools, add_generation_prompt, arguments)
        return self._tokenizer.encode_segments(segments(text), self._special)

    def _render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None,
        add_generation_prompt: bool,
        arguments: Mapping[str, Any],
    ) -> str:
        names = ("reasoning_content", "thinking", "reasoning")
        reader = _Reader(next((name for name in names if name in self.source), names[0]))
        read = {name: reader.read(value, name) for name, value in arguments.items()}
        turns = reader.messages(messages)
        given = reader.read(list(tools), "tools") if tools else None
        if (given or tool_prompt.has_calls(turns)) and not self.takes_tools:
            turns = turns if self._takes_calls else tool_prompt.as_text(turns)
            turns = tool_prompt.described(turns, given, self._takes_system) if given else turns
        return self._write(turns, given, {**read, "add_generation_prompt": add_generation_prompt}, reader.size)

    def _write(
        self, messages: Sequence[Any], tools: Sequence[Any] | None, arguments: Mapping[str, Any], size: int
    ) -> str:
        values = {**self._tokens, **arguments, "messages": list(messages), "tools": tools}
        template = self._tool_template if self._tool_template is not None and tools else self._template
        text = template.render(values, size)
        assert len(marks_of(text)) == len(text)
        return text

    # -- what the template has a place for ---------------------------------------------------------------------

    @cached_property
    def takes_tools(self) -> bool:
        """Whether the prompt is another one with tools. If not, they are described in the system message."""
        if self._tool_template is None and "tools" not in self.source:
            return False
        system = {"role": Marked("system"), "content": _PROBE}
        texts = [
            (self._written(messages), self._written(messages, [tool_prompt.EXAMPLE]))
            for messages in ([_USER], [system, _USER])
        ]
        return any(plain != text for plain, text in texts) or all(text is None for _, text in texts)

    @cached_property
    def _takes_calls(self) -> bool:
        """Whether it writes calls and results of earlier turns."""
        return "tool_calls" in self.source or "'tool'" in self.source or '"tool"' in self.source

    @cached_property
    def _takes_system(self) -> bool:
        return _PROBE in (self._written([{"role": Marked("system"), "content": _PROBE}, _USER]) or "")

    def _written(self, messages: Sequence[Any], tools: Sequence[Any] | None = None) -> str | None:
        """A prompt of messages of ours; None where the template fails."""
        try:
            return str.__str__(self._write(messages, tools, {"add_generation_prompt": True}, 1000))
        except PyllmError:
            return None


class _Reader:
    """Copies what callers pass into plain lists, dicts, texts and numbers, and counts it."""

    def __init__(self, reasoning: str = "reasoning_content") -> None:
        """reasoning: what the template calls a message's reasoning_content."""
        self.size = 0  # values and their characters
        self._reasoning = reasoning
        self._called: dict[str, str] = {}  # names by the ids of calls

    def messages(self, messages: Any) -> list[dict[str, Any]]:
        if isinstance(messages, str | bytes | Mapping) or not isinstance(messages, Sequence):
            raise PyllmError(f"messages: expected a list of messages, found {_kind(messages)}")
        if not messages:
            raise PyllmError("messages: expected at least one message, found none")
        return [self._message(message, f"messages[{i}]") for i, message in enumerate(messages)]

    def _message(self, message: Any, place: str) -> dict[str, Any]:
        if not isinstance(message, Mapping):
            raise PyllmError(f"{place}: expected a message with role and content, found {_kind(message)}")
        copy: dict[str, Any] = self.read(dict(message), place)
        role = copy.get("role")
        if role not in ROLES:
            shown = "none" if role is None else repr(role)[:60]
            raise PyllmError(f"{place}.role: expected one of {', '.join(ROLES)}, found {shown}")
        copy["role"] = Marked(role)
        content = copy.get("content")
        if isinstance(content, list):
            content = "\n".join(_part(part, f"{place}.content[{i}]") for i, part in enumerate(content))
        if content is None:
            if role != "assistant":
                raise PyllmError(f"{place}.content: expected text, found none")
            content = ""
        if not isinstance(content, str):
            raise PyllmError(f"{place}.content: expected text or a list of text parts, found {_kind(content)}")
        copy["content"] = content
        if copy.get("tool_calls") is not None:
            copy["tool_calls"] = _tool_calls(copy["tool_calls"], f"{place}.tool_calls")
            self._remember(copy["tool_calls"])
        if (
            role == "tool"
            and "name" not in copy
            and (called := self._called.get(str(copy.get("tool_call_id"))))
        ):
            copy["name"] = called
        reasoning = copy.get("reasoning_content")
        if reasoning and self._reasoning != "reasoning_content":
            copy.setdefault(self._reasoning, reasoning)
        return copy

    def _remember(self, calls: list[Any]) -> None:
        """Results of calls give an id alone; some templates want the name."""
        for call in calls:
            name = call.get("function", call).get("name")
            if isinstance(call.get("id"), str) and isinstance(name, str):
                self._called[call["id"]] = name

    def read(self, value: Any, place: str, depth: int = 0) -> Any:
        self.size += 1
        if value is None or isinstance(value, bool | int | float):
            return value
        if isinstance(value, str):
            self.size += len(value)
            return str.__str__(value)
        if depth > _MAX_DEPTH:
            raise PyllmError(f"{place}: values within values more than {_MAX_DEPTH} deep")
        if isinstance(value, Mapping):
            for key in value:
                if not isinstance(key, str):
                    raise PyllmError(f"{place}: expected names as keys, found {key!r:.60}")
            return {
                str.__str__(key): self.read(item, f"{place}.{key}", depth + 1) for key, item in value.items()
            }
        if isinstance(value, list | tuple):
            return [self.read(item, f"{place}[{i}]", depth + 1) for i, item in enumerate(value)]
        raise PyllmError(
            f"{place}: expected text, a number, true, false, a list or a mapping, found {_kind(value)}"
        )


def _part(part: Any, place: str) -> str:
    if not isinstance(part, dict) or part.get("type") not in ("text", "input_text", "output_text"):
        kind = part.get("type") if isinstance(part, dict) else _kind(part)
        raise PyllmError(f"{place}: expected a part of type 'text', found {kind!r:.60}; pyllm reads text only")
    text = part.get("text")
    if not isinstance(text, str):
        raise PyllmError(f"{place}.text: expected text, found {_kind(text)}")
    return text


def _tool_calls(calls: Any, place: str) -> list[Any]:
    """Arguments as the mappings that templates expect, where a client sent them as JSON text."""
    if not isinstance(calls, list):
        raise PyllmError(f"{place}: expected a list of calls, found {_kind(calls)}")
    for i, call in enumerate(calls):
        if not isinstance(call, dict):
            raise PyllmError(f"{place}[{i}]: expected a call, found {_kind(call)}")
        function = call.get("function", call)
        if not isinstance(function, dict):
            raise PyllmError(f"{place}[{i}].function: expected name and arguments, found {_kind(function)}")
        arguments = function.get("arguments")
        if isinstance(arguments, str):
            try:
                parsed = json.loads(arguments)
            except (ValueError, RecursionError):
                continue
            if isinstance(parsed, dict):
                function["arguments"] = parsed
    return calls


def _compile(source: str) -> CompiledTemplate:
    from pyllm.sandbox import CompiledTemplate  # jinja2 takes a tenth of a second to import

    return CompiledTemplate(source)


def _source(file: Metadata, key: str) -> str | None:
    source = file.get(key)
    if source is not None and not isinstance(source, str):
        raise PyllmError(f"{key}: expected text, found {_kind(source)}")
    return source


def _kind(value: Any) -> str:
    return "none" if value is None else type(value).__name__
