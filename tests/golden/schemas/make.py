"""Selects schemas of the JSON Schema Test Suite (MIT licence, Copyright (c) 2012 Julian Berman) for the tests.

    python tests/golden/schemas/make.py SUITE/tests/draft2020-12

The suite is at github.com/json-schema-org/JSON-Schema-Test-Suite; PyPI's source package of jsonschema has it in
its folder json, npm has it as json-schema-test-suite. Taken: from each file at most three that can be enforced.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llguidance import LLTokenizer

from pyllm import Constraint, PyllmError
from pyllm.grammar import compiled


def suite(folder: Path) -> Iterator[tuple[str, Any]]:
    """(file and description, schema) of every group of tests, the formats' too."""
    for path in sorted([*folder.glob("*.json"), *folder.glob("optional/format/*.json")]):
        for group in json.loads(path.read_text(encoding="utf-8")):
            schema = group["schema"]
            if isinstance(schema, dict):
                schema = {key: value for key, value in schema.items() if key != "$schema"}
            yield f"{path.stem}: {group['description']}", schema


def main() -> None:
    found: dict[str, Any] = {}
    taken: dict[str, int] = {}
    for name, schema in suite(Path(sys.argv[1])):
        file = name.split(":")[0]
        text = json.dumps(schema)
        if len(text) > 300 or taken.get(file, 0) == 3 or schema in found.values():
            continue
        try:
            compiled(Constraint.json(schema), LLTokenizer("byte"))
        except PyllmError:
            continue
        found[name] = schema
        taken[file] = taken.get(file, 0) + 1
    lines = [f"  {json.dumps(name)}: {json.dumps(schema)}" for name, schema in found.items()]
    Path(__file__).with_name("suite.json").write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
