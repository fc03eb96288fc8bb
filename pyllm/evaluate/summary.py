"""How good a set of answers is, and how it compares with another model's to the same questions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from pyllm.evaluate.questions import Task
from pyllm.evaluate.run import Answer


def summary(task: Task, answers: Sequence[Answer], reference: Sequence[Answer] | None = None) -> dict[str, Any]:
    """What --json tells of a task: "task", "questions", "shots", and each metric's "value" and standard error
    "stderr" (None for a single question).

    With a reference's answers each metric has also "reference", the "difference" from it, "difference_stderr"
    (of the paired differences: the questions are the same), and how many questions only this model ("gained")
    or only the reference ("lost") got right; "agreement" is the share of questions with the same answer.
    """
    about: dict[str, Any] = {"task": task.name, "questions": len(answers), "shots": task.shots, "metrics": {}}
    for metric in answers[0].right:
        ours = [float(answer.right[metric]) for answer in answers]
        value, stderr = mean(ours)
        found = about["metrics"][metric] = {"value": value, "stderr": stderr}
        if reference is None:
            continue
        theirs = [float(answer.right[metric]) for answer in reference]
        apart = [x - y for x, y in zip(ours, theirs, strict=True)]
        difference, difference_stderr = mean(apart)
        found |= {
            "reference": mean(theirs)[0],
            "difference": difference,
            "difference_stderr": difference_stderr,
        }
        found |= {"gained": apart.count(1.0), "lost": apart.count(-1.0)}
    if reference is not None:
        same = [x.answer == y.answer for x, y in zip(answers, reference, strict=True)]
        about["agreement"] = sum(same) / len(same)
    return about


def mean(values: Sequence[float]) -> tuple[float, float | None]:
    """The mean and its standard error, from the sample's deviation."""
    average = math.fsum(values) / len(values)
    if len(values) < 2:
        return average, None
    variance = math.fsum((value - average) ** 2 for value in values) / (len(values) - 1)
    return average, math.sqrt(variance / len(values))
