"""/v1/files and /v1/batches through the openai client, over a tiny random model."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_engine import FakeEngine, fake_llm
from serving import Serving, serving, tiny_model

from pyllm.llm import LLM
from pyllm.sampling import SamplingParams

openai = pytest.importorskip("openai", reason="needs the openai client")

KEYS = ("first-key-1", "second-key-2")


@pytest.fixture(scope="module")
def model(tmp_path_factory: Any) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def server(model: Path, tmp_path_factory: Any) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("kept") / "batches"
    with serving(lambda: LLM(model, threads=1), keys=KEYS, batch_folder=folder, max_file=200_000) as running:
        yield running


def client_of(server: Serving, key: str = KEYS[0]) -> Any:
    return openai.OpenAI(base_url=f"{server.base}/v1", api_key=key, max_retries=0, timeout=120)


def rows(count: int, tokens: int = 8) -> bytes:
    body = {"model": "tiny", "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
    return b"".join(
        json.dumps(
            {
                "custom_id": f"row {i}",
                "method": "POST",
                "url": "/v1/chat/completions",
                "body": {**body, "messages": [{"role": "user", "content": f"Say {i}"}]},
            }
        ).encode()
        + b"\n"
        for i in range(count)
    )


def upload(client: Any, data: bytes) -> Any:
    return client.files.create(file=("in.jsonl", io.BytesIO(data)), purpose="batch")


def create(client: Any, file: str, **fields: Any) -> Any:
    wanted = {"endpoint": "/v1/chat/completions", "completion_window": "24h", **fields}
    return client.batches.create(input_file_id=file, **wanted)


def ended(client: Any, id: str) -> Any:
    deadline = time.monotonic() + 60
    while (batch := client.batches.retrieve(id)).status not in ("completed", "failed", "cancelled", "expired"):
        assert time.monotonic() < deadline, batch
        time.sleep(0.02)
    return batch


def test_a_batch_from_upload_to_answers(server: Serving) -> None:
    client = client_of(server)
    data = rows(12) + b'{"custom_id": "other", "url": "/v1/completions", "body": {}}\n{\n'
    file = upload(client, data)
    assert (file.bytes, file.filename, file.purpose) == (len(data), "in.jsonl", "batch")
    assert client.files.content(file.id).content == data
    batch = create(client, file.id, metadata={"name": "test"})
    assert batch.object == "batch"
    batch = ended(client, batch.id)
    assert (batch.status, batch.metadata) == ("completed", {"name": "test"})
    counts = batch.request_counts
    assert (counts.total, counts.completed, counts.failed) == (14, 12, 2)
    answers = {
        row["custom_id"]: row
        for row in map(json.loads, client.files.content(batch.output_file_id).iter_lines())
    }
    assert len(answers) == 12
    direct = client.chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": "Say 3"}],
        max_tokens=8,
        temperature=0,
        extra_body={"ignore_eos": True},
    )
    response = answers["row 3"]["response"]
    assert response["status_code"] == 200
    assert response["body"]["choices"][0]["message"]["content"] == direct.choices[0].message.content
    errors = [
        json.loads(line)["error"]["code"] for line in client.files.content(batch.error_file_id).iter_lines()
    ]
    assert sorted(errors) == ["invalid_json", "mismatched_url"]
    assert batch.id in [item.id for item in client.batches.list()]
    assert {file.id, batch.output_file_id} <= {item.id for item in client.files.list()}


def test_one_caller_does_not_see_anothers(server: Serving) -> None:
    client, other = client_of(server), client_of(server, KEYS[1])
    file = upload(client, rows(1))
    batch = ended(client, create(client, file.id).id)
    for ask in (
        lambda: other.files.retrieve(file.id),
        lambda: other.files.content(file.id),
        lambda: other.files.delete(file.id),
        lambda: other.files.content(batch.output_file_id),
        lambda: other.batches.retrieve(batch.id),
        lambda: other.batches.cancel(batch.id),
        lambda: create(other, file.id),
    ):
        with pytest.raises(openai.NotFoundError):
            ask()
    assert list(other.files.list()) == []
    assert list(other.batches.list()) == []
    for id in ("..%2f..%2fetc", "file-", "file-" + "g" * 24, batch.id):
        assert server.get(f"/v1/files/{id}", authorization=f"Bearer {KEYS[0]}").status == 404
    assert client.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(file.id)


def test_what_is_refused(server: Serving) -> None:
    client = client_of(server)
    file = upload(client, rows(1))
    with pytest.raises(openai.BadRequestError, match="endpoint: expected one of"):
        create(client, file.id, endpoint="/v1/images")
    with pytest.raises(openai.BadRequestError, match="purpose: expected batch"):
        client.files.create(file=("a", b"x"), purpose="fine-tune")
    with pytest.raises(openai.APIStatusError, match="larger than the 200000 bytes"):
        upload(client, b"x" * 300_000)
    key = {"authorization": f"Bearer {KEYS[0]}"}
    assert server.post("/v1/files", b"{}", **key).status == 415
    form = {**key, "content-type": "multipart/form-data; boundary=x"}
    for body in (
        b"",
        b"--x--",
        b"no form",
        b"--x\r\n\r\n",
        b'--x\r\ncontent-disposition: form-data; name="file"\r\n\r\na\r\n--x--',
    ):
        assert server.post("/v1/files", body, **form).status == 400
    empty = ended(client, create(client, upload(client, b"\n").id).id)
    assert empty.status == "failed"
    assert "empty" in empty.errors.data[0].message
    with pytest.raises(openai.ConflictError, match="it is failed"):
        client.batches.cancel(empty.id)
    assert server.get("/v1/files?limit=0", **key).status == 400
    assert server.get("/v1/batches?after=x", **key).status == 400


def test_a_server_without_a_folder_keeps_nothing() -> None:
    with serving(lambda: fake_llm(FakeEngine(lambda p: p))) as server:
        assert server.get("/v1/files").status == 404
        assert server.post("/v1/batches", {}).status == 404


def test_storage_is_bounded(model: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"batch_folder": tmp_path / "kept", "max_storage": 3000}
    with serving(lambda: LLM(model, threads=1), **options) as server:
        client = client_of(server)
        file = upload(client, rows(8))
        with pytest.raises(openai.APIStatusError, match="do not fit; delete some"):
            upload(client, rows(8))
        client.files.delete(file.id)
        upload(client, rows(8))


def test_cancelled_batches_keep_what_is_done(server: Serving) -> None:
    client = client_of(server)
    batch = create(client, upload(client, rows(300, tokens=30)).id)
    server.wait(lambda: client.batches.retrieve(batch.id).request_counts.completed > 0)
    assert client.batches.cancel(batch.id).status == "cancelling"
    batch = ended(client, batch.id)
    assert batch.status == "cancelled"
    done = list(client.files.content(batch.output_file_id).iter_lines())
    assert 0 < len(done) == batch.request_counts.completed < 300


def test_others_go_first_and_a_restart_goes_on(model: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"batch_folder": tmp_path / "kept", "max_sequences": 4}
    count, tokens = 150, 200

    def load() -> LLM:
        return LLM(model, threads=1, max_sequences=4)

    with serving(load, **options) as server:
        client = client_of(server)
        file = upload(client, rows(count, tokens))
        batch = create(client, file.id)
        llm = server.service.models[0].llm
        server.wait(lambda: llm.stats()["running"] == 4)
        # The batch has taken every place: others get theirs at once.
        for _ in range(10):
            client.completions.create(model="tiny", prompt="Hi", max_tokens=1)
            if llm.stats()["preemptions"]:
                break
        assert llm.stats()["preemptions"] > 0
        with pytest.raises(openai.ConflictError, match="which runs"):
            client.files.delete(file.id)
        server.wait(lambda: client.batches.retrieve(batch.id).request_counts.completed > 0)
        assert client.batches.retrieve(batch.id).status == "in_progress"
    with serving(load, **options) as server:
        client = client_of(server)
        assert client.batches.retrieve(batch.id).request_counts.completed > 0
        batch = ended(client, batch.id)
        assert batch.status == "completed"
        found = [json.loads(line) for line in client.files.content(batch.output_file_id).iter_lines()]
    answers = {row["custom_id"]: row["response"]["body"]["choices"][0]["message"]["content"] for row in found}
    assert len(found) == len(answers) == count
    with LLM(model, threads=1) as llm:
        params = SamplingParams(max_tokens=tokens, temperature=0.0, ignore_eos=True)
        for i in range(0, count, 30):
            assert answers[f"row {i}"] == llm.chat([{"role": "user", "content": f"Say {i}"}], params).text
