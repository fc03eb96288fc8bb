"""Structured output and forced tools through the real clients, over a tiny random model: whatever it would
write, what comes is valid."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
from serving import Serving, serving, tiny_model
from vocabularies import CONTROL, byte_level, write_vocabulary

from pyllm import SamplingParams
from pyllm.constraint import Constraint
from pyllm.llm import LLM
from pyllm.parsers import FORMATS, THINKING, Dialect, merge
from pyllm.server.structure import ToolChoice, answer_constraint

openai = pytest.importorskip("openai", reason="needs the openai client")
anthropic = pytest.importorskip("anthropic", reason="needs the anthropic client")
jsonschema = pytest.importorskip("jsonschema", reason="needs jsonschema")
from pydantic import BaseModel, Field  # noqa: E402  openai's client needs it too

HI = [{"role": "user", "content": "Hi there"}]
TEMPLATE = (
    "{% for m in messages %}{{ m.role[0] }}:{{ m.content }};{% endfor %}"
    "{% if tools %}<tool_call> {{ tools | length }};{% endif %}{% if add_generation_prompt %}a:{% endif %}"
)
WEATHER: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"enum": ["Paris", 'New "York"', "</tool_call>"]},
        "days": {"type": "integer", "minimum": 1, "maximum": 9},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
}
CLOCK: dict[str, Any] = {
    "type": "object",
    "properties": {"utc": {"type": "boolean"}},
    "additionalProperties": False,
}
FUNCTIONS = [
    {"name": "weather", "description": "Of a city", "parameters": WEATHER, "strict": True},
    {"name": "clock", "parameters": CLOCK},
]
TOOLS = [{"type": "function", "function": function} for function in FUNCTIONS]
SCHEMAS = {"weather": WEATHER, "clock": CLOCK}


class Person(BaseModel, extra="forbid"):
    name: Literal["Ada", "Bob"]
    age: int = Field(ge=0, le=130)
    friends: list[Literal["Eve", "Mallory"]] = Field(max_length=2)


@contextmanager
def tiny(folder: Path, template: str, **more: Any) -> Iterator[Serving]:
    path = tiny_model(folder, **{"tokenizer.chat_template": template}, **more)
    with serving(lambda: LLM(path, threads=1), {"top_k": 0, "top_p": 1.0, "min_p": 0.0}) as running:
        yield running


@pytest.fixture(scope="module")
def server(tmp_path_factory: Any) -> Iterator[Serving]:
    with tiny(tmp_path_factory.mktemp("model"), TEMPLATE) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Serving) -> Any:
    return openai.OpenAI(base_url=f"{server.base}/v1", api_key="x", max_retries=0, timeout=120)


@pytest.fixture(scope="module")
def claude(server: Serving) -> Any:
    return anthropic.Anthropic(base_url=server.base, api_key="x", max_retries=0, timeout=120)


def valid_call(name: str, arguments: str) -> None:
    jsonschema.validate(json.loads(arguments), SCHEMAS[name])


# --- the text of the answer -----------------------------------------------------------------------------------


def test_openais_parse_gives_objects(client: Any) -> None:
    for seed in range(3):
        done = client.chat.completions.parse(model="tiny", messages=HI, response_format=Person, seed=seed)
        assert isinstance(done.choices[0].message.parsed, Person)
        assert done.choices[0].finish_reason == "stop"
    answer = client.responses.parse(model="tiny", input="Hi", text_format=Person)
    assert isinstance(answer.output_parsed, Person)
    with client.chat.completions.stream(model="tiny", messages=HI, response_format=Person) as stream:
        assert isinstance(stream.get_final_completion().choices[0].message.parsed, Person)


def test_every_answer_of_n_is_valid_with_logprobs(client: Any) -> None:
    schema = Person.model_json_schema()
    format = {"type": "json_schema", "json_schema": {"name": "p", "schema": schema}}
    done = client.chat.completions.create(
        model="tiny", messages=HI, response_format=format, n=4, seed=3, logprobs=True, top_logprobs=2
    )
    texts = [choice.message.content for choice in done.choices]
    assert len(set(texts)) > 1
    for choice in done.choices:
        Person.model_validate_json(choice.message.content)
        spelt = b"".join(bytes(item.bytes) for item in choice.logprobs.content)
        assert spelt.decode() == choice.message.content


@pytest.mark.parametrize(
    ("fields", "pattern"),
    [
        ({"grammar": 'root ::= "yes" | "no"'}, "yes|no"),
        ({"grammar": 'start: "yes" | "no"'}, "yes|no"),
        ({"grammar": {"type": "regex", "value": "[ab]{3}"}}, "[ab]{3}"),
        ({"grammar": {"type": "gbnf", "value": 'root ::= [ab] "c"'}}, "[ab]c"),
        ({"grammar": {"type": "json", "value": {"const": 7}}}, "7"),
        ({"response_format": {"type": "regex", "pattern": "[ab]{3}"}}, "[ab]{3}"),
        ({"response_format": {"type": "json_object", "schema": {"const": {}}}}, r"\{\s*\}"),
        ({"guided_json": '{"const": true}'}, "true"),
        ({"guided_regex": "[ab]{3}"}, "[ab]{3}"),
        ({"guided_choice": ["red", "blue\n\"'"]}, "red|blue\n\"'"),
        ({"guided_grammar": 'root ::= "x"'}, "x"),
        ({"structured_outputs": {"choice": ["red"]}}, "red"),
        ({"structured_outputs": {"json": {"const": None}}}, "null"),
    ],
)
def test_other_ways_to_say_it(server: Serving, fields: dict[str, Any], pattern: str) -> None:
    chat = server.post("/v1/chat/completions", {"messages": HI, **fields})
    assert chat.status == 200, chat.body
    assert re.fullmatch(pattern, chat.json["choices"][0]["message"]["content"])
    text = server.post("/v1/completions", {"prompt": ["x", "y"], "max_tokens": 50, **fields})
    assert [bool(re.fullmatch(pattern, choice["text"])) for choice in text.json["choices"]] == [True, True]


def test_claudes_format(server: Serving) -> None:
    body = {"model": "tiny", "max_tokens": 500, "messages": HI}
    format = {"type": "json_schema", "schema": Person.model_json_schema()}
    reply = server.post("/v1/messages", {**body, "output_config": {"format": format}})
    Person.model_validate_json(reply.json["content"][0]["text"])


# --- tools ----------------------------------------------------------------------------------------------------


def test_a_required_call_comes(client: Any, claude: Any) -> None:
    names = set()
    for seed in range(6):
        done = client.chat.completions.create(
            model="tiny",
            messages=HI,
            tools=TOOLS,
            tool_choice="required",
            seed=seed,
            parallel_tool_calls=seed > 2,
        )
        (choice,) = done.choices
        assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
        calls = choice.message.tool_calls
        assert len(calls) == 1 or seed > 2
        for call in calls:
            valid_call(call.function.name, call.function.arguments)
            names.add(call.function.name)
    assert names == {"weather", "clock"}
    tools = [{"name": f["name"], "input_schema": f["parameters"]} for f in FUNCTIONS]
    message = claude.messages.create(
        model="tiny", max_tokens=900, messages=HI, tools=tools, tool_choice={"type": "any"}
    )
    assert message.stop_reason == "tool_use"
    assert {block.type for block in message.content} == {"tool_use"}
    for block in message.content:
        jsonschema.validate(block.input, SCHEMAS[block.name])


def test_a_named_call_comes(client: Any, claude: Any) -> None:
    choice = {"type": "function", "function": {"name": "weather"}}
    found = []
    for chunk in client.chat.completions.create(
        model="tiny", messages=HI, tools=TOOLS, tool_choice=choice, stream=True
    ):
        found += chunk.choices[0].delta.tool_calls or []
    assert [call.function.name for call in found if call.function.name] == ["weather"]
    valid_call("weather", "".join(call.function.arguments or "" for call in found))

    flat = [{"type": "function", **function} for function in FUNCTIONS]
    answer = client.responses.create(
        model="tiny", input="Hi", tools=flat, tool_choice={"type": "function", "name": "clock"}
    )
    (item,) = answer.output
    assert (item.type, item.name) == ("function_call", "clock")
    valid_call("clock", item.arguments)

    tools = [{"name": f["name"], "input_schema": f["parameters"]} for f in FUNCTIONS]
    message = claude.messages.create(
        model="tiny", max_tokens=500, messages=HI, tools=tools, tool_choice={"type": "tool", "name": "weather"}
    )
    (block,) = message.content
    jsonschema.validate(block.input, WEATHER)


def test_an_answer_that_must_be_json_may_be_a_call_instead(client: Any) -> None:
    kinds = set()
    for seed in range(8):
        (choice,) = client.chat.completions.create(
            model="tiny",
            messages=HI,
            tools=TOOLS,
            response_format={
                "type": "json_schema",
                "json_schema": {"name": "x", "schema": {"enum": [1, 2, 3]}},
            },
            seed=seed,
            logit_bias={"60": 1},  # <
        ).choices
        kinds.add(choice.finish_reason)
        if choice.finish_reason == "stop":
            assert json.loads(choice.message.content) in (1, 2, 3)
        else:
            for call in choice.message.tool_calls:
                valid_call(call.function.name, call.function.arguments)
    assert "stop" in kinds


NOTE: dict[str, Any] = {
    "type": "object",
    "properties": {
        "text": {"type": "string", "description": "Anything"},
        "tags": {"type": "array", "items": {"enum": ["a", 'b"', "</c>"]}, "maxItems": 2},
        "at": {"anyOf": [{"$ref": "#/$defs/point"}, {"type": "null"}]},
        "kind": {"type": ["string", "null"], "maxLength": 3},
        "sure": {"type": "boolean"},
    },
    "required": ["text", "kind"],
    "$defs": {"point": {"type": "object", "properties": {"x": {"enum": [0, -1.5]}}, "required": ["x"]}},
}
# A string by itself, and words and numbers, are all that Gemma's notation is written with.
PLAIN: dict[str, Any] = {
    "type": "object",
    "properties": {"text": {"type": "string"}, "days": {"enum": [1, 2.5, None]}},
    "required": ["text"],
}
JSON_FORMATS = {"cohere", "kimi"}  # ids and numbers that the calls of an answer count are not forced


def read_back(dialect: Dialect, pieces: Sequence[str], tools: list[Any]) -> list[tuple[str, Any]]:
    parser = dialect.parser(tools=tools)
    message = merge([delta for piece in pieces for delta in parser.feed(piece)] + parser.finish())
    assert not message.content.strip()
    return [(call.name, json.loads(call.arguments)) for call in message.calls]


@pytest.mark.parametrize("format", sorted(FORMATS))
def test_the_parsers_read_what_is_forced(server: Serving, format: str) -> None:
    llm = server.service.models[0].llm
    note = PLAIN if format in ("gemma4", "functiongemma") else NOTE
    schemas = {"weather": WEATHER, "clock": CLOCK, "note": note}
    tools = [{"type": "function", "function": {"name": name, "parameters": s}} for name, s in schemas.items()]
    choice = ToolChoice(tools, True, ("weather", "clock", "note"))
    constraint, dialect = answer_constraint(llm, Dialect(format, None), choice, None, "")
    assert dialect.format == ("json" if format in JSON_FORMATS else format)
    ends = {llm.tokenizer.encode(c, add_bos=False)[-1]: 3.0 for c in '<>"]})/|'}  # random texts come to an end
    params = SamplingParams(
        max_tokens=800, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, n=6, seed=4, constraint=constraint
    )
    params = replace(params, logit_bias=ends)
    whole = [answer.text for answer in llm.generate([[5]], params) if answer.finish_reason == "stop"]
    assert whole
    for text in whole:
        calls = read_back(dialect, [text], tools)
        assert calls
        for name, arguments in calls:
            jsonschema.validate(arguments, schemas[name])
        assert read_back(dialect, list(text), tools) == calls
    text = min(whole, key=len)[:2000]
    calls = read_back(dialect, [text], tools)
    for cut in range(0, len(text), 1 + len(text) // 300):
        assert read_back(dialect, [text[:cut], text[cut:]], tools) == calls


def test_strings_without_quotes_are_the_texts_themselves(server: Serving) -> None:
    llm = server.service.models[0].llm
    tools = [{"type": "function", "function": {"name": "note", "parameters": NOTE}}]
    text = (
        '<tool_call>\n<function=note>\n<parameter=text>\nShe said "no",\n\\n <b>\n</parameter>\n'
        '<parameter=kind>\n"it"\n</parameter>\n</function>\n</tool_call>'
    )
    choice = ToolChoice(tools, True, ("note",))
    constraint, dialect = answer_constraint(llm, Dialect("qwen3-coder", None), choice, None, "")
    (state,) = llm.job([5], SamplingParams(constraint=constraint)).constraint
    assert state.consume_tokens(llm.tokenizer.encode(text, add_bos=False))
    assert state.is_accepting()
    assert read_back(dialect, [text], tools) == [("note", {"text": 'She said "no",\n\\n <b>', "kind": "it"})]


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"a": {"type": "string", "pattern": "^x+$"}}},
        {"type": "object", "properties": {"a": {"$ref": "#/properties/b"}, "b": {"type": "integer"}}},
        {"type": "object", "properties": {"a b": {"type": "integer"}}},
        {"type": "object", "properties": {"a": {"enum": ["</parameter>", "b"]}}},
        {"type": "object", "additionalProperties": {"type": "integer"}},
        {"type": "object", "properties": {"a": {}}, "required": ["b"]},
        {"anyOf": [{"type": "object"}]},
    ],
)
def test_what_tags_cannot_say_is_forced_as_json(server: Serving, schema: dict[str, Any]) -> None:
    llm = server.service.models[0].llm
    choice = ToolChoice([{"type": "function", "function": {"name": "f", "parameters": schema}}], True, ("f",))
    _, dialect = answer_constraint(llm, Dialect("qwen3-coder", None), choice, None, "")
    assert dialect.format == "json"


def test_gpt_oss_answers_on_its_channels(server: Serving) -> None:
    llm = server.service.models[0].llm

    def accepted(text: str, choice: ToolChoice, asked: Constraint | None) -> bool:
        constraint, _ = answer_constraint(llm, Dialect("gpt-oss", None), choice, asked, "<|start|>assistant")
        (state,) = llm.job([5], SamplingParams(constraint=constraint)).constraint
        return bool(state.consume_tokens(llm.tokenizer.encode(text, add_bos=False)) and state.is_accepting())

    forced, free = ToolChoice(TOOLS, True, ("clock",)), ToolChoice(None)
    thought = "<|channel|>analysis<|message|>Time?<|end|><|start|>assistant"
    call = '<|channel|>commentary to=functions.clock <|constrain|>json<|message|>{"utc": true}'
    assert accepted(thought + call, forced, None)
    assert accepted(call, forced, None)
    assert not accepted(thought, forced, None)
    assert not accepted(f"{call}{call}", forced, None)
    assert accepted(f"{thought}<|channel|>final<|message|>17", free, Constraint.regex("[0-9]+"))
    assert not accepted("17", free, Constraint.regex("[0-9]+"))


@pytest.mark.parametrize("thinking", sorted(THINKING))
def test_reasoning_may_come_first(server: Serving, thinking: str) -> None:
    llm = server.service.models[0].llm
    start, end = THINKING[thinking].texts
    call = '<tool_call>\n{"name": "clock", "arguments": {}}\n</tool_call>'

    def accepted(text: str, prompt: str) -> bool:
        choice = ToolChoice(TOOLS, True, ("clock",), many=False)
        constraint, _ = answer_constraint(llm, Dialect("hermes", thinking), choice, None, prompt)
        (state,) = llm.job([5], SamplingParams(constraint=constraint)).constraint
        return bool(state.consume_tokens(llm.tokenizer.encode(text, add_bos=False)) and state.is_accepting())

    assert accepted(f"{start}I < think{end}\n\n{call}", "")
    assert accepted(call, "")
    assert accepted(f"I < think{end}{call}", start)
    assert not accepted(call, start)
    assert not accepted(f"I think.{call}", "")
    assert not accepted(f"{start}I think{end}", "")


def test_reasoning_comes_before_what_is_forced(tmp_path: Path) -> None:
    template = TEMPLATE.replace("a:{%", "a:<think>\n{%") + "{# </think> #}"
    tokens, merges = byte_level(["a b a b"], 4)
    tokens += [("<think>", CONTROL), ("</think>", CONTROL)]
    words = write_vocabulary(tmp_path / "words.gguf", "gpt2", tokens, pre="gpt-2", merges=merges)
    end = {str(len(tokens) - 1): 4}
    with tiny(tmp_path, template, tokenizer=words) as server:
        for seed in (1, 2, 3):
            forced = {"messages": HI, "max_tokens": 900, "logit_bias": end, "seed": seed}
            format = {"type": "json_schema", "json_schema": {"name": "p", "schema": Person.model_json_schema()}}
            (choice,) = server.post("/v1/chat/completions", forced | {"response_format": format}).json[
                "choices"
            ]
            assert choice["finish_reason"] == "stop"
            Person.model_validate_json(choice["message"]["content"])
            assert choice["message"]["reasoning_content"]
            (choice,) = server.post(
                "/v1/chat/completions", forced | {"tools": TOOLS, "tool_choice": "required"}
            ).json["choices"]
            assert choice["finish_reason"] == "tool_calls"
            for found in choice["message"]["tool_calls"]:
                valid_call(found["function"]["name"], found["function"]["arguments"])


# --- what cannot be -------------------------------------------------------------------------------------------


def schema(value: Any, **more: Any) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": value, **more}}}


@pytest.mark.parametrize(
    ("fields", "param", "says"),
    [
        (schema({"type": "objekt"}), "response_format", "Invalid type: objekt"),
        (schema({"not": {}}, strict=True), "response_format", 'Unimplemented keys: ["not"]'),
        (schema({"$ref": "http://127.0.0.1/x"}), "response_format", "does not fetch resources"),
        (schema(3), "response_format", "json_schema.schema: expected a JSON Schema"),
        (schema({"type": "integer", "multipleOf": 999983}), "response_format", "is compiled in 0.4 s"),
        ({"response_format": {"type": "xml"}}, "response_format", "got 'xml'"),
        ({"grammar": "root ::= x"}, "grammar", "Rule 'x' not found"),
        ({"grammar": {"type": "regex", "value": "a(b"}}, "grammar", "wrong at character 2: unclosed group"),
        ({"grammar": {"type": "yacc", "value": ""}}, "grammar", "expected GBNF, or an object"),
        ({"grammar": 'start: "a" start'}, None, "constraint: "),
        ({"guided_json": "{", "guided_regex": None}, "guided_json", "at line 1, column 2"),
        ({"guided_choice": []}, "guided_choice", "expected a list of texts"),
        ({"guided_regex": "a", "guided_choice": ["a"]}, "guided_choice", "guided_regex already says"),
        ({"structured_outputs": {}}, "structured_outputs", "expected one of json, regex"),
        ({"tool_choice": "required", "tools": []}, "tool_choice", "needs tools"),
        ({"tool_choice": "sometimes", "tools": TOOLS}, "tool_choice", "got 'sometimes'"),
        (
            {"tool_choice": {"type": "function", "function": {"name": "f"}}, "tools": TOOLS},
            "tool_choice",
            "'f' is no function of tools, which has weather, clock",
        ),
        (
            {"tool_choice": "required", "tools": [{"type": "function", "function": {"name": "a b"}}]},
            "tools",
            "names of forced functions",
        ),
        (
            {
                "tool_choice": "required",
                "tools": [{"function": {"name": "f", "strict": True, "parameters": {"not": {}}}}],
            },
            "tools",
            'a schema cannot be followed: Unimplemented keys: ["not"]',
        ),
    ],
)
def test_wrong_ones_are_named(server: Serving, fields: dict[str, Any], param: str | None, says: str) -> None:
    reply = server.post("/v1/chat/completions", {"messages": HI, "max_tokens": 20, **fields})
    assert reply.status == 400
    assert reply.error["param"] == param
    assert says in reply.error["message"]
    assert param is None or reply.error["message"].startswith(param)


def test_other_forms_name_their_own_fields(server: Serving) -> None:
    wrong = {"type": "json_schema", "name": "x", "schema": {"type": "objekt"}}
    reply = server.post("/v1/responses", {"input": "x", "text": {"format": wrong}})
    assert (reply.status, reply.error["param"]) == (400, "text.format")
    assert reply.error["message"].startswith("text.format: ")
    body = {"model": "tiny", "max_tokens": 5, "messages": HI, "output_config": {"format": wrong}}
    reply = server.post("/v1/messages", body)
    assert reply.status == 400
    assert reply.error["message"].startswith("output_config.format: ")


def test_a_costly_grammar_holds_nobody_up(server: Serving) -> None:
    costly = [{"messages": HI, **schema({"type": "integer", "multipleOf": 999_900 + i})} for i in range(3)]
    threads = [threading.Thread(target=server.post, args=("/v1/chat/completions", body)) for body in costly]
    for thread in threads:
        thread.start()
    waits = []
    while any(thread.is_alive() for thread in threads):
        started = time.perf_counter()
        assert server.post("/v1/chat/completions", {"messages": HI, "max_tokens": 1}).status == 200
        waits.append(time.perf_counter() - started)
    assert len(waits) >= 3  # answered while the grammars were being tried


def test_a_client_that_leaves_a_constrained_answer_frees_it(server: Serving) -> None:
    body = {"messages": HI, "stream": True, **schema({"type": "array", "minItems": 100_000})}
    data = json.dumps(body).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: {len(data)}\r\n\r\n"
    connection = server.connect()
    connection.sendall(head.encode() + data)
    assert connection.recv(100)
    llm = server.service.models[0].llm
    server.wait(lambda: llm.stats()["running"] == 1)
    connection.close()
    server.wait(lambda: llm.stats()["running"] == 0)
    stats = llm.stats()
    assert stats["blocks_free"] + stats["blocks_cached"] == stats["blocks_total"]
