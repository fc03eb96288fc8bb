"""Which model writes how: by its chat template and its architecture, or by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pyllm.errors import PyllmError
from pyllm.parsers import (
    deepseek,
    functionary,
    gemma,
    generic,
    glm,
    harmony,
    hermes,
    json_blocks,
    lfm2,
    llama3,
    mistral,
    xml,
)
from pyllm.parsers.parser import Format, Parser
from pyllm.parsers.reasoning import THINKING
from pyllm.parsers.tools import Tools

if TYPE_CHECKING:
    from pyllm.tokenizer import Tokenizer

FORMATS: Mapping[str, type[Format]] = {
    "hermes": hermes.Hermes,
    "llama3": llama3.Llama3,
    "llama4": llama3.Llama4,
    "mistral": mistral.Mistral,
    "gemma3": gemma.Gemma3,
    "gemma4": gemma.Gemma4,
    "functiongemma": gemma.FunctionGemma,
    "qwen3-coder": xml.Qwen3Coder,
    "seed": xml.Seed,
    "minimax": xml.MiniMax,
    "deepseek-xml": xml.DeepSeekXml,
    "deepseek": deepseek.DeepSeek,
    "kimi": deepseek.Kimi,
    "glm": glm.Glm,
    "gpt-oss": harmony.Harmony,
    "lfm2": lfm2.Lfm2,
    "olmo3": lfm2.Olmo3,
    "cohere": json_blocks.Cohere,
    "nemotron": json_blocks.Nemotron,
    "tool-calls": json_blocks.ToolCalls,
    "gigachat": json_blocks.GigaChat,
    "granite": json_blocks.Granite,
    "functionary": functionary.Functionary,
    "json": generic.Bare,
    "generic": generic.Generic,
}

# Texts that a template holds, all of them; the first row that fits counts.
_FORMAT_SIGNS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("gpt-oss", ("<|channel|>", "<|message|>")),
    ("gemma4", ("<|tool_call>",)),
    ("functiongemma", ("<start_function_call>",)),
    ("deepseek-xml", ("DSML",)),
    ("deepseek", ("<｜tool▁call▁begin｜>",)),
    ("kimi", ("<|tool_call_begin|>",)),
    ("minimax", ("<minimax:tool_call>",)),
    ("seed", ("seed:tool_call>",)),
    ("glm", ("<tool_call>", "<arg_key>")),
    ("qwen3-coder", ("<function=", "<parameter=")),
    ("functionary", ("<function=", "</function>")),
    ("mistral", ("[TOOL_CALLS]",)),
    ("cohere", ("<|START_ACTION|>",)),
    ("nemotron", ("<TOOLCALL>",)),
    ("lfm2", ("<|tool_call_start|>",)),
    ("lfm2", ("<|tool_list_start|>",)),
    ("olmo3", ("<function_calls>",)),
    ("gigachat", ("<|function_call|>",)),
    ("tool-calls", ("<tool_calls>",)),
    ("hermes", ("<tool_call>",)),
    ("granite", ("<|tool_call|>",)),
    ("granite", ("<|start_of_role|>",)),
    ("llama4", ("<|header_start|>",)),
    ("llama3", ("<|start_header_id|>",)),
    ("gemma3", ("<start_of_turn>",)),
)
_THINKING_SIGNS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("gemma4", ("<|channel>",)),
    ("mistral", ("[/THINK]",)),
    ("cohere", ("<|END_THINKING|>",)),
    ("seed", ("seed:think>",)),
    ("minimax-m3", ("</mm:think>",)),
    ("apertus", ("<|inner_suffix|>",)),
    ("apriel", ("[BEGIN FINAL RESPONSE]",)),
    ("think", ("</think>",)),
)
_ARCHITECTURES = {
    "gpt-oss": "gpt-oss",
    "llama4": "llama4",
    "gemma3": "gemma3",
    "gemma4": "gemma4",
    "lfm2": "lfm2",
    "lfm2moe": "lfm2",
    "smollm3": "hermes",
}


@dataclass(frozen=True)
class Dialect:
    """How one model writes calls and reasoning: names in FORMATS and THINKING, None for not at all."""

    format: str | None
    thinking: str | None

    def __post_init__(self) -> None:
        for what, name, known in (("tool calls", self.format, FORMATS), ("reasoning", self.thinking, THINKING)):
            if name is not None and name not in known:
                raise PyllmError(f"format of {what}: expected one of {', '.join(known)}, got {name!r}")

    def told(self) -> Dialect:
        """As it writes where the prompt told it to call by plain JSON, as pyllm.tool_prompt does."""
        reads_json = self.format is None or issubclass(FORMATS[self.format], generic.Bare | harmony.Harmony)
        return self if reads_json else replace(self, format="generic")

    def finds(self, tools: object | None) -> bool:
        """Whether there is anything to find in answers: reasoning, or calls of `tools`."""
        return tools is not None or self.thinking is not None or self.format == "gpt-oss"

    def parser(
        self,
        *,
        tools: Iterable[Mapping[str, Any]] | None = None,
        prompt: str = "",
        new_id: Callable[[], str] | None = None,
    ) -> Parser:
        """A parser for one answer. tools: the request's; None leaves calls in the content. prompt: its end at
        least, control tokens included: it may have opened the reasoning. new_id: makes ids of calls."""
        thinking = THINKING[self.thinking] if self.thinking else None
        format = FORMATS[self.format] if self.format else None
        if tools is None and format is not harmony.Harmony:  # whose every answer is made of markers
            format = None
        inside = thinking is not None and thinking.opened_by(prompt)
        return Parser(format, thinking, Tools(tools or ()), inside, new_id)

    def visible_tokens(self, tokenizer: Tokenizer) -> tuple[int, ...]:
        """Control tokens that the parser must see: for SamplingParams.visible_tokens."""
        texts: list[str] = []
        if self.format:
            format = FORMATS[self.format]
            texts += [*format.markers, *format.texts]
        if self.thinking:
            texts += THINKING[self.thinking].texts
        found = tokenizer.special_tokens().split([(text + " ", True) for text in texts])
        return tuple(sorted({i for i in found if isinstance(i, int) and tokenizer.is_special(i)}))


def dialect_of(
    template: str,
    architecture: str = "",
    *,
    format: str | None = None,
    thinking: str | None = None,
) -> Dialect:
    """By the source of the chat template; `format` and `thinking` name one instead, "none" for none.

    A model without signs of its own gets the generic form: JSON, with or without markers.
    """
    format = format or _first(_FORMAT_SIGNS, template) or _ARCHITECTURES.get(architecture, "generic")
    thinking = thinking or _first(_THINKING_SIGNS, template)
    return Dialect(None if format == "none" else format, None if thinking == "none" else thinking)


def _first(signs: tuple[tuple[str, tuple[str, ...]], ...], template: str) -> str | None:
    return next((name for name, texts in signs if all(text in template for text in texts)), None)
