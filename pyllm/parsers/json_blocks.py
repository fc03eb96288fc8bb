"""Models that write calls as JSON between markers of their own."""

from __future__ import annotations

from typing import ClassVar

from pyllm.parsers.forced import Json
from pyllm.parsers.hermes import JsonBlocks


class Cohere(JsonBlocks):
    """Command R7B, Command A."""

    markers = ("<|START_ACTION|>",)
    ends: ClassVar = {"<|START_ACTION|>": "<|END_ACTION|>"}
    texts = ("<|END_ACTION|>",)


class Nemotron(JsonBlocks):
    """Nemotron Nano 2."""

    markers = ("<TOOLCALL>",)
    ends: ClassVar = {"<TOOLCALL>": "</TOOLCALL>"}
    texts = ("</TOOLCALL>",)
    written = Json('{"name": "NAME", "arguments": ', begin="<TOOLCALL>[", end="]</TOOLCALL>")


class ToolCalls(JsonBlocks):
    """Apriel, MiniMax M1."""

    markers = ("<tool_calls>",)
    ends: ClassVar = {"<tool_calls>": "</tool_calls>"}
    texts = ("</tool_calls>",)
    written = Json('{"name": "NAME", "arguments": ', begin="<tool_calls>[", end="]</tool_calls>")
    quotable = True


class GigaChat(JsonBlocks):
    """GigaChat 3.1."""

    markers = ("<|function_call|>",)
    ends: ClassVar = {"<|function_call|>": "<|message_sep|>"}
    written = Json('<|function_call|>{"name": "NAME", "arguments": ', between="\n")


class Granite(JsonBlocks):
    """Granite 3, Phi 4 mini."""

    markers = ("<|tool_call|>",)
    ends: ClassVar = {"<|tool_call|>": "<|/tool_call|>"}
    texts = ("<|/tool_call|>",)
    written = Json('{"name": "NAME", "arguments": ', begin="<|tool_call|>[", end="]")
