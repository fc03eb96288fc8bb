"""Writes what EleutherAI's lm-evaluation-harness finds with models of tests/golden/folders, in float32.

python tests/golden/make_scores.py     # into tests/golden/evaluate

scores.json: {folder: [[context, continuation, log-likelihood], ...]}. results.json:
{folder: {metric: value}} of the questions in questions.jsonl. Needs lm-eval[hf], torch and transformers >= 5.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import torch
import transformers
from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

HERE = Path(__file__).resolve().parent
OUT = HERE / "evaluate"
TEXT = HERE.parent / "oracle" / "text.txt"
FOLDERS = ("llama", "qwen2")
PAIRS = [
    ("The river took the bridge, and", " nobody crossed it again."),
    ("The river took the bridge, and ", "nobody crossed it again."),
    ("The river took the bridge, and", "roid"),
    ("Question: how many?\nAnswer:", " 12 345"),
    ("", "Größe and 你好"),
    ("A", " b"),
    ("It rained for three days, and on the fourth the river took the bridge. " * 2, " It rained."),
    ("two  spaces  ", " and three   "),
]


TASK = {
    "task": "questions",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": str(OUT / "questions.jsonl")}},
    "test_split": "test",
    "output_type": "multiple_choice",
    "doc_to_text": "{{prompt}}",
    "doc_to_choice": "choices",
    "doc_to_target": "answer",
    "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
}


def questions() -> list[dict[str, object]]:
    """Eight words of a text; which of four pieces goes on?"""
    rng = random.Random(1)
    words = [word for word in TEXT.read_text(encoding="utf-8").split() if len(word) < 12 and word.isascii()]

    def piece(start: int) -> str:
        return " ".join(words[start : start + rng.randint(1, 5)])

    made = []
    for start in range(0, 60 * 18, 18):
        choices = [piece(start + 8), *(piece(rng.randrange(len(words) - 9)) for _ in range(3))]
        order = rng.sample(range(4), 4)
        prompt = " ".join(words[start : start + 8])
        made.append({"prompt": prompt, "choices": [choices[i] for i in order], "answer": order.index(0)})
    return made


def harness(folder: Path) -> HFLM:
    options = {
        "dtype": torch.float32,
        "attn_implementation": "eager",
    }  # sdpa loses sliding windows without grad
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, **options)
    return HFLM(pretrained=model, tokenizer=transformers.AutoTokenizer.from_pretrained(folder), batch_size=1)


def scores(model: HFLM) -> list[tuple[str, str, float]]:
    asked = [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(PAIRS)]
    return [(*pair, value) for pair, (value, _) in zip(PAIRS, model.loglikelihood(asked), strict=True)]


def results(model: HFLM) -> dict[str, float]:
    found = simple_evaluate(model, tasks=[TASK], bootstrap_iters=10)["results"]["questions"]
    names = ("acc", "acc_stderr", "acc_norm", "acc_norm_stderr")
    return {name: found[f"{name},none"] for name in names}


def write(name: str, text: str) -> None:
    (OUT / name).write_text(text + "\n", encoding="utf-8")


def main() -> None:
    OUT.mkdir(exist_ok=True)
    write("questions.jsonl", "\n".join(json.dumps(row, ensure_ascii=False) for row in questions()))
    models = {name: harness(HERE / "folders" / name) for name in FOLDERS}
    found = {name: scores(model) for name, model in models.items()}
    write("scores.json", json.dumps(found, ensure_ascii=False, indent=1))
    write(
        "results.json",
        json.dumps({name: results(model) for name, model in models.items() if name != "gemma3"}, indent=1),
    )


if __name__ == "__main__":
    main()
