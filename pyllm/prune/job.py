"""A whole `pyllm prune`: calibrate, choose, search, write, measure."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pyllm import _core
from pyllm.calibration import record
from pyllm.errors import PyllmError
from pyllm.prune.draft import Draft, Floats
from pyllm.prune.goal import Goal
from pyllm.prune.prune import Amounts, Pruned, check_amounts, prune
from pyllm.prune.report import Measure, Tell, compare, loss_of, opened, window_for
from pyllm.prune.search import largest_that_fits
from pyllm.prune.shape import Shape
from pyllm.prune.vocabulary import tokens_for
from pyllm.quantize.quantize import check_target
from pyllm.weights import GgufSource

HELD_OUT = 0.25  # of the calibration text, where no other text to measure with is given


@dataclass
class Job:
    """calibration: the text that tells what matters. vocabulary: the text whose tokens stay. measured: another
    one to measure with. "" for none. windows: of `measured` at most, 0 for all."""

    path: Path
    target: Path
    amounts: Amounts
    calibration: str = ""
    vocabulary: str = ""
    measured: str = ""
    goal: Goal | None = None
    windows: int = 16
    compare: bool = True
    threads: int = 0
    notes: list[str] = field(default_factory=list)

    def run(self, tell: Tell) -> dict[str, Any]:
        """Writes the target and returns the document that --json prints. PyllmError for what cannot be done."""
        source = GgufSource(self.path)
        check_target(self.target, source.paths)
        draft = Draft(source)
        check_amounts(draft, self.amounts)
        if self.compare or self.goal:
            self._hold_out()
            window_for(self.path, self.measured)  # before anything is written
        if self.vocabulary:
            tell("choosing tokens")
            tokens = tokens_for(_core.GgufFile(self.path), self.vocabulary)
            self.amounts = replace(self.amounts, tokens=tokens)
        importance, influence = self._activations(tell)

        def write(target: Path, amounts: Amounts, figures: Mapping[str, Any]) -> Pruned:
            options: dict[str, Any] = {"threads": self.threads, "progress": _Told(tell)}
            return prune(self.path, target, amounts, importance, influence, figures=figures, **options)

        trail: list[dict[str, Any]] = []
        figures: dict[str, Any] = {}
        if self.goal:
            self.amounts = self._search(draft, self.goal, write, trail, tell)
            most = self.goal.most  # bisection: what fits last is what was chosen
            loss = [t["loss"] for t in trail if t["held_out"] and t["loss"] <= most][-1]
            figures = {"max_loss": str(self.goal), "loss": self.goal.show(loss)}
        report = _describe(write(self.target, self.amounts, figures))
        report = {"input": str(self.path), "output": str(self.target)} | report
        if self.compare:
            found = compare(self.path, self.target, self._measure(self.measured), self._ids, tell)
            report["before"] |= found["before"]
            report["after"] |= found["after"]
            report["loss"] = found["loss"]
        if trail:
            report["search"] = trail
        report["notes"] = [*self.notes, *report["notes"]]
        return report

    def _hold_out(self) -> None:
        """What is measured with should not be what chose, where there is text enough."""
        if self.measured:
            return
        if self.calibration:
            cut = int(len(self.calibration) * (1 - HELD_OUT))
            cut = self.calibration.rfind(" ", 0, cut) + 1 or cut
            self.calibration, self.measured = self.calibration[:cut], self.calibration[cut:]
            self.notes.append(f"measured on the last {HELD_OUT:.0%} of the calibration text, kept back for it")
        elif self.vocabulary:
            self.measured = self.vocabulary
            self.notes.append("measured on the text that chose the tokens; --measure takes another one")

    def _activations(self, tell: Tell) -> tuple[dict[str, Floats], Sequence[float]]:
        if not self.amounts.calibrated:
            return {}, ()
        if not self.calibration:
            raise PyllmError("a text is needed that shows what the model is for: --calibrate FILE")
        found = record(
            self.path,
            self.calibration,
            window=window_for(self.path, self.calibration),
            done=lambda count, of: tell(f"calibrating, window {count} of {of}"),
            threads=self.threads,
            pack=False,
        )
        return found.importance, found.influence

    @property
    def _ids(self) -> list[int] | None:
        return None if self.amounts.tokens is None else self.amounts.tokens.tolist()

    def _measure(self, text: str) -> Measure:
        return Measure(text, self.windows, {"threads": self.threads})

    def _search(
        self,
        draft: Draft,
        goal: Goal,
        write: Callable[[Path, Amounts, Mapping[str, Any]], Pruned],
        trail: list[dict[str, Any]],
        tell: Tell,
    ) -> Amounts:
        """Tries amounts beside the target, in a folder that goes away."""
        hidden = tempfile.TemporaryDirectory(".partial", f".{self.target.name}.", self.target.parent)
        searched = self._measure(self.calibration or self.measured)
        verified = self._measure(self.measured)
        with hidden as folder, opened(self.path, searched.engine) as reference:

            def fits(amounts: Amounts, measure: Measure) -> bool:
                candidate = Path(folder) / self.target.name
                done = write(candidate, amounts, {})
                with opened(candidate, measure.engine | {"pack": False}) as llm:
                    loss = goal.loss(loss_of(llm, reference, measure, self._ids, tell))
                trail.append(_removed(done) | {"held_out": measure is verified, "loss": loss})
                return loss <= goal.most

            return largest_that_fits(
                draft, self.amounts, lambda a: fits(a, searched), lambda a: fits(a, verified)
            )


class _Told:
    """A Progress that shows where everything else of a job is shown."""

    def __init__(self, tell: Tell) -> None:
        self.note = tell
        self._title, self._total = "", 1

    def start(self, title: str, total: int) -> None:
        self._title, self._total = title, max(1, total)

    def update(self, done: int) -> None:
        self.note(f"{self._title}, {done / self._total:.0%}")

    def close(self) -> None:
        pass


def _removed(done: Pruned) -> dict[str, Any]:
    before, after = done.before, done.after
    return {
        "layers": list(done.layers),
        "ffn": before.ffn - after.ffn,
        "kv_heads": before.kv_heads - after.kv_heads,
        "tokens": before.vocab - after.vocab,
        "sparsity": str(done.sparsity) if done.sparsity else None,
    }


def _describe(done: Pruned) -> dict[str, Any]:
    return {
        "removed": _removed(done),
        "before": _sizes(done.before, done.parameters_before, done.bytes_before),
        "after": _sizes(done.after, done.parameters_after, done.bytes_after) | {"zeros": done.zeros},
        "notes": list(done.notes),
    }


def _sizes(shape: Shape, parameters: int, size: int) -> dict[str, Any]:
    counts = {"layers": shape.layers, "ffn": shape.ffn, "heads": shape.heads, "kv_heads": shape.kv_heads}
    return {"parameters": parameters, "bytes": size, **counts, "vocabulary": shape.vocab}
