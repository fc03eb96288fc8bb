"""Parsers of answers: every format, cut at every point, from random calls, from real templates, and hostile."""

# ruff: noqa: E501

from __future__ import annotations

import ast
import itertools
import json
import os
import random
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vocabularies import CONTROL, USER_DEFINED, byte_level, write_vocabulary

from pyllm.errors import PyllmError
from pyllm.parsers import (
    FORMATS,
    THINKING,
    Call,
    CallArguments,
    CallStart,
    Content,
    Dialect,
    Message,
    dialect_of,
    merge,
)
from pyllm.parsers.markdown import CodeBlocks
from pyllm.parsers.values import JSON, PYTHON, Notation, converted
from pyllm.sampling import SamplingParams
from pyllm.template import ChatTemplate
from pyllm.tokenizer import Tokenizer

TEMPLATES = os.environ.get("PYLLM_TEST_TEMPLATES")


def tool(name: str, **parameters: Any) -> dict[str, Any]:
    properties = {
        key: {"description": "x", **({"type": kind} if isinstance(kind, str) else kind)}
        for key, kind in parameters.items()
    }
    schema = {"type": "object", "properties": properties, "required": []}
    return {"type": "function", "function": {"name": name, "description": "x", "parameters": schema}}


TOOLS = [
    tool("get_weather", city="string", days="array", o="object", n={"type": ["integer", "null"]}),
    tool("now"),
    tool("python", code="string"),
]


def parse(
    pieces: Iterable[str], format: str | None, thinking: str | None = None, prompt: str = "", tools: Any = TOOLS
) -> Message:
    numbers = itertools.count()
    parser = Dialect(format, thinking).parser(tools=tools, prompt=prompt, new_id=lambda: f"id{next(numbers)}")
    deltas = [delta for piece in pieces for delta in parser.feed(piece)] + parser.finish()
    started = [delta.index for delta in deltas if isinstance(delta, CallStart)]
    assert started == list(range(parser.calls))  # once each, in order
    for position, delta in enumerate(deltas):
        if isinstance(delta, CallArguments):
            before = [d.index for d in deltas[:position] if isinstance(d, CallStart)]
            assert before[-1] == delta.index
        if not isinstance(delta, CallStart):
            assert delta.text
    return merge(deltas)


def cuts(text: str, seed: int = 0) -> Iterable[list[str]]:
    """The text as it is, cut once at every point, into characters, and at random."""
    yield [text]
    yield list(text)
    for at in range(1, len(text)):
        yield [text[:at], text[at:]]
    dice = random.Random(seed)
    for _ in range(20):
        places = sorted(dice.choices(range(len(text) + 1), k=dice.randint(2, 12)))
        yield [text[a:b] for a, b in itertools.pairwise([0, *places, len(text)])]


def check(text: str, format: str | None, expected: Message, **options: Any) -> None:
    for pieces in cuts(text):
        assert parse(pieces, format, **options) == expected, pieces


def message(content: str, *calls: tuple[str, str], reasoning: str = "", ids: Iterable[str] = ()) -> Message:
    known = list(ids) or [f"id{i}" for i in range(len(calls))]
    return Message(content, reasoning, [Call(i, *call) for i, call in zip(known, calls, strict=True)])


# -- what models write ---------------------------------------------------------------------------------------------

