"""Requests made up from the server's own OpenAPI document, right and wrong ones: no answer is a 5xx, and every
answer is one that the document knows. By schemathesis: pip install '.[clients]' brings it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from serving import Serving, serving, tiny_model

from pyllm.llm import LLM

SECONDS = int(os.environ.get("PYLLM_TEST_FUZZ_SECONDS", "20"))
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "unsupported_method",
    "allow_header_conformance",
    "use_after_free",
)


@pytest.fixture
def server(tmp_path_factory: Any) -> Iterator[Serving]:
    path = tiny_model(tmp_path_factory.mktemp("model"))
    with serving(lambda: LLM(path, threads=1, pack=False), max_tokens=8) as running:
        yield running


@pytest.mark.skipif(find_spec("schemathesis") is None, reason="needs schemathesis: '.[clients]'")
def test_every_answer_is_in_the_document(server: Serving, tmp_path: Path) -> None:
    options = ["--max-time", str(SECONDS), "--checks", ",".join(CHECKS), "--continue-on-failure"]
    options += ["--suppress-health-check", "all", "--generation-database", "none", "--no-color"]
    run = subprocess.run(
        [sys.executable, "-m", "schemathesis.cli", "run", f"{server.base}/openapi.json", *options],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=SECONDS + 120,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    statuses = [int(found[1]) for line in server.lines if (found := re.search(r" (\d{3}) \d+\.\d+ s;", line))]
    assert len(statuses) > 500, run.stdout
    assert statuses.count(200) > 50
    assert statuses.count(400) > 50
    assert max(statuses) < 500
    server.wait(lambda: server.service.admission.taken == 0)
    stats = server.service.models[0].llm.stats()
    assert stats["running"] == stats["waiting"] == 0
    assert stats["blocks_free"] + stats["blocks_cached"] == stats["blocks_total"]
