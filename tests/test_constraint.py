"""Constrained answers of tiny random models: they always parse, validate and match, whatever the model wants.

PYLLM_TEST_SCHEMAS may name the folder tests/draft2020-12 of the JSON Schema Test Suite, for all of it.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from vocabularies import byte_level, pieces, write_vocabulary

from pyllm import LLM, Constraint, PyllmError, SamplingParams
from pyllm.grammar import MAX_SECONDS, check_cost, surely_cheap
from pyllm.shapes import write_model

jsonschema = pytest.importorskip("jsonschema", reason="needs jsonschema")

GOLDEN = Path(__file__).parent / "golden" / "schemas"
SUITE: dict[str, Any] = json.loads((GOLDEN / "suite.json").read_text(encoding="utf-8"))
FREE = SamplingParams(max_tokens=250, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0)
TEXTS = [
    '{"name": "Ada", "age": 36, "tags": ["a", "b"], "ok": true, "no": null}',
    '{\n  "city": "Paris",\n  "temperature": -3.5e2\n}',
    "hello world, hello there; the colour is red or green or blue",
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich \U0001f642",
]
VALIDATOR = jsonschema.Draft202012Validator


@pytest.fixture(scope="module", params=["bytes", "byte-level", "sentencepiece"])
def llm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LLM]:
    """A model of random weights with each kind of vocabulary."""
    folder = tmp_path_factory.mktemp("model")
    words = None
    if request.param == "byte-level":
        tokens, merges = byte_level(TEXTS, 150)
        words = write_vocabulary(folder / "words.gguf", "gpt2", tokens, pre="gpt-2", merges=merges)
    elif request.param == "sentencepiece":
        tokens, scores = pieces(TEXTS, 150)
        words = write_vocabulary(folder / "words.gguf", "llama", tokens, scores=scores)
    path = write_model(folder / "tiny.gguf", dim=64, ffn=128, quant="Q8_0", tokenizer=words)
    with LLM(path, threads=1) as llm:
        yield llm


@pytest.fixture(scope="module")
def params(llm: LLM) -> SamplingParams:
    """Sampling that closes strings, lists and objects early: answers to the point."""
    tokenizer = llm.tokenizer
    ends = {'"': 5.0, "}": 5.0, "]": 4.0}
    return replace(
        FREE,
        logit_bias={
            token: ends[text]
            for token in range(tokenizer.vocab_size)
            if (text := tokenizer.piece(token)) in ends
        },
    )


def answers_are_valid(llm: LLM, params: SamplingParams, schemas: Mapping[str, Any]) -> int:
    """Asks for two answers to each schema; how many came to their end. They parse and validate."""
    jobs = [replace(params, n=2, seed=i, constraint=Constraint.json(s)) for i, s in enumerate(schemas.values())]
    whole = 0
    for i, answer in enumerate(llm.generate([[5]] * len(jobs), jobs)):
        name, schema = list(schemas.items())[i // 2]
        if answer.finish_reason == "stop":
            whole += 1
            value = json.loads(answer.text)
            errors = VALIDATOR(schema, format_checker=VALIDATOR.FORMAT_CHECKER).iter_errors(value)
            assert not list(errors), (name, answer.text)
    return whole


# -- JSON Schema -----------------------------------------------------------------------------------------------


def test_answers_are_valid_by_a_public_collection_of_schemas(llm: LLM, params: SamplingParams) -> None:
    assert len(SUITE) > 70
    assert answers_are_valid(llm, params, SUITE) > 0.9 * 2 * len(SUITE)


def test_answers_are_valid_by_schemas_as_programs_write_them(llm: LLM, params: SamplingParams) -> None:
    short = {"type": "string", "maxLength": 5}
    person = {
        "type": "object",
        "properties": {"name": short, "age": {"type": "integer", "minimum": 0, "maximum": 130}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
    schemas: dict[str, Any] = {
        "object": person,
        "list of them": {"type": "array", "items": person, "minItems": 1, "maxItems": 2},
        "definitions": {"$defs": {"person": person}, "$ref": "#/$defs/person"},
        "recursive": {
            "$defs": {
                "node": {
                    "type": "object",
                    "properties": {"left": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}},
                    "required": ["left"],
                    "additionalProperties": False,
                }
            },
            "$ref": "#/$defs/node",
        },
        "optional": {"anyOf": [person, {"type": "null"}]},
        "enum": {"enum": ["red", "green", 3, None, True, {"a": [1]}, "ünï\n\"'"]},
        "pattern": {"type": "string", "pattern": "^[A-Z]{2}-\\d{3}$"},
        "formats": {"type": "string", "format": "date-time"},
        "uuid": {"type": "string", "format": "uuid"},
        "numbers": {"type": "number", "exclusiveMinimum": -1, "maximum": 2.5},
        "steps": {"type": "integer", "multipleOf": 7, "minimum": 3, "maximum": 100},
        "tuple": {"type": "array", "prefixItems": [short, {"type": "boolean"}], "items": False, "minItems": 2},
        "discriminated": {
            "anyOf": [
                {
                    "type": "object",
                    "properties": {"kind": {"const": kind}, "x": {"type": of}},
                    "required": ["kind", "x"],
                    "additionalProperties": False,
                }
                for kind, of in (("a", "boolean"), ("b", "null"))
            ]
        },
        "map": {"type": "object", "additionalProperties": {"type": "boolean"}},
        "long": {"type": "string", "minLength": 30, "maxLength": 40},
        "anything": True,
    }
    assert answers_are_valid(llm, params, schemas) > 0.8 * 2 * len(schemas)


def test_any_json_object(llm: LLM, params: SamplingParams) -> None:
    jobs = [replace(params, seed=seed, constraint=Constraint.json()) for seed in range(8)]
    ended = [a for a in llm.generate([[5]] * 8, jobs) if a.finish_reason == "stop"]
    assert len(ended) >= 4
    assert all(isinstance(json.loads(answer.text), dict) for answer in ended)


@pytest.mark.skipif("PYLLM_TEST_SCHEMAS" not in os.environ, reason="PYLLM_TEST_SCHEMAS does not name the suite")
def test_the_whole_suite(llm: LLM, params: SamplingParams) -> None:
    schemas: dict[str, Any] = {}
    refused = 0
    for name, schema in maker().suite(Path(os.environ["PYLLM_TEST_SCHEMAS"])):
        try:
            llm.job([5], SamplingParams(constraint=Constraint.json(schema)))
            schemas[name] = schema
        except PyllmError:
            refused += 1
    assert answers_are_valid(llm, params, schemas) > 0.9 * 2 * len(schemas)
    print(f"{len(schemas)} schemas, {refused} refused")


def maker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_schemas", GOLDEN / "make.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# -- regular expressions and grammars --------------------------------------------------------------------------


def test_regular_expressions_match_as_a_whole(llm: LLM) -> None:
    patterns = [
        "(red|green|blue) [0-9]{3}", "[a-f]{8}-[a-f]{4}", "^yes$|^no$", "a{2,4}", r"\d{1,3}(\.\d{1,3}){3}",
        "[àéü]{3}", "(?i)hello", "", "[\\s\\S]{10}", "x?y?z?",
    ]  # fmt: skip
    jobs = [replace(FREE, n=3, seed=1, constraint=Constraint.regex(pattern)) for pattern in patterns]
    for i, answer in enumerate(llm.generate([[5]] * len(jobs), jobs)):
        assert answer.finish_reason == "stop"
        assert re.fullmatch(patterns[i // 3], answer.text), (patterns[i // 3], answer.text)


def test_grammars(llm: LLM) -> None:
    gbnf = 'root ::= item ("," item){1,3}\nitem ::= [a-c]+ "=" ("on" | "off")\n'
    lark = 'start: item ("," item){1,3}\nitem: /[a-c]{1,9}/ "=" ("on" | "off")\n'
    for text in (gbnf, lark):
        answer = llm.generate([[5]], replace(FREE, seed=2, constraint=Constraint.grammar(text)))[0]
        assert answer.finish_reason == "stop"
        assert re.fullmatch(r"[a-c]+=(on|off)(,[a-c]+=(on|off)){1,3}", answer.text)


def test_the_end_comes_exactly_where_the_grammar_allows_it(llm: LLM) -> None:
    eager = replace(FREE, logit_bias=dict.fromkeys(llm.tokenizer.stop_ids, 50.0))
    pattern = Constraint.regex("a{2,4}")
    (soon,) = llm.generate([[5]], replace(eager, constraint=pattern))
    assert (soon.text, soon.finish_reason) == ("aa", "stop")
    for late in ({"ignore_eos": True}, {"min_tokens": 99}):
        (answer,) = llm.generate([[5]], replace(FREE, **late, constraint=pattern))
        assert (answer.text, answer.finish_reason) == ("aaaa", "stop")
    (cut,) = llm.generate([[5]], replace(FREE, max_tokens=1, constraint=pattern))
    assert (cut.finish_reason, cut.finish_detail) == ("length", "max_tokens")


def test_control_tokens_never_come_and_text_that_must_come_is_cut_as_usual(llm: LLM) -> None:
    tokenizer = llm.tokenizer
    control = [token for token in tokenizer.control_tokens() if token not in tokenizer.stop_ids]
    eager = replace(FREE, logit_bias=dict.fromkeys(control, 50.0), constraint=Constraint.regex("[\\s\\S]{30}"))
    (answer,) = llm.generate([[5]], eager)
    assert len(answer.text) == 30
    assert not set(answer.token_ids) & set(control)
    text = "hello world, the colour"
    (forced,) = llm.generate([[5]], replace(FREE, constraint=Constraint.regex(text)))
    assert forced.text == text
    assert list(forced.token_ids) == tokenizer.encode(text, add_bos=False, continued=True)


def test_streams_and_forks_and_batches_give_the_same(llm: LLM, params: SamplingParams) -> None:
    asked = replace(params, n=3, seed=9, constraint=Constraint.json(SUITE["const: const with object"]))
    together = llm.generate([[5], [6], [5]], [asked, replace(params, seed=1, max_tokens=60), asked])
    alone = llm.generate([[5]], asked)
    assert (
        [a.token_ids for a in alone]
        == [a.token_ids for a in together[:3]]
        == [a.token_ids for a in together[4:]]
    )
    streamed = {piece.answer: piece.completion for piece in llm.stream([5], asked) if piece.completion}
    assert [streamed[i].text for i in range(3)] == [a.text for a in alone]


# -- what cannot be --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Constraint.json('{"type": '), "not JSON: Expecting value at line 1, column 10"),
        (lambda: Constraint.json("[" * 100_000), "nested at most 64 deep"),
        (lambda: Constraint.json("[1]"), r"expected a JSON Schema \(an object\), got list"),
        (lambda: Constraint.json({"a": {1, 2}}), "set has no form in JSON"),
        (lambda: Constraint.json(False), "nothing is valid"),
        (lambda: Constraint.json({"enum": ["x" * 600_000]}), "at most 524288 bytes"),
        (lambda: Constraint.regex("x" * 9000), "at most 8192 bytes"),
        (lambda: Constraint.regex(3), "expected the text of a regular expression, got int"),  # type: ignore[arg-type]
        (lambda: Constraint.grammar(" "), "the grammar is empty"),
    ],
)
def test_what_is_no_constraint(make: Any, says: str) -> None:
    with pytest.raises(PyllmError, match=says):
        make()


def deep(levels: int) -> dict[str, Any]:
    return {"type": "array", "items": deep(levels - 1)} if levels else {"type": "null"}


@pytest.mark.parametrize(
    ("constraint", "says"),
    [
        (Constraint.json({"type": "objekt"}), "schema cannot be followed: Invalid type: objekt"),
        (Constraint.json({"not": {}}), r'Unimplemented keys: \["not"\]'),
        (Constraint.json({"$ref": "https://example.com/schema.json"}), "does not fetch resources"),
        (Constraint.json({"$ref": "file:///etc/passwd"}), "does not fetch resources"),
        (Constraint.json({"$ref": "#/$defs/x"}), "does not exist"),
        (
            Constraint.json({"$ref": "#/$defs/x", "$defs": {"x": {"$ref": "#/$defs/x"}}}),
            "no text can be completed",
        ),
        (Constraint.json({"enum": []}), "anyOf is empty"),
        (Constraint.regex("a(b"), "regular expression is wrong at character 2: unclosed group"),
        (Constraint.regex(r"(a)\1"), "at character 4: backreferences are not supported"),
        (Constraint.regex("(?=a)b"), "look-around, .* is not supported"),
        (Constraint.grammar("root ::= x\n"), "grammar is wrong: Rule 'x' not found"),
        (Constraint.grammar('root ::= "a" [0-9\n'), "Unexpected end of input at line 2"),
        (Constraint.grammar("start: a\n"), 'wrong at line 1, column 8: unknown name: "a"'),
        (Constraint.grammar("start: start\n"), "no text can be completed"),
    ],
)
def test_what_cannot_be_followed_is_told_with_its_place(llm: LLM, constraint: Constraint, says: str) -> None:
    with pytest.raises(PyllmError, match=f"^constraint: .*{says}"):
        llm.job([5], SamplingParams(constraint=constraint), trusted=False)
    assert llm.generate([[5]], SamplingParams(max_tokens=1, ignore_eos=True))[0].usage.completion_tokens == 1


@pytest.mark.parametrize(
    "constraint",
    [
        Constraint.json({"type": "integer", "multipleOf": 999_983}),
        Constraint.json({"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(15_000)}}),
        Constraint.json({"patternProperties": {f"^(a+)+{i}$": {"type": "string"} for i in range(400)}}),
    ],
    ids=["multiple", "properties", "patterns"],
)
def test_what_takes_too_long_is_stopped(llm: LLM, constraint: Constraint) -> None:
    assert not surely_cheap(constraint)
    started = time.process_time()
    with pytest.raises(
        PyllmError, match=r"^constraint: expected one that is compiled in 0.4 s; make it smaller"
    ):
        llm.job([5], SamplingParams(constraint=constraint), trusted=False)
    assert time.process_time() - started < 2 * MAX_SECONDS  # the costly part ran in a process that was ended


def test_large_and_nested_ones_that_can_be_followed(llm: LLM, params: SamplingParams) -> None:
    schemas = {
        "deep": deep(30),
        "enum": {"enum": [f"value {i}" for i in range(5000)]},
        "laughs": {
            "$ref": "#/$defs/d0",
            "$defs": {f"d{i}": {"anyOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(40)}
            | {"d40": {"type": "null"}},
        },
        "catastrophe": {"type": "string", "pattern": "^(a+)+$"},
    }
    for schema in schemas.values():
        constraint = Constraint.json(schema)
        if not surely_cheap(constraint):
            check_cost(constraint)
    assert answers_are_valid(llm, params, schemas) >= 6


def test_not_strict_ignores_what_cannot_be_enforced(llm: LLM, params: SamplingParams) -> None:
    schema = {"type": "array", "items": {"type": "boolean"}, "uniqueItems": True, "maxItems": 3}
    with pytest.raises(PyllmError, match="uniqueItems"):
        llm.generate([[5]], replace(params, constraint=Constraint.json(schema)))
    (answer,) = llm.generate([[5]], replace(params, constraint=Constraint.json(schema, strict=False)))
    assert all(isinstance(item, bool) for item in json.loads(answer.text))


def test_a_grammar_that_fails_on_the_way_fails_its_request_alone(llm: LLM) -> None:
    endless = replace(FREE, constraint=Constraint.grammar('start: "a" start\n'))
    with pytest.raises(PyllmError, match="constraint: "):
        llm.generate([[5]], endless)
    assert llm.generate([[5]], replace(FREE, constraint=Constraint.regex("ok")))[0].text == "ok"
