"""pyllm.batch alone: rows of every form, their order, and files that crashes have left."""

from __future__ import annotations

import asyncio
import io
import json
import os
import random
import subprocess
from pathlib import Path
from typing import Any

import pytest
from batch_jobs import NAME, Rule, jsonl, lines, prompts, run_job
from hypothesis import given, settings
from hypothesis import strategies as st

from pyllm.batch.answers import answer_line, error_line
from pyllm.batch.forms import Forms
from pyllm.batch.job import Counts, Job
from pyllm.batch.output import LockedError, Output
from pyllm.batch.progress import described, seconds_left, share
from pyllm.batch.reading import MAX_RECORD, read_csv, read_lines
from pyllm.batch.row import Record, Row, RowError, read_answer_id, row_seed
from pyllm.batch.window import BLOCK, Ready, Window
from pyllm.errors import PyllmError


def jitter() -> float:
    return random.choice((0.0, 0.0, 0.001, 0.003))


# --- whole jobs -----------------------------------------------------------------------------------------------


def test_every_row_once_in_any_order(tmp_path: Path) -> None:
    data = prompts(300)
    counts = run_job(data, tmp_path / "ordered", ordered=True)
    assert (counts.rows, counts.failed, counts.finished) == (300, 0, True)
    assert (counts.prompt_tokens, counts.completion_tokens, counts.size) == (300, 600, len(data))
    rows = [json.loads(line) for line in lines(tmp_path / "ordered")]
    assert [row["row"] for row in rows] == list(range(1, 301))
    assert [row["custom_id"] for row in rows] == [f"row {i}" for i in range(300)]
    assert rows[3]["text"] == ("PROMPT 3 " + "X" * 21) * 3
    assert rows[3].keys() == {"id", "row", "custom_id", "text", "finish_reason", "usage"}
    assert rows[3]["usage"] == {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    run_job(data, tmp_path / "free", Rule(jitter))
    assert sorted(lines(tmp_path / "free")) == sorted(lines(tmp_path / "ordered"))
    assert lines(tmp_path / "free") != lines(tmp_path / "ordered")


def test_errors_are_rows_and_stop_nothing(tmp_path: Path) -> None:
    data = jsonl({"prompt": "a"}, {"prompt": "fail"}, b"{", {"prompt": "bad"}, {"prompt": "b"})
    counts = run_job(data, tmp_path / "all", ordered=True)
    assert (counts.rows, counts.failed) == (5, 3)
    rows = [json.loads(line) for line in lines(tmp_path / "all")]
    assert [row.get("error", {}) and row["error"]["code"] for row in rows] == [
        {},
        "generation_failed",
        "invalid_json",
        "context_length_exceeded",
        {},
    ]
    assert rows[2]["error"]["row"] == 3
    assert "line 3" in rows[2]["error"]["message"]
    run_job(data, tmp_path / "good", errors=tmp_path / "bad", ordered=True)
    assert len(lines(tmp_path / "good")) == 2
    assert lines(tmp_path / "good") + lines(tmp_path / "bad") == sorted(
        lines(tmp_path / "all"), key=lambda line: b'"error"' in line
    )


def test_a_surprise_in_one_row_is_its_own(tmp_path: Path) -> None:
    rule = Rule()

    def before(row: Row) -> None:
        if row.number == 2:
            raise ZeroDivisionError("oh")

    rule.before = before
    counts = run_job(prompts(5), tmp_path / "out", rule)
    assert (counts.rows, counts.failed) == (5, 1)
    assert b"ZeroDivisionError: oh" in (tmp_path / "out").read_bytes()


def test_what_ends_the_engine_ends_the_job_and_keeps_the_rest(tmp_path: Path) -> None:
    rule = Rule()

    def before(row: Row) -> None:
        if row.number == 50:
            raise PyllmError("the engine stopped: out of memory")

    rule.before = before
    with pytest.raises(PyllmError, match="the engine stopped"):
        run_job(prompts(300), tmp_path / "out", rule)
    kept = lines(tmp_path / "out")
    assert {int(json.loads(line)["row"]) for line in kept} == set(rule.answered)
    run_job(prompts(300), tmp_path / "out")
    assert len(lines(tmp_path / "out")) == 300


def test_reading_stays_near_what_is_done(tmp_path: Path) -> None:
    """An input of any size: with nothing answered, only so much is read."""
    pulled = 0

    class Counting(io.BytesIO):
        def readline(self, size: int | None = -1, /) -> bytes:
            nonlocal pulled
            pulled += 1
            return super().readline(size)

    from pyllm.batch.done import DoneRows
    from pyllm.batch.job import Plan

    data = jsonl(*({"prompt": "long"} for _ in range(5000)))
    output = Output(tmp_path / "out", NAME)
    plan = Plan(lambda: read_lines(Counting(data)), Forms(), output, NAME, slots=lambda: 8)

    async def run() -> None:
        job = Job(plan, DoneRows(), Rule())
        asyncio.get_running_loop().call_later(0.5, job.stop, 0.0)
        assert not (await job.run()).finished

    asyncio.run(run())
    output.close()
    assert 8 <= pulled <= 256 + 8 + 64


def test_the_kept_order_bounds_what_is_finished_early(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("pyllm.batch.writer.AHEAD", 40)
    data = jsonl({"prompt": "long"}, *({"prompt": f"{i}"} for i in range(1000)))
    rule = Rule()
    watch = lambda job: asyncio.get_running_loop().call_later(0.5, job.stop, 0.0)  # noqa: E731
    counts = run_job(data, tmp_path / "out", rule, ordered=True, watch=watch)
    assert not counts.finished
    assert 20 < len(rule.answered) <= 40 + 16
    assert lines(tmp_path / "out") == []


def test_a_stop_lets_running_rows_finish_in_time(tmp_path: Path) -> None:
    data = prompts(50)
    rule = Rule(lambda: 0.1)
    watch = lambda job: asyncio.get_running_loop().call_later(0.15, job.stop, 20.0)  # noqa: E731
    counts = run_job(data, tmp_path / "out", rule, watch=watch)
    assert not counts.finished
    assert sorted(rule.asked) == sorted(rule.answered)
    assert 8 <= len(lines(tmp_path / "out")) == len(rule.answered) < 50


# --- files that something has left ----------------------------------------------------------------------------


@pytest.mark.parametrize("ordered", [True, False])
def test_a_file_cut_anywhere_is_gone_on_with(tmp_path: Path, ordered: bool) -> None:
    data = prompts(9) + jsonl(b"{", {"prompt": "fail"})
    whole, part = tmp_path / "whole", tmp_path / "part"
    run_job(data, whole, ordered=ordered)
    content = whole.read_bytes()
    cuts = range(0, len(content) + 1, 1 if os.environ.get("PYLLM_LONG") else 13)
    for cut in [*cuts, len(content) - 1, len(content)]:
        part.write_bytes(content[:cut])
        rule = Rule()
        counts = run_job(data, part, rule, ordered=ordered)
        assert counts.skipped == content[:cut].count(b"\n")
        assert counts.rows + counts.skipped == 11
        if ordered:
            assert part.read_bytes() == content
        assert sorted(lines(part)) == sorted(lines(whole))


def test_both_files_cut_anywhere(tmp_path: Path) -> None:
    data = jsonl(*({"prompt": "fail" if i % 3 == 0 else f"p{i}"} for i in range(12)))
    good, bad = tmp_path / "good", tmp_path / "bad"
    run_job(data, good, errors=bad, ordered=True)
    first, second = good.read_bytes(), bad.read_bytes()
    source = random.Random(3)
    for _ in range(40):
        good.write_bytes(first[: source.randrange(len(first) + 1)])
        bad.write_bytes(second[: source.randrange(len(second) + 1)])
        run_job(data, good, errors=bad, ordered=True)
        assert (good.read_bytes(), bad.read_bytes()) == (first, second)


def test_zeros_that_a_power_loss_leaves_are_repaired(tmp_path: Path) -> None:
    data, out = prompts(20), tmp_path / "out"
    run_job(data, out, ordered=True)
    content = out.read_bytes()
    third = len(b"\n".join(content.split(b"\n")[:3])) + 1
    for damage in (
        content[:third] + b"\0" * 500,
        content[:third] + b"\0" * 100 + content[third + 100 :],
        content[: third + 30] + b"\0" * 70 + content[third + 100 :],
    ):
        out.write_bytes(damage)
        assert run_job(data, out, ordered=True).skipped == 3
        assert out.read_bytes() == content


@pytest.mark.parametrize(
    "content",
    [
        b"my notes",
        b"my notes\n",
        b'{"id": 1}\n',
        b'{"id":"batch_req_0123abcd0123456789abcdef_x","row":1}\n',
        b"\n",
        b"{}",
    ],
)
def test_a_file_that_is_not_ours_is_left_alone(tmp_path: Path, content: bytes) -> None:
    out = tmp_path / "out"
    out.write_bytes(content)
    with pytest.raises(PyllmError, match=r"line 1 is no row that pyllm batch wrote.*--overwrite"):
        run_job(prompts(3), out)
    assert out.read_bytes() == content
    run_job(prompts(3), out, overwrite=True)
    assert len(lines(out)) == 3


def test_garbage_between_our_rows_is_not_cut_off(tmp_path: Path) -> None:
    data, out = prompts(10), tmp_path / "out"
    run_job(data, out)
    kept = lines(out)
    out.write_bytes(b"\n".join([*kept[:4], b"my notes", *kept[4:]]) + b"\n")
    before = out.read_bytes()
    with pytest.raises(PyllmError, match="line 5 is no row"):
        run_job(data, out)
    assert out.read_bytes() == before


def test_an_output_of_other_input_or_options_is_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_job(prompts(20), out, ordered=True)
    before = out.read_bytes()
    changed = prompts(20).replace(b"prompt 7 ", b"prompt seven ")
    for data, told in (
        (changed, "belongs to other input: row 8 "),
        (prompts(10), "answers row 20, and the input ends at 10"),
    ):
        with pytest.raises(PyllmError, match=told):
            run_job(data, out)
        assert out.read_bytes() == before
    with pytest.raises(PyllmError, match="line 1 was written for another model or with other options"):
        run_job(prompts(20), out, name="89abcdef")
    out.write_bytes(before + before.splitlines(True)[4])
    with pytest.raises(PyllmError, match="row 5 is there twice"):
        run_job(prompts(20), out)


def test_rows_that_were_added_to_the_input_are_done(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_job(prompts(10), out)
    counts = run_job(prompts(25), out)
    assert (counts.skipped, counts.rows) == (10, 15)
    assert run_job(prompts(25), out).skipped == 25


def test_an_unordered_output_is_not_gone_on_with_in_order(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_job(prompts(5), out, ordered=True)
    kept = lines(out)
    out.write_bytes(b"\n".join([kept[2], kept[0]]) + b"\n")
    with pytest.raises(PyllmError, match="not in the input's order"):
        run_job(prompts(5), out, ordered=True)
    assert run_job(prompts(5), out).rows == 3


def test_one_job_at_a_time(tmp_path: Path) -> None:
    held = Output(tmp_path / "out", NAME)
    with pytest.raises(LockedError, match="another job is writing it"):
        run_job(prompts(3), tmp_path / "out")
    held.close()
    run_job(prompts(3), tmp_path / "out")


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent" / "out"):
        with pytest.raises(PyllmError, match=str(path)):
            Output(path, NAME)
    null = Output(Path(os.devnull), NAME)
    assert list(null.recover()) == []
    null.append([b"row"])
    null.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Any:
    """A file system of 64 KiB."""
    place = tmp_path / "small"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if done.returncode:
        pytest.skip(f"a file system can only be mounted by root: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_loses_nothing(small_disk: Path, tmp_path: Path) -> None:
    data = prompts(800)
    run_job(data, tmp_path / "whole", ordered=True)
    out = small_disk / "out"
    told = r"No space left on device; the rows before are kept, the same command goes on"
    with pytest.raises(PyllmError, match=told):
        run_job(data, out, ordered=True)
    kept = lines(out)
    assert 10 < len(kept) < 800
    with pytest.raises(PyllmError, match=told):
        run_job(data, out, ordered=True)
    assert lines(out)[: len(kept)] == kept
    subprocess.run(["mount", "-o", "remount,size=4m", str(small_disk)], check=True)
    run_job(data, out, ordered=True)
    assert out.read_bytes() == (tmp_path / "whole").read_bytes()


# --- forms ----------------------------------------------------------------------------------------------------

CHAT = {"messages": [{"role": "user", "content": "Hi"}]}


def row_of(document: Any, forms: Forms | None = None) -> Row:
    data = document if isinstance(document, bytes) else json.dumps(document).encode()
    (record,) = read_lines(io.BytesIO(data + b"\n"))
    return (forms or Forms()).row(record)


def openai(**fields: Any) -> dict[str, Any]:
    return {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": CHAT, **fields}


@pytest.mark.parametrize(
    ("document", "code", "told"),
    [
        (b"{", "invalid_json", "line 1: not JSON"),
        (b"[1]", "invalid_json", "expected a JSON object, found list"),
        (b'{"prompt": "\xff"}', "invalid_json", "line 1: not JSON"),
        (b"[" * 100_000, "invalid_json", "nested too deeply"),
        (openai(url="/v1/images"), "unknown_url", "url: expected one of /v1/chat/completions"),
        (openai(url=["x"]), "unknown_url", "got ['x']"),
        (openai(url="/v1/completions/"), "unknown_url", "'/v1/completions/'"),
        (openai(method="GET"), "invalid_method", "expected POST, got 'GET'"),
        (openai(body="text"), "missing_body", "body: expected an object"),
        (openai(custom_id=None), "missing_custom_id", "custom_id: expected a text"),
        (openai(custom_id=7), "invalid_custom_id", "custom_id: expected a text"),
        ({"text": "Hi"}, "missing_prompt", "expected one of prompt, messages, input, found text"),
        ({"prompt": "a", "messages": []}, "missing_prompt", "found prompt and messages"),
        ({"prompt": None}, "missing_prompt", "found prompt"),
        ({}, "missing_prompt", "expected one of"),
    ],
)
def test_what_is_wrong_with_a_row(document: Any, code: str, told: str) -> None:
    row = row_of(document)
    assert row.error is not None
    assert row.error.code == code
    assert told in str(row.error)
    line = error_line(NAME, row, row.error)
    found = read_answer_id(line)
    assert found is not None
    assert (found[0], found[2]) == (NAME, 1)


def test_requests_of_all_forms() -> None:
    row = row_of(openai(custom_id="é\n"))
    assert (row.form, row.custom_id, row.url, row.body) == ("openai", "é\n", "/v1/chat/completions", CHAT)
    assert row_of(openai(method="POST")).error is None
    plain = row_of({"custom_id": "x", "prompt": "Hi", "temperature": 0.5})
    assert (plain.form, plain.custom_id, plain.url) == ("plain", "x", "/v1/completions")
    assert plain.body == {"prompt": "Hi", "temperature": 0.5, "max_tokens": 512}
    assert row_of({"prompt": "Hi"}, Forms(max_tokens=7)).body["max_tokens"] == 7
    assert row_of({"prompt": "Hi", "max_tokens": 3}, Forms(max_tokens=7)).body["max_tokens"] == 3
    assert row_of({**CHAT, "n": 2}).url == "/v1/chat/completions"
    assert row_of({"input": "Hi"}).url == "/v1/embeddings"
    chat = row_of({"prompt": "Hi", "seed": 3}, Forms(system="Be brief"))
    assert chat.body["messages"][0] == {"role": "system", "content": "Be brief"}
    assert (chat.url, chat.body["seed"]) == ("/v1/chat/completions", 3)
    assert "prompt" not in chat.body
    line = row_of(b'{"prompt"', Forms("lines", max_tokens=4))
    assert line.body == {"prompt": '{"prompt"', "max_tokens": 4}
    made = row_of({"a": 1, "b": ["x"]}, Forms(template="{{ a }}-{{ b[0] }}"))
    assert made.body["prompt"] == "1-x"
    absent = row_of({"a": 1}, Forms(template="{{ c }}"))
    assert "'c' is undefined; the columns are a" in str(absent.error)
    with pytest.raises(PyllmError, match="--template"):
        Forms(template="{{ a")
    only = Forms(endpoint="/v1/completions")
    assert row_of(openai(), only).error.code == "mismatched_url"  # type: ignore[union-attr]
    assert row_of({"custom_id": "a", "prompt": "Hi"}, only).error.code == "unknown_url"  # type: ignore[union-attr]


def test_a_schema_is_for_rows_that_ask_for_nothing_else() -> None:
    forms = Forms(schema={"type": "object"})
    form = {"name": "schema", "schema": {"type": "object"}, "strict": True}
    wanted = {"type": "json_schema", "json_schema": form}
    assert row_of(openai(), forms).body["response_format"] == wanted
    assert row_of({"prompt": "Hi"}, forms).body["response_format"] == wanted
    text = {"type": "text"}
    assert row_of(openai(body={**CHAT, "response_format": text}), forms).body["response_format"] == text
    response = row_of(openai(url="/v1/responses", body={"input": "Hi"}), forms)
    assert response.body["text"] == {"format": {"type": "json_schema", **form}}
    assert "response_format" not in row_of({"input": "Hi"}, forms).body


def test_names_are_used_once(tmp_path: Path) -> None:
    data = jsonl({"custom_id": "a", "prompt": "x"}, {"prompt": "y"}, {"custom_id": "a", "prompt": "z"})
    for _ in range(2):  # the second time, the first rows are done already
        counts = run_job(data, tmp_path / "out", ordered=True)
    assert counts.skipped == 3
    third = json.loads(lines(tmp_path / "out")[2])
    assert third["error"]["code"] == "duplicate_custom_id"
    assert "that of row 1" in third["error"]["message"]
    kept = lines(tmp_path / "out")[:2]
    (tmp_path / "out").write_bytes(b"\n".join(kept) + b"\n")
    run_job(data, tmp_path / "out", ordered=True)
    assert json.loads(lines(tmp_path / "out")[2]) == third


def test_lines_of_every_kind() -> None:
    text = b"\xef\xbb\xbfone\r\n\n   \ntwo\n" + b"x" * (MAX_RECORD + 10) + b"\nlast"
    records = list(read_lines(io.BytesIO(text)))
    assert [record.number for record in records] == [1, 4, 5, 6]
    assert records[0].data == b"one"
    assert records[1].data == b"two"
    assert isinstance(records[2].data, RowError)
    assert "line 5" in str(records[2].data)
    assert records[3].data == b"last"
    assert len({record.key for record in records}) == 4
    exactly = list(read_lines(io.BytesIO(b"y" * MAX_RECORD + b"\r\nz")))
    assert [len(record.data) for record in exactly] == [MAX_RECORD, 1]  # type: ignore[arg-type]


def test_tables() -> None:
    text = 'name,text\nBob,"a ""quoted""\nline"\n\nEve,é\nshort\n'.encode() + b"bad,\xff\n"
    records = list(read_csv(io.BytesIO(text)))
    assert [record.number for record in records] == [1, 2, 3, 4]
    assert records[0].data == {"name": "Bob", "text": 'a "quoted"\nline'}
    assert records[1].data == {"name": "Eve", "text": "é"}
    assert "expected 2 fields as in the first row, got 1" in str(records[2].data)
    assert "expected UTF-8" in str(records[3].data)
    row = Forms("csv").row(records[0])
    assert "a column prompt, or --template" in str(row.error)
    assert Forms("csv", template="{{ text }}!").row(records[1]).body["prompt"] == "é!"
    (tab,) = read_csv(io.BytesIO(b"prompt\tn\nHi\t1\n"), "\t")
    assert Forms("csv").row(tab).body["prompt"] == "Hi"
    for wrong, told in ((b"a,a\n", "name every column once"), (b'a\n"b', "CSV, line 2")):
        with pytest.raises(PyllmError, match=told):
            list(read_csv(io.BytesIO(wrong)))


def test_seeds_are_steady_and_differ() -> None:
    records = [Record(i, b"", key, 0) for i, key in ((1, "a"), (2, "a"), (1, "b"))]
    seeds = [row_seed(seed, record) for seed in (0, 1) for record in records]
    assert len(set(seeds)) == 6
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert row_seed(0, records[0]) == seeds[0]


def test_answers_hold_nothing_of_chance() -> None:
    row = Row(Record(7, b"", "0123456789abcdef", 0), custom_id="a")

    def document(drawn: str) -> dict[str, Any]:
        call = {"id": f"call_{drawn}", "type": "function"}
        short = {"id": (drawn * 9)[:9], "type": "function"}
        usage = {"prompt_tokens": 1, "prompt_tokens_details": {"cached_tokens": len(drawn)}}
        item = {"id": f"fc_{drawn}", "call_id": f"call_{drawn}"}
        return {
            "id": f"chatcmpl-{drawn}",
            "created": len(drawn),
            "choices": [{"message": {"tool_calls": [call, short]}}],
            "output": [item],
            "usage": usage,
            "timings": drawn,
        }

    line = answer_line(NAME, row, document("x"))
    assert line == answer_line(NAME, row, document("0f"))
    body = json.loads(line)["response"]["body"]
    assert body["id"] == f"chatcmpl-{NAME}0123456789abcdef_7"
    first, second = body["choices"][0]["message"]["tool_calls"]
    assert first["id"].startswith("call_")
    assert len(second["id"]) == 9
    assert first["id"] != body["output"][0]["call_id"]


# --- the window -----------------------------------------------------------------------------------------------


def ready(number: int, tokens: list[int], length: int = 0) -> Ready:
    return Ready(Row(Record(number, b"", "", 1)), None, tokens, length or len(tokens))


def taken(window: Window) -> list[int]:
    out = []
    while (item := window.take()) is not None:
        out.append(item.row.number)
    return out


def test_rows_that_begin_alike_run_together() -> None:
    window = Window()
    for number in range(12):
        document = number % 3
        window.add(ready(number, [document] * (4 * BLOCK) + [number]))
    order = [number % 3 for number in taken(window)]
    assert order == sorted(order, key=order.index)


def test_long_and_short_in_turn_and_the_longest_first_at_the_end() -> None:
    lengths = [5, 90, 10, 80, 20, 70]
    window = Window()
    for number, length in enumerate(lengths):
        window.add(ready(number, [number] * BLOCK, length))
    assert [lengths[i] for i in taken(window)] == [90, 5, 80, 10, 70, 20]
    window = Window()
    for number, length in enumerate(lengths):
        window.add(ready(number, [number] * BLOCK, length))
    window.ended = True
    assert [lengths[i] for i in taken(window)] == sorted(lengths, reverse=True)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32))
def test_no_row_waits_for_ever(seed: int) -> None:
    source, window = random.Random(seed), Window(rows=8)
    added = 0
    waited: dict[int, int] = {}
    for step in range(200):
        while not window.full:
            tokens = [source.randrange(2)] * (BLOCK * source.randrange(4)) + [0]
            window.add(ready(added, tokens, source.randrange(1, 100)))
            waited[added] = step
            added += 1
        item = window.take()
        assert item is not None
        assert step - waited.pop(item.row.number) <= 4 * 8
    assert sorted(taken(window)) == sorted(waited)


def test_the_window_is_bounded_by_bytes_too() -> None:
    window = Window(rows=100, size=10)
    for number in range(10):
        assert not window.full
        window.add(ready(number, [1]))
    assert window.full
    window.take()
    assert not window.full


def test_progress_shows_work_before_the_first_row_and_no_guess_from_too_few() -> None:
    counts = Counts(running=8, computed=512, seconds=2.0)
    assert described(counts) == "0 rows, 8 running, 512 tokens computed"
    assert (share(counts, 1000), seconds_left(counts, 1000)) == (0.0, None)
    counts.rows, counts.size, counts.completion_tokens = 3, 30, 40
    assert described(counts) == "3 rows, 8 running, 20 tokens/s"
    assert seconds_left(counts, 1000) is None  # the short ones finish first
    counts.rows, counts.size = 20, 250
    assert seconds_left(counts, 1000) == pytest.approx(6.0)
    assert seconds_left(counts, 0) is None