ROME = ("get_weather", '{"city": "Rome"}')
MANY = ("get_weather", '{"city": "Zürich \\"x\\" }{", "days": [1, 2], "o": {"a": {"b": null}}}')
NOW = ("now", "{}")
EXAMPLES: list[tuple[str, str, Message]] = [
    (
        "hermes",
        f'Let me.\n<tool_call>\n{{"name": "get_weather", "arguments": {MANY[1]}}}\n</tool_call>\n<tool_call>\n{{"name": "now", "arguments": {{}}}}\n</tool_call>',
        message("Let me.", MANY, NOW),
    ),
    (
        "hermes",
        '<tool_call>{"arguments": {"city": "Rome"}, "name": "get_weather"}</tool_call> Done 🎉.',
        message(" Done 🎉.", ROME),
    ),
    (
        "hermes",
        '<tool_call>[{"name": "now"}, {"name": "get_weather", "arguments": "{\\"city\\": \\"Rome\\"}"}]</tool_call>\n',
        message("", NOW, ROME),
    ),
    (
        "hermes",
        '<tool_call>{"id": "a1", "type": "function", "function": {"name": "get_weather", "arguments": {"city": "Rome"}}}</tool_call>',
        message("", ROME, ids=["a1"]),
    ),
    (
        "hermes",
        '<tool_call>{"name": "now", "arguments": null}\n{"name": "unknown", "arguments": {"a":1}}</tool_call>',
        message("", NOW, ("unknown", '{"a":1}')),
    ),
    (
        "hermes",
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome"}\n</tool_call>',
        message("", ROME),
    ),
    (
        "hermes",
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome"}}}\n</tool_call>',
        message("", ROME),
    ),
    (
        "hermes",
        '<tool_call>{"name": "get_weather", "arguments": {"city": "a\nb\\d\\\'c", "n": None, "days": [1, 2,],}}</tool_call>',
        message("", ("get_weather", '{"city": "a\\nb\\\\d\'c", "n": null, "days": [1, 2]}')),
    ),
    ("llama3", '{"name": "get_weather", "parameters": {"city": "Rome"}}', message("", ROME)),
    (
        "llama3",
        '<|python_tag|>{"type": "function", "name": "get_weather", "parameters": {"city": "Rome"}}; {"name": "now", "parameters": {}}',
        message("", ROME, NOW),
    ),
    ("llama3", 'Sure.\n\n{"name": "now", "parameters": {}}\n', message("Sure.", NOW)),
    (
        "llama3",
        '<|python_tag|>brave_search.call(query="a \\"b\\"")',
        message("", ("brave_search", '{"query": "a \\"b\\""}')),
    ),
    (
        "llama3",
        '<|python_tag|>x = {"a": 1}\nprint(x)',
        message("", ("python", '{"code": "x = {\\"a\\": 1}\\nprint(x)"}')),
    ),
    ("llama3", "[get_weather(city='Rome'), now()]", message("", ROME, NOW)),
    ("llama4", "<|python_start|>[get_weather(city='Rome'), now()]<|python_end|>", message("", ROME, NOW)),
    ("llama4", '[get_weather(city="Zürich \\"x\\" }{", days=[1, 2], o={"a": {"b": None}})]', message("", MANY)),
    (
        "mistral",
        f'[TOOL_CALLS][{{"name": "get_weather", "arguments": {MANY[1]}, "id": "call00001"}}, {{"name": "now", "arguments": {{}}, "id": "call00002"}}]',
        message("", MANY, NOW),
    ),
    (
        "mistral",
        f"Let me.[TOOL_CALLS]get_weather[CALL_ID]call00001[ARGS]{MANY[1]}[TOOL_CALLS]now[ARGS]{{}}",
        message("Let me.", MANY, NOW, ids=["call00001", "id0"]),
    ),
    ("mistral", '[TOOL_CALLS]get_weather{"city": "Rome"}', message("", ROME)),
    (
        "gemma3",
        "I look.\n```tool_code\nprint(get_weather('Rome'))\n```\nDone.",
        message("I look.\nDone.", ROME),
    ),
    ("gemma3", '```json\n{"name": "get_weather", "parameters": {"city": "Rome"}}\n```', message("", ROME)),
    (
        "gemma3",
        "[get_weather(city='Rome', n=None)]",
        message("", ("get_weather", '{"city": "Rome", "n": null}')),
    ),
    (
        "gemma3",
        "```tool_code\ndefault_api.get_weather(days=(1, 0x10, -1.5e3), city='''a\n'b' \\x41\\u00e9''')\n```",
        message("", ("get_weather", '{"days": [1, 16, -1.5e3], "city": "a\\n\'b\' A\\u00e9"}')),
    ),
    (
        "gemma4",
        '<|tool_call>call:get_weather{city:<|"|>Zürich "x" }{<|"|>,days:[1,2],o:{a:{b:null}}}<tool_call|><|tool_call>call:now{}<tool_call|>',
        message("", ("get_weather", '{"city":"Zürich \\"x\\" }{","days":[1,2],"o":{"a":{"b":null}}}'), NOW),
    ),
    (
        "functiongemma",
        "<start_function_call>call:get_weather{city:<escape>Rome<escape>}<end_function_call>",
        message("", ("get_weather", '{"city":"Rome"}')),
    ),
    (
        "qwen3-coder",
        'Let me.\n\n<tool_call>\n<function=get_weather>\n<parameter=city>\nRome\n"5" </x>\n</parameter>\n<parameter=days>\n[1, 2]\n</parameter>\n<parameter=n>\nnull\n</parameter>\n</function>\n</tool_call>\n<tool_call>\n<function=now>\n</function>\n</tool_call>',
        message("Let me.", ("get_weather", '{"city": "Rome\\n\\"5\\" </x>", "days": [1, 2], "n": null}'), NOW),
    ),
    (
        "qwen3-coder",
        "<function=get_weather>\n<parameter=city>\n12\n</parameter>\n</function>",
        message("", ("get_weather", '{"city": "12"}')),
    ),
    (
        "seed",
        "<seed:tool_call>\n<function=get_weather>\n<parameter=o>{'a': None}</parameter>\n</function>\n</seed:tool_call>",
        message("", ("get_weather", '{"o": {"a": null}}')),
    ),
    (
        "minimax",
        '<minimax:tool_call>\n<invoke name="get_weather">\n<parameter name="city">Rome</parameter>\n</invoke>\n<invoke name="now">\n</invoke>\n</minimax:tool_call>',
        message("", ROME, NOW),
    ),
    (
        "deepseek-xml",
        '<｜DSML｜function_calls>\n<｜DSML｜invoke name="get_weather">\n<｜DSML｜parameter name="city" string="true">Rome</｜DSML｜parameter>\n<｜DSML｜parameter name="days" string="false">[1]</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜function_calls>',
        message("", ("get_weather", '{"city": "Rome", "days": [1]}')),
    ),
    (
        "deepseek",
        'Hm.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n```json\n{"city": "Rome"}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n```json\n{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>',
        message("Hm.", ROME, NOW),
    ),
    (
        "deepseek",
        '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>{"city": "Rome"}<｜tool▁call▁end｜><｜tool▁calls▁end｜>',
        message("", ROME),
    ),
    (
        "kimi",
        '<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0<|tool_call_argument_begin|>{"city": "Rome"}<|tool_call_end|><|tool_call_begin|>functions.now:1<|tool_call_argument_begin|>{}<|tool_call_end|><|tool_calls_section_end|>',
        message("", ROME, NOW, ids=["functions.get_weather:0", "functions.now:1"]),
    ),
    (
        "glm",
        "Hm.\n<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Rome</arg_value>\n<arg_key>days</arg_key>\n<arg_value>[1]</arg_value>\n</tool_call>\n<tool_call>now</tool_call>",
        message("Hm.", ("get_weather", '{"city": "Rome", "days": [1]}'), NOW),
    ),
    (
        "gpt-oss",
        '<|channel|>analysis<|message|>Hm so.<|end|><|start|>assistant<|channel|>commentary<|message|>I look.<|end|><|start|>assistant<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{"city": "Rome"}<|call|>',
        message("I look.", ROME, reasoning="Hm so."),
    ),
    ("gpt-oss", " to=functions.now<|channel|>commentary json<|message|>{}", message("", NOW)),
    ("gpt-oss", "<|channel|>final<|message|>Hello to=you\n", message("Hello to=you\n")),
    ("gpt-oss", "no channel to=all", message("no channel to=all")),
    (
        "lfm2",
        "Hm.<|tool_call_start|>[get_weather(city='Rome'), now()]<|tool_call_end|>Wait.",
        message("Hm.Wait.", ROME, NOW),
    ),
    ("olmo3", '<function_calls>get_weather(city="Rome")\nnow()</function_calls>', message("", ROME, NOW)),
    (
        "cohere",
        '<|START_ACTION|>[\n    {"tool_call_id": "0", "tool_name": "get_weather", "parameters": {"city": "Rome"}}\n]<|END_ACTION|>',
        message("", ROME, ids=["0"]),
    ),
    (
        "nemotron",
        '<TOOLCALL>[{"name": "get_weather", "arguments": {"city": "Rome"}}, {"name": "now", "arguments": {}}]</TOOLCALL>',
        message("", ROME, NOW),
    ),
    (
        "tool-calls",
        '<tool_calls>\n{"name": "get_weather", "arguments": {"city": "Rome"}}\n{"name": "now", "arguments": {}}\n</tool_calls>',
        message("", ROME, NOW),
    ),
    ("granite", '<|tool_call|>[{"name": "get_weather", "arguments": {"city": "Rome"}}]', message("", ROME)),
    (
        "gigachat",
        'Hm.<|function_call|>{"name": "get_weather", "arguments": {"city": "Rome"}}',
        message("Hm.", ROME),
    ),
    (
        "functionary",
        '<function=get_weather>{"city": "Rome"}</function><function=now>{}</function>',
        message("", ROME, NOW),
    ),
    (
        "json",
        '[{"name": "get_weather", "arguments": {"city": "Rome"}}, {"name": "now", "arguments": {}}]',
        message("", ROME, NOW),
    ),
    ("json", '{"name": "now", "arguments": {}}', message("", NOW)),
    ("generic", '<tool_call>{"name": "now"}</tool_call>', message("", NOW)),
]


