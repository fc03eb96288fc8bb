"""Files and batches expire by the clock, which the tests hold."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serving import Serving, serving, tiny_model
from test_server_batches import client_of, create, ended, rows, upload

from pyllm.llm import LLM
from pyllm.server import batches

openai = pytest.importorskip("openai", reason="needs the openai client")

HOUR = 3600
DAY = 24 * HOUR
MANY = 400  # rows that no test waits for


class Clock:
    def __init__(self) -> None:
        self.now = 2_000_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def model(tmp_path_factory: Any) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "WATCH_S", 0.02)
    monkeypatch.setattr(batches, "SWEEP_S", 0.05)


@pytest.fixture
def server(model: Path, tmp_path: Path, clock: Clock) -> Iterator[Serving]:
    with opened(model, tmp_path, clock) as running:
        yield running


def opened(model: Path, folder: Path, clock: Clock) -> Any:
    return serving(lambda: LLM(model, threads=1), batch_folder=folder / "kept", clock=clock, max_sequences=4)


def names(folder: Path) -> set[str]:
    """What lies on the disk."""
    return {path.name for path in (folder / "kept").rglob("*.json*")}


def lines(client: Any, id: str) -> list[Any]:
    return [json.loads(line) for line in client.files.content(id).iter_lines()]


def check_expired(client: Any, id: str, count: int, clock: Clock) -> int:
    """Every row is answered or has its error; how many are answered."""
    batch = ended(client, id)
    assert (batch.status, batch.expired_at, batch.completed_at) == ("expired", int(clock.now), None)
    done = lines(client, batch.output_file_id) if batch.output_file_id else []
    late = lines(client, batch.error_file_id)
    assert {row["error"]["code"] for row in late} == {"batch_expired"}
    assert sorted(row["custom_id"] for row in (*done, *late)) == sorted(f"row {i}" for i in range(count))
    counts = batch.request_counts
    assert (counts.total, counts.completed, counts.failed) == (count, len(done), len(late))
    return len(done)


def test_files_go_when_their_time_has_come(server: Serving, tmp_path: Path, clock: Clock) -> None:
    client = client_of(server)
    usual = upload(client, rows(1))
    assert usual.expires_at == usual.created_at + 30 * DAY == clock.now + 30 * DAY
    after = {"anchor": "created_at", "seconds": HOUR}
    short = client.files.create(file=("a", rows(1)), purpose="batch", expires_after=after)
    assert short.expires_at == clock.now + HOUR
    clock.now += HOUR - 1
    assert client.files.retrieve(short.id).id == short.id
    clock.now += 1
    for ask in (
        client.files.retrieve,
        client.files.content,
        client.files.delete,
        lambda id: create(client, id),
    ):
        with pytest.raises(openai.NotFoundError):
            ask(short.id)
    assert [file.id for file in client.files.list()] == [usual.id]
    server.wait(lambda: names(tmp_path) == {f"{usual.id}.json", f"{usual.id}.jsonl"})
    for wrong in ({"seconds": 10}, {"seconds": 31 * DAY}, {"anchor": "now"}):
        with pytest.raises(openai.BadRequestError, match="expires_after"):
            client.files.create(file=("a", rows(1)), purpose="batch", expires_after={**after, **wrong})
        with pytest.raises(openai.BadRequestError, match="output_expires_after"):
            create(client, usual.id, extra_body={"output_expires_after": {**after, **wrong}})


def test_what_a_batch_has_not_done_in_a_day_is_late(server: Serving, clock: Clock) -> None:
    client = client_of(server)
    batch = create(client, upload(client, rows(MANY, tokens=100)).id)
    assert batch.expires_at == batch.created_at + DAY
    server.wait(lambda: client.batches.retrieve(batch.id).request_counts.completed > 0)
    clock.now += DAY - 1
    assert client.batches.retrieve(batch.id).status == "in_progress"
    clock.now += 1
    assert 0 < check_expired(client, batch.id, MANY, clock) < MANY
    with pytest.raises(openai.ConflictError, match="it is expired"):
        client.batches.cancel(batch.id)
    again = create(client, upload(client, rows(3)).id)
    assert ended(client, again.id).status == "completed"


def test_batches_that_wait_for_others_and_files_in_use(
    model: Path, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "AT_ONCE", 1)
    with opened(model, tmp_path, clock) as server:
        client = client_of(server)
        after = {"anchor": "created_at", "seconds": HOUR}
        data = rows(MANY, tokens=100)
        file = client.files.create(file=("a", data), purpose="batch", expires_after=after)
        first = create(client, file.id)
        server.wait(lambda: client.batches.retrieve(first.id).request_counts.completed > 0)
        second = create(client, upload(client, rows(5)).id)
        clock.now += HOUR
        with pytest.raises(openai.NotFoundError):
            client.files.retrieve(file.id)
        done = client.batches.retrieve(first.id).request_counts.completed
        server.wait(lambda: client.batches.retrieve(first.id).request_counts.completed > done)
        assert client.batches.retrieve(second.id).status == "validating"
        clock.now += DAY
        assert check_expired(client, second.id, 5, clock) == 0
        assert 0 < check_expired(client, first.id, MANY, clock) < MANY
        server.wait(lambda: f"{file.id}.jsonl" not in names(tmp_path))


def test_the_window_ends_while_no_server_runs(model: Path, tmp_path: Path, clock: Clock) -> None:
    with opened(model, tmp_path, clock) as server:
        client = client_of(server)
        batch = create(client, upload(client, rows(MANY, tokens=100)).id)
        server.wait(lambda: client.batches.retrieve(batch.id).request_counts.completed > 0)
    clock.now += DAY
    with opened(model, tmp_path, clock) as server:
        assert 0 < check_expired(client_of(server), batch.id, MANY, clock) < MANY


def test_nothing_is_left_in_the_end(server: Serving, tmp_path: Path, clock: Clock) -> None:
    client = client_of(server)
    after = {"anchor": "created_at", "seconds": 2 * HOUR}
    batch = create(client, upload(client, rows(2)).id, extra_body={"output_expires_after": after})
    batch = ended(client, batch.id)
    assert client.files.retrieve(batch.output_file_id).expires_at == clock.now + 2 * HOUR
    clock.now += 2 * HOUR
    with pytest.raises(openai.NotFoundError):
        client.files.content(batch.output_file_id)
    clock.now += 30 * DAY - 2 * HOUR - 1
    assert client.batches.retrieve(batch.id).status == "completed"
    clock.now += 1
    server.wait(lambda: not names(tmp_path))
    assert list(client.batches.list()) == []