def test_every_format_has_an_example() -> None:
    assert {format for format, _, _ in EXAMPLES} == set(FORMATS)


@pytest.mark.parametrize(("format", "text", "expected"), EXAMPLES)
def test_examples_however_they_are_cut(format: str, text: str, expected: Message) -> None:
    check(text, format, expected)


@pytest.mark.parametrize(("format", "text", "expected"), EXAMPLES)
def test_answers_that_break_off_lose_nothing(format: str, text: str, expected: Message) -> None:
    """Cut off anywhere: no exception, the same however it came, and calls a beginning of the whole ones."""
    for end in range(len(text)):
        found = parse([text[:end]], format)
        assert found == parse(list(text[:end]), format)
        for call, whole in zip(found.calls, expected.calls, strict=False):
            # A tag's beginning may still have been code for an interpreter.
            assert (call.id, call.name) in ((whole.id, whole.name), (whole.id, "python"))


@pytest.mark.parametrize("format", [None, *FORMATS])
@pytest.mark.parametrize(
    "text",
    [
        "", "Hello, wörld 🎉!\n", "  \n", " a \n\n b ", "<", "<tool", "a <tool_cal", "[", "{", "[TOOL_", "`", "```", "```\n```\n",
        "```python\nx = {1: [2]}\n```\n", '{"a": 1}\n', '{"name": "Ada", "age": 36}', "[1, 2, 3]", "[link](http://x)\n", "{name: x}",
        '{"name": "unknown_tool", "arguments": {}}', "<function", "<tool_call", "a < b > c", "<|python_ta", "<|channel", "x to=y",
    ],
)  # fmt: skip
def test_text_that_is_no_call_is_content(format: str | None, text: str) -> None:
    check(text, format, message(text))


@pytest.mark.parametrize(
    ("format", "text"),
    [
        ("hermes", "Use <tool_call> and </tool_call>."),
        ("hermes", "<tool_call>not JSON</tool_call> x"),
        ("hermes", '<tool_call>{"nam'),
        ("hermes", '<tool_call>{"arguments": {"a": [1, 2'),
        ("hermes", '<tool_call>{"name": 5, "arguments": {}}</tool_call>'),
        ("hermes", '```xml\n<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>\n```\nThat is how.'),
        ("hermes", 'Write `<tool_call>{"name": "now"}</tool_call>` so.'),
        ("hermes", "<tool_call>{}</tool_call>"),
        ("mistral", "[TOOL_CALLS] none"),
        ("mistral", "[TOOL_CALLS]get_weather[ARGS]none"),
        ("llama3", "<|python_tag|>"),
        ("llama3", "[get_weather] is a tool; [unknown(x=1)] is none"),
        ("llama4", "<|python_start|>hm"),
        ("gemma3", '```json\n{"city": "Rome"}\n```\nThat was JSON.'),
        ("gemma3", "```tool_code\nunknown(x=1)\n```"),
        ("gemma4", "<|tool_call>x"),
        ("qwen3-coder", "<function=>"),
        ("qwen3-coder", "<tool_call>\n\nx"),
        ("glm", "<tool_call>some text</tool_call>"),
        ("deepseek", "<｜tool▁calls▁begin｜>x"),
        ("kimi", "<|tool_calls_section_begin|>\n<|tool_call_begin|>x<|"),
        ("lfm2", "<|tool_call_start|>[x]<|tool_call_end|>"),
    ],
)
def test_what_only_looks_like_a_call_is_given_back(format: str, text: str) -> None:
    check(text, format, message(text))


def test_a_call_after_code_and_after_a_false_start() -> None:
    call = '<tool_call>{"name": "now", "arguments": {}}</tool_call>'
    check(f"```\n{call}\n```\n{call}", "hermes", message(f"```\n{call}\n```", NOW))
    check(f"<tool_call> is it:\n{call}", "hermes", message("<tool_call> is it:", NOW))
    check(f"<tool_call>{call}", "hermes", message("<tool_call>", NOW))


def test_arguments_that_are_broken_are_kept_as_written() -> None:
    check(
        '<tool_call>{"name": "now", "arguments": {"a": 1, b: 2}}</tool_call> x',
        "hermes",
        message(" x", ("now", '{"a": 1, b: 2}}')),
    )
    check('<tool_call>{"name": "now", "arguments": {"a": "b', "hermes", message("", ("now", '{"a": "b')))
    check("[now(a=1+2)]", "llama3", message("", ("now", '{"a": 1+2)]')))


def test_half_surrogates_never_reach_a_client() -> None:
    """No UTF-8 holds them: an answer with one could not be sent."""
    check(
        '<tool_call>{"name": "a\\ud800b", "id": "\\udfff", "arguments": {"x": "\\ud83d\\ude00"}}</tool_call>',
        "hermes",
        message("", ("a\ufffdb", '{"x": "\\ud83d\\ude00"}'), ids=["\ufffd"]),
    )
    check(
        '<tool_call>{"name": "now", "arguments": "{\\"x\\": \\"\\ud83d\\ude00\\ud800\\"}"}</tool_call>',
        "hermes",
        message("", ("now", '{"x": "\U0001f600\ufffd"}')),
    )


def test_names_come_once_and_arguments_as_they_are_written() -> None:
    parser = Dialect("hermes", None).parser(tools=TOOLS, new_id=lambda: "i")
    pieces = [
        'Hi <tool_call>{"name": "get_',
        'weather", ',
        '"arguments": {"ci',
        'ty": "Ro',
        'me"',
        "}}</tool_call>",
    ]
    found = [parser.feed(piece) for piece in pieces]
    assert found == [
        [Content("Hi")],
        [],
        [CallStart(0, "i", "get_weather"), CallArguments(0, '{"ci')],
        [CallArguments(0, 'ty": "Ro')],
        [CallArguments(0, 'me"')],
        [CallArguments(0, "}")],
    ]
    assert parser.finish() == []


def test_without_tools_calls_stay_content() -> None:
    text = '<tool_call>{"name": "now", "arguments": {}}</tool_call>'
    check(text, "hermes", message(text), tools=None)


def test_ids_have_the_form_that_templates_want() -> None:
    parser = Dialect("mistral", None).parser(tools=TOOLS)
    ids = [call.id for call in merge(parser.feed('[TOOL_CALLS][{"name": "now"}, {"name": "now"}]')).calls]
    assert len(set(ids)) == 2
    assert all(len(i) == 9 and i.isalnum() for i in ids)
    parser = Dialect("hermes", None).parser(tools=TOOLS)
    assert merge(parser.feed('<tool_call>{"name": "now"}</tool_call>')).calls[0].id.startswith("call_")


# -- reasoning -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", THINKING)
def test_reasoning(name: str) -> None:
    style = THINKING[name]
    options = {"thinking": name}
    check(
        f"{style.start}\nHm\n\n so\n{style.end}\n\nHi <x>.\n",
        "hermes",
        message("Hi <x>.\n", reasoning="Hm\n\n so"),
        **options,
    )
    check(f"{style.start}\n\n{style.end}\n\nHi", None, message("Hi"), **options)
    check(f" \n{style.start}Hm", None, message("", reasoning="Hm"), **options)
    check(f"Hm\n{style.end}\nHi", None, message("Hi", reasoning="Hm"), prompt=f"x{style.start}\n", **options)
    check(f"Hi{style.end}", None, message(f"Hi{style.end}"), prompt=f"{style.start}{style.end}", **options)
    check(
        f'{style.start}Hm{style.end}<tool_call>{{"name": "now"}}</tool_call>',
        "hermes",
        message("", NOW, reasoning="Hm"),
        **options,
    )
    check(" \n Hi", None, message(" \n Hi"), **options)
    check(style.start[:-1], None, message(style.start[:-1]), **options)


def test_reasoning_begins_an_answer_only() -> None:
    check("Hi <think>x</think>", None, message("Hi <think>x</think>"), thinking="think")
    text = "<|channel>thought\na\n<channel|>b<|channel>thought\nc<channel|>d"
    check(text, None, message("bd", reasoning="a\n\nc"), thinking="gemma4")


def test_calls_within_reasoning_are_none() -> None:
    text = '<think><tool_call>{"name": "now"}</tool_call></think>x'
    check(text, "hermes", message("x", reasoning='<tool_call>{"name": "now"}</tool_call>'), thinking="think")


# -- random calls --------------------------------------------------------------------------------------------------

names = st.text("abcdefgh_", min_size=1, max_size=12).map("f".__add__)
plain = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False, allow_infinity=False)
    | plain,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(plain, inner, max_size=4),
    max_leaves=12,
)
keys = st.text("abcdexyz_", min_size=1, max_size=8).map("k".__add__)
calls = st.lists(st.tuples(names, st.dictionaries(keys, values, max_size=4)), min_size=1, max_size=3)


def python_arguments(arguments: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value!r}" for key, value in arguments.items())


def dumped(call: tuple[str, Any], key: str = "arguments") -> str:
    return json.dumps({"name": call[0], key: call[1]}, ensure_ascii=False)


RENDERERS: dict[str, Any] = {
    "hermes": lambda calls: "\n".join(f"<tool_call>\n{dumped(c)}\n</tool_call>" for c in calls),
    "llama3": lambda calls: "<|python_tag|>" + "; ".join(dumped(c, "parameters") for c in calls),
    "llama4": lambda calls: "[" + ", ".join(f"{n}({python_arguments(a)})" for n, a in calls) + "]",
    "mistral": lambda calls: "[TOOL_CALLS][" + ", ".join(dumped(c) for c in calls) + "]",
    "gemma3": lambda calls: "```tool_code\n" + "\n".join(f"{n}({python_arguments(a)})" for n, a in calls) + "\n```",
    "lfm2": lambda calls: "<|tool_call_start|>[" + ", ".join(f"{n}({python_arguments(a)})" for n, a in calls) + "]<|tool_call_end|>",
    "kimi": lambda calls: "<|tool_calls_section_begin|>" + "".join(f"<|tool_call_begin|>functions.{n}:{i}<|tool_call_argument_begin|>{json.dumps(a)}<|tool_call_end|>" for i, (n, a) in enumerate(calls)) + "<|tool_calls_section_end|>",
    "deepseek": lambda calls: "<｜tool▁calls▁begin｜>" + "".join(f"<｜tool▁call▁begin｜>{n}<｜tool▁sep｜>{json.dumps(a)}<｜tool▁call▁end｜>" for n, a in calls) + "<｜tool▁calls▁end｜>",
    "json": lambda calls: "[" + ",".join(dumped(c) for c in calls) + "]",
}  # fmt: skip


@pytest.mark.parametrize("format", RENDERERS)
@given(calls, st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_random_calls_parse_back(format: str, calls: list[tuple[str, dict[str, Any]]], seed: int) -> None:
    text = "Well.\n" + RENDERERS[format](calls)
    tools = [tool(name) for name, _ in calls]
    dice = random.Random(seed)
    places = sorted(dice.choices(range(len(text) + 1), k=dice.randint(0, 9)))
    found = parse([text[a:b] for a, b in itertools.pairwise([0, *places, len(text)])], format, tools=tools)
    assert found.content == "Well."
    assert [(call.name, json.loads(call.arguments)) for call in found.calls] == calls


@given(st.lists(st.sampled_from(["<tool_call>", "</tool_call>", "{", "}", "[", "]", '"name"', ":", '"now"', ",", '"arguments"', "\\", '"', "'", "```", "\n", "now(", ")", "a", "1", "é", "<|python_tag|>", "[TOOL_CALLS]", "[ARGS]", "<think>", "</think>", "<function=now>", "<parameter=x>", "</parameter>", "</function>", "<|channel|>", "<|message|>", "<|start|>", "call:now{", '<|"|>', "<|tool_call>"]), max_size=24), st.sampled_from(sorted(FORMATS)))  # fmt: skip
@settings(max_examples=400, deadline=None)
def test_any_soup_of_markers_is_read_alike_however_it_is_cut(soup: list[str], format: str) -> None:
    text = "".join(soup)
    whole = parse([text], format, "think")
    assert parse(list(text), format, "think") == whole
    assert parse(soup, format, "think") == whole


# -- values --------------------------------------------------------------------------------------------------------


@given(values)
@settings(max_examples=200, deadline=None)
def test_values_in_json_and_in_python(found: Any) -> None:
    for text in (json.dumps(found), json.dumps(found, ensure_ascii=False, indent=1)):
        assert converted(text, JSON) == text
    if isinstance(found, dict | list | str):
        as_python = converted(repr(found), PYTHON)
        assert as_python is not None
        assert json.loads(as_python) == ast.literal_eval(repr(found))


@pytest.mark.parametrize(
    ("text", "expected"),
    [("{1: 'a', 2.5: ()}", '{"1": "a", "2.5": []}'), ("1_000", "1000"), ("+1", "1"), (".5", "0.5"), ("'\\n\\q\\'\\\n'", '"\\n\\\\q\'"'),
     ("'\\U0001F600\\ud83d\\U0000d800'", '"😀\\ud83d\\ud800"'), ("(1, 2,)", "[1, 2]"), ("{}", "{}"), ("[]", "[]"), ("1e999", "1e999"), ("1_0e999", None), ("1+2", None),
     ("f(1)", None), ("[1 2]", None), ("{'a'}", None), ("{'a':}", None), ("[,]", None), ("'a", None), ("", None), ("1 2", None)],
)  # fmt: skip
def test_python_values(text: str, expected: str | None) -> None:
    assert converted(text, PYTHON) == expected


def test_depth_is_bounded() -> None:
    assert converted("[" * 200 + "]" * 200, JSON) is not None
    assert converted("[" * 201 + "]" * 201, JSON) is None
    braces = Notation(('<|"|>',), escapes=False, bare_keys=True)
    assert converted('{a:<|"|>\\n"<|"|>,b-c:[1]}', braces) == '{"a":"\\\\n\\"","b-c":[1]}'


def test_code_blocks() -> None:
    for text, inside in [("```py\nx", True), ("```py\nx\n```\n", False), ("~~~\n```\n", True), ("    ```\n", False), ("``` a` \n", False),
                         ("a `", True), ("a ` ", False), ("````\n```\n", True), ("x```\n", False)]:  # fmt: skip
        for pieces in cuts(text):
            code = CodeBlocks()
            for piece in pieces:
                code.show(piece)
            assert code.in_code == inside, text


# -- hostile -------------------------------------------------------------------------------------------------------

HOSTILE = {
    "deep": ("hermes", lambda n: '<tool_call>{"name": "now", "arguments": ' + '{"a":' * n),
    "deep before the name": ("hermes", lambda n: '<tool_call>{"arguments": ' + "[" * n),
    "starts": ("hermes", lambda n: "<tool_call>" * n),
    "starts in a string": ("hermes", lambda n: '<tool_call>{"x": "' + '<tool_call>{"x": ' * n),
    "nearly": ("hermes", lambda n: "<tool_cal" * n),
    "spaces": ("hermes", lambda n: "x" + " " * n + "x"),
    "spaces in a call": ("hermes", lambda n: "<tool_call>" + " " * n),
    "a line": ("hermes", lambda n: "`a " * n),
    "escapes": ("hermes", lambda n: '<tool_call>{"name": "now", "arguments": {"a": "' + "\\u00" * n),
    "commas": ("hermes", lambda n: '<tool_call>{"name": "now", "arguments": [1' + ", 1" * n),
    "a number": ("hermes", lambda n: '<tool_call>{"name": "now", "arguments": [' + "1" * n),
    "braces": ("llama3", lambda n: "{" * n),
    "lines of braces": ("llama3", lambda n: '{"name": "x\n' * n),
    "brackets": ("llama4", lambda n: "[\n" * n),
    "calls": ("llama4", lambda n: "[" + "now()," * n),
    "prints": ("gemma3", lambda n: "```tool_code\n" + "print(" * n),
    "fences": ("gemma3", lambda n: "```json\n" * n),
    "channels": ("gpt-oss", lambda n: "<|channel|>" * n),
    "parameters": ("qwen3-coder", lambda n: "<function=now>" + "<parameter=a>x</parameter>" * n),
    "a name": ("qwen3-coder", lambda n: "<function=" + "a" * n),
    "keys": ("glm", lambda n: "<tool_call>now" + "<arg_key>a</arg_key><arg_value>1</arg_value>" * n),
    "sections": ("kimi", lambda n: "<|tool_call_begin|>a" * n),
    "quotes": ("gemma4", lambda n: "<|tool_call>call:now{a:" + '<|"|>' * n),
    "thoughts": ("gemma4", lambda n: "<|channel>thought<channel|>" * n),
}


def operations(format: str, pieces: list[str]) -> tuple[int, int]:
    """Calls of functions, C's too, and characters that the parser copied from one feed to the next."""
    parser = Dialect(format, "gemma4").parser(tools=TOOLS, new_id=lambda: "i")
    stream = parser._stream
    count = carried = 0

    def profile(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(profile)
    try:
        for piece in pieces:
            carried += len(stream._text) - stream._at
            parser.feed(piece)
        parser.finish()
    finally:
        sys.setprofile(None)
    return count, carried


@pytest.mark.parametrize("name", HOSTILE)
def test_twice_the_text_takes_twice_the_work(name: str) -> None:
    format, make = HOSTILE[name]
    small, large = make(400), make(800)
    for cut in (list, lambda text: [text], lambda text: [text[i : i + 7] for i in range(0, len(text), 7)]):
        few, _ = operations(format, cut(small))
        many, much = operations(format, cut(large))
        assert many <= 2.3 * few + 300
        assert much <= 60 * len(cut(large)), "more is held than a marker's beginning"


def test_deep_and_long_answers_are_survived() -> None:
    for format, make in HOSTILE.values():
        parser = Dialect(format, "gemma4").parser(tools=TOOLS)
        merge(parser.feed(make(5_000)) + parser.finish())


# -- which model writes how ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "architecture", "format", "thinking"),
    [
        ("<|im_start|> <tool_call> {'name'", "qwen2", "hermes", None),
        ("<|im_start|> <tool_call> '</think>' {'name'", "qwen3", "hermes", "think"),
        ("<tool_call> <function= <parameter= </think>", "qwen3moe", "qwen3-coder", "think"),
        ("<tool_call> <arg_key> </think>", "glm4moe", "glm", "think"),
        ("[INST] [TOOL_CALLS] [/THINK]", "llama", "mistral", "mistral"),
        ("<|start_header_id|> <|python_tag|>", "llama", "llama3", None),
        ("<start_of_turn>", "gemma3", "gemma3", None),
        ("<|turn> <|tool_call> <|channel>", "gemma4", "gemma4", "gemma4"),
        ("<|start|> <|channel|> <|message|>", "gpt-oss", "gpt-oss", None),
        ("<|im_start|>", "lfm2", "lfm2", None),
        ("<|im_start|>", "llama", "generic", None),
        ("", "", "generic", None),
    ],
)
def test_the_format_is_chosen_by_the_template(
    template: str, architecture: str, format: str, thinking: str | None
) -> None:
    assert dialect_of(template, architecture) == Dialect(format, thinking)


def test_the_format_can_be_named() -> None:
    assert dialect_of("<tool_call>", format="mistral", thinking="think") == Dialect("mistral", "think")
    assert dialect_of("<tool_call> </think>", format="none", thinking="none") == Dialect(None, None)
    with pytest.raises(PyllmError, match=r"format of tool calls: expected one of hermes, .*, got 'x'"):
        dialect_of("", format="x")
    with pytest.raises(PyllmError, match=r"format of reasoning: expected one of think, .*, got 'x'"):
        dialect_of("", thinking="x")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    tokens, merges = byte_level(["hello"], 10)
    tokens += [
        ("<|tool_call>", CONTROL),
        ("<|channel>", CONTROL),
        ("<channel|>", CONTROL),
        ("<tool_call>", USER_DEFINED),
        ('<|"|>', CONTROL),
    ]
    path = tmp_path_factory.mktemp("v") / "v.gguf"
    keys = {"bos_token_id": len(tokens) - 10, "eos_token_id": len(tokens) - 8}
    return Tokenizer.from_gguf(write_vocabulary(path, "gpt2", tokens, pre="smollm", merges=merges, keys=keys))


def test_parsers_see_the_control_tokens_that_they_need(tokenizer: Tokenizer) -> None:
    visible = Dialect("gemma4", "gemma4").visible_tokens(tokenizer)
    assert [tokenizer.piece(i) for i in visible] == ["<|tool_call>", "<|channel>", "<channel|>", '<|"|>']
    assert Dialect("hermes", None).visible_tokens(tokenizer) == ()  # ordinary text here
    assert Dialect(None, None).visible_tokens(tokenizer) == ()
    text = "<|channel>hello<|im_end|><tool_call><|tool_call>"
    ids = tokenizer.encode(text, add_bos=False, parse_special=True)
    for tokens, expected in [((), "hello<tool_call>"), (visible, "<|channel>hello<tool_call><|tool_call>")]:
        detokenizer = tokenizer.detokenizer(visible=SamplingParams(visible_tokens=tokens).visible_tokens)
        assert "".join(map(detokenizer.push, ids)) + detokenizer.flush() == expected


# -- real templates ------------------------------------------------------------------------------------------------

GOLDEN = Path(__file__).parent / "golden" / "templates"
FIRST = {"city": 'Zürich "x" <b>', "days": [1, 2], "o": {"a": 1.5, "b": True}}
SECOND = {"city": "Rome\nx"}
WEATHER = tool("get_weather", city="string", days="array", o="object")
ROUND_TRIPS = {
    "Bielik-11B-v3.0-Instruct", "ByteDance-Seed-OSS", "GLM-4.6", "LFM2.5-8B-A1B", "MiMo-VL", "MiniMax-M2",
    "Mistral-Small-3.2-24B-Instruct-2506", "NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", "NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use",
    "NousResearch-Hermes-3-Llama-3.1-8B-tool_use", "Qwen-Qwen2.5-7B-Instruct", "Qwen-Qwen3-0.6B", "Qwen3-Coder", "Qwen3.5-4B",
    "Spark2.5", "StepFun3.5-Flash", "deepseek-ai-DeepSeek-V3.1", "deepseek-ai-DeepSeek-V4", "google-gemma-4-31B-it-interleaved",
    "ibm-granite-granite-4.0", "inclusionai-ling-3.0-flash", "meetkai-functionary-medium-v3.1", "meta-llama-Llama-3.1-8B-Instruct",
    "meta-llama-Llama-3.2-3B-Instruct", "meta-llama-Llama-3.3-70B-Instruct", "mistralai-Ministral-3-14B-Reasoning-2512",
    "mistralai-Mistral-Nemo-Instruct-2407", "moonshotai-Kimi-K2", "openai-gpt-oss-120b", "poolside-Laguna-S-2.1",
    "unsloth-Apriel-1.5", "unsloth-mistral-Devstral-Small-2507",
}  # fmt: skip
ENDS = ("<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "</s>", "<turn|>", "<｜end▁of▁sentence｜>", "<|return|>", "<|call|>",
        "[e~[", "<|tool_response>", "</assistant>", "<|role_end|>", "<seed:eos>", "<|end|>", "<|endoftext|>")  # fmt: skip


@pytest.mark.skipif(
    not TEMPLATES, reason="PYLLM_TEST_TEMPLATES does not name llama.cpp's models/templates folder"
)
@pytest.mark.parametrize("name", sorted(ROUND_TRIPS))
def test_what_templates_render_parses_back(tokenizer: Tokenizer, name: str) -> None:
    """The message's content, reasoning and calls, each where the template renders it."""
    assert TEMPLATES is not None
    template = ChatTemplate((Path(TEMPLATES) / f"{name}.jinja").read_text(), tokenizer)
    dialect = dialect_of(template.source)
    user = {"role": "user", "content": "Weather?"}
    done = 0
    for content, arguments, reasoning in [
        ("Let me.", [FIRST, SECOND], "Hm\n\nso"), ("", [FIRST, SECOND], ""), ("", [FIRST], "Hm"), ("Hello!", [], ""), ("", [SECOND], ""),
    ]:  # fmt: skip
        made = [
            {"id": f"call0000{i}", "type": "function", "function": {"name": "get_weather", "arguments": a}}
            for i, a in enumerate(arguments)
        ]
        if name == "openai-gpt-oss-120b" and len(made) > 1:
            continue  # it renders the first only
        answer: dict[str, Any] = {"role": "assistant", "content": content}
        if made:
            answer["tool_calls"] = made
        if reasoning:
            answer["reasoning_content"] = reasoning
        options = {"bos_token": "<s>", "eos_token": "</s>", "enable_thinking": True}
        try:
            prompt = template.render([user], tools=[WEATHER], **options)
            whole = template.render([user, answer], tools=[WEATHER], add_generation_prompt=False, **options)
        except PyllmError:
            continue  # some take one call only, some no content beside them
        if not whole.startswith(prompt):
            continue  # the prompt opens or closes the reasoning, the message does not have it
        text = whole[len(prompt) :]
        while (shorter := text.rstrip()).endswith(ENDS):
            text = shorter.removesuffix(next(end for end in ENDS if shorter.endswith(end)))
        found = parse([text], dialect.format, dialect.thinking, prompt, [WEATHER])
        assert parse(list(text), dialect.format, dialect.thinking, prompt, [WEATHER]) == found
        assert found.content.strip() == (content if content in text else "")
        assert found.reasoning == (reasoning if reasoning in text else "")
        assert [(c.name, json.loads(c.arguments)) for c in found.calls] == [
            ("get_weather", a) for a in arguments
        ]
        done += bool(made)
    assert done
