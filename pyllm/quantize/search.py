"""The smallest file that loses no more than a goal, or the least loss within a size.

Which type each tensor gets is chosen by a model of the loss: KL divergences add up, and each is proportional to
the squared error of the tensor's product with its inputs. The factors are measured: one forward pass for each
group of tensors, with only that group quantized coarsely. The choice is then measured as a whole, and what the
model may allow is corrected until the goal is met as closely as its steps let it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType

from pyllm.errors import PyllmError
from pyllm.gguf_writer import Value
from pyllm.mixes import MIXES
from pyllm.progress import megabytes
from pyllm.quantize.choice import Option, choose
from pyllm.quantize.judge import Judge, Loss
from pyllm.quantize.plan import Override, Planned, is_quantized, make_plan
from pyllm.quantize.trial import Tensors

if TYPE_CHECKING:
    from pyllm.progress import Progress
    from pyllm.quantize.quantize import Importance
    from pyllm.weights import GgufSource

HELD_OUT = 4  # every so-manieth window of the text is kept aside
MEASURED = 24  # windows, at most
MEASURED_ASIDE = 8
GROUP_WINDOWS = 4  # their beginnings, for each group's factor
GROUP_WINDOW = 128  # tokens of each
BANDS = 6  # of layers: the first, the last, and the others in even parts
TRIES = 6
CHECKS = 3  # on held-out text, at most
HEADER_BYTES = 4096  # that the search adds to the metadata, at most

CANDIDATES = (
    *("Q8_0", "Q6_K", "Q5_1", "Q5_0", "Q5_K", "Q4_1", "Q4_0", "IQ4_NL", "Q4_K", "IQ4_XS"),
    *("IQ3_S", "Q3_K", "IQ3_XXS", "Q2_K", "IQ2_S", "IQ2_XS", "IQ2_XXS"),
)
_COARSE = ("Q3_K", "Q4_0")

Chosen: TypeAlias = "dict[str, Option]"


@dataclass(frozen=True)
class Goal:
    """most: the loss that is allowed of `of` ("perplexity": its relative change; "kl": nats; "top1": how often
    the best token may be another one). bytes: the file's size that is allowed. One of them is None."""

    of: str = "perplexity"
    most: float | None = None
    bytes: int | None = None

    def __str__(self) -> str:
        if self.bytes is not None:
            return f"at most {megabytes(self.bytes)}"
        assert self.most is not None
        amount = f"{self.most:g} nats" if self.of == "kl" else f"{100 * self.most:g} %"
        what = {"perplexity": "perplexity up by", "kl": "a KL divergence of", "top1": "another best token in"}
        return f"{what[self.of]} {amount} at most"

    def measured(self, loss: Loss) -> float:
        return float(getattr(loss, self.of))


@dataclass(frozen=True)
class Found:
    """types: of every tensor that was chosen. loss, held_out: on the text, and on what was kept aside. tokens:
    scored in each."""

    goal: Goal
    types: Mapping[str, str]
    loss: Loss
    held_out: Loss
    tokens: tuple[int, int]

    @property
    def overrides(self) -> list[Override]:
        return [Override(re.compile(f"^{re.escape(name)}$"), kind) for name, kind in self.types.items()]

    @property
    def metadata(self) -> dict[str, Value]:
        """What the file tells of it, under pyllm.quantize."""
        number, count, text = GGUFValueType.FLOAT32, GGUFValueType.UINT32, GGUFValueType.STRING
        found = {"goal": Value(str(self.goal), text)}
        for name, loss, tokens in zip(
            ("text", "held_out"), (self.loss, self.held_out), self.tokens, strict=True
        ):
            found |= {
                f"{name}.tokens": Value(tokens, count),
                f"{name}.perplexity_change": Value(loss.perplexity, number),
                f"{name}.perplexity_change_stderr": Value(loss.stderr, number),
                f"{name}.kl_mean": Value(loss.kl, number),
                f"{name}.top1_agreement": Value(1 - loss.top1, number),
            }
        return {f"pyllm.quantize.{key}": value for key, value in found.items()}

    @property
    def notes(self) -> list[str]:
        notes = [f"on the text: {self.loss}", f"on held-out text: {self.held_out}"]
        if self.goal.most is not None and self.goal.measured(self.held_out) > self.goal.most:
            notes.append(
                "on held-out text the loss is above the goal; a longer --calibrate text tells it better"
            )
        return notes


@dataclass
class Search:
    """path: the original, source: its tensors. windows, held_out: of tokens, to choose by and to check by.
    overrides: the user's own types, kept. progress: in counts, not bytes."""

    path: Path
    source: GgufSource
    windows: Sequence[Sequence[int]]
    held_out: Sequence[Sequence[int]]
    importance: Importance
    progress: Progress
    overrides: Sequence[Override] = ()
    threads: int = 0
    repair: bool = False
    plan: list[Planned] = field(init=False)
    free: list[Planned] = field(init=False)  # tensors whose types are ours to choose

    def __post_init__(self) -> None:
        metadata = self.source.metadata()
        self.plan = make_plan(self.source, metadata, MIXES["q8_0"], self.overrides, calibrated=True)
        chosen = {t.name for t in self.source.tensors if is_quantized(t)}
        self.free = [
            t
            for t in self.plan
            if t.name in chosen and not any(o.pattern.search(t.name) for o in self.overrides)
        ]
        self.tensors = Tensors(self.source, self.importance, self.threads, self.repair)
        self.fixed = {t.name: t.type for t in self.plan if t not in self.free}
        weights = sum(t.bytes_as(t.source) for t in self.plan)
        self.other_bytes = self.source.n_bytes - weights + HEADER_BYTES + 32 * len(self.plan)
        self.other_bytes += sum(t.bytes_as(self.fixed[t.name]) for t in self.plan if t.name in self.fixed)

    def run(self, goal: Goal) -> Found:
        """PyllmError where the goal cannot be met: it tells what can."""
        if not self.free:
            raise PyllmError(f"{self.path}: no matrix is left whose type could be chosen")
        if goal.bytes is not None:
            self._check_size(goal.bytes)
        judge = self._judge("reading the text with the original", self.windows)
        aside = self._judge("reading what was kept aside with the original", self.held_out)
        if goal.bytes is not None:
            chosen = choose(self.options, bytes=goal.bytes - self.other_bytes)
            loss = self._measure(judge, chosen, self.windows)
            held_out = self._measure(aside, chosen, self.held_out, "held-out text: ")
        else:
            chosen, loss, held_out = self._checked(goal, judge, aside)
        types = {name: option.type for name, option in chosen.items()}
        tokens = [sum(len(w) - 1 - len(w) // 2 for w in part) for part in (self.windows, self.held_out)]
        return Found(goal, types, loss, held_out, (tokens[0], tokens[1]))

    def _check_size(self, bytes: int) -> None:
        least = self.other_bytes + sum(min(t.bytes_as(k) for k in self._kinds(t)) for t in self.free)
        if least > bytes:
            raise PyllmError(
                f"--target-size {megabytes(bytes)}: the smallest types make {megabytes(least)}"
                + (" with the types given" if self.overrides else "")
            )

    def _kinds(self, planned: Planned) -> list[str]:
        """Types that a tensor may become: no larger than what it is."""
        fits = [k for k in CANDIDATES if _fits(planned, k)]
        smaller = [k for k in fits if planned.bytes_as(k) < planned.bytes_as(planned.source)]
        own = "F16" if planned.source == "F32" else planned.source
        return [own, *smaller]

    @cached_property
    def options(self) -> dict[str, list[Option]]:
        """Types, sizes and losses of every tensor."""
        errors: dict[str, dict[str, float]] = {}
        self.progress.start("errors of the types", len(self.free))
        for number, planned in enumerate(self.free, 1):
            kinds = self._kinds(planned)
            errors[planned.name] = {kinds[0]: 0.0} | self.tensors.errors(planned, kinds[1:])
            self.progress.update(number)
        factors = self._factors(errors)
        return {
            t.name: [Option(k, t.bytes_as(k), e * factors[t.name]) for k, e in errors[t.name].items()]
            for t in self.free
        }

    def _factors(self, errors: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
        """What a unit of error in each tensor adds to the KL divergence."""
        windows = [list(window[:GROUP_WINDOW]) for window in thinned(self.windows, GROUP_WINDOWS)]
        groups = _groups(self.free)
        fine = {t.name: _nearest(errors[t.name], t, 8.5) for t in self.free}
        coarse = {t.name: _coarse(errors[t.name], t) for t in self.free}
        heard = _Counter(self.progress, f"sensitivity of {len(groups)} groups of tensors")
        heard.start((len(groups) + 2) * len(windows))
        judge = Judge(self.path, windows, min(16, len(windows[0]) // 2), self.threads, heard)
        base = self.tensors.candidate(self.plan, self.fixed | fine)
        least = judge.loss(base, precise=True, heard=heard).kl
        factors = {}
        for members in groups:
            weights = dict(base)
            more = 0.0
            for t in members:
                weights[t.name] = coarse[t.name], self.tensors.as_type(t, coarse[t.name])
                more += errors[t.name][coarse[t.name]] - errors[t.name][fine[t.name]]
            added = judge.loss(weights, precise=True, heard=heard).kl - least
            for t in members:
                factors[t.name] = max(added, 1e-7) / more if more > 0 else 0.0
        return factors

    def _checked(self, goal: Goal, judge: Judge, aside: Judge) -> tuple[Chosen, Loss, Loss]:
        """The smallest choice, its loss, and that on held-out text. Where that is above the goal, the goal for
        the text is tightened by as much, some times."""
        assert goal.most is not None
        # What the model may allow at first: a text's own loss grows about as the divergence does.
        allowed = (3 * goal.most) ** 2 if goal.of == "top1" else goal.most
        stricter = goal
        for _ in range(CHECKS):
            chosen, loss, allowed = self._within(stricter, judge, allowed)
            held_out = self._measure(aside, chosen, self.held_out, "held-out text: ")
            over = goal.measured(held_out) / goal.most
            if over <= 1 or goal.measured(loss) <= 0:
                break
            stricter = Goal(goal.of, 0.97 * goal.measured(loss) / over)
            allowed /= over ** (2 if goal.of == "top1" else 1)
        return chosen, loss, held_out

    def _within(self, goal: Goal, judge: Judge, allowed: float) -> tuple[Chosen, Loss, float]:
        """The smallest choice that was measured to meet the goal, and what the model allowed for it: moved from
        `allowed` until the measured loss is right below the goal."""
        assert goal.most is not None
        power = 2 if goal.of == "top1" else 1  # how the modelled divergence grows with what is measured
        best: tuple[Chosen, Loss, float] | None = None
        good, bad = 0.0, math.inf  # allowed losses that were measured to be right, and too much
        seen: set[tuple[str, ...]] = set()
        for number in range(1, TRIES + 1):
            chosen = choose(self.options, loss=allowed)
            key = tuple(option.type for option in chosen.values())
            if key in seen:
                break
            seen.add(key)
            loss = self._measure(judge, chosen, self.windows, f"try {number}: ")
            share = goal.measured(loss) / goal.most
            if share <= 1:
                good, best = allowed, (chosen, loss, allowed)
            else:
                bad = allowed
            if 0.93 <= share <= 1 or bad < 1.03 * good:
                break
            allowed *= min(8.0, max(1 / 8, (0.97 / max(share, 1e-3)) ** power))
            if not good < allowed < bad:
                allowed = math.sqrt(good * bad) if good and bad < math.inf else 2 * good or bad / 2
        if best is None:
            largest = choose(self.options, loss=0.0)
            loss = self._measure(judge, largest, self.windows, "largest types: ")
            if goal.measured(loss) > goal.most:
                raise PyllmError(f"the goal, {goal}, cannot be met: with the largest types it is {loss}")
            best = largest, loss, 0.0
        return best

    def _judge(self, title: str, windows: Sequence[Sequence[int]]) -> Judge:
        heard = _Counter(self.progress, title)
        heard.start(len(windows))
        return Judge(self.path, windows, len(windows[0]) // 2, self.threads, heard)

    def _measure(
        self, judge: Judge, chosen: Mapping[str, Option], windows: Sequence[object], title: str = ""
    ) -> Loss:
        heard = _Counter(self.progress, f"{title}measuring")
        heard.start(len(windows))
        types = self.fixed | {name: option.type for name, option in chosen.items()}
        loss = judge.loss(self.tensors.candidate(self.plan, types), heard=heard)
        size = self.other_bytes + sum(option.bytes for option in chosen.values())
        if title:
            self.progress.note(f"{title}{megabytes(size)}: {loss}")
        return loss

    def nearest_mix(self, types: Mapping[str, str]) -> str:
        """The usual mix whose file is nearest in size: what the file calls itself."""
        metadata = self.source.metadata()
        size = sum(t.bytes_as(types.get(t.name, t.type)) for t in self.plan)

        def apart(name: str) -> int:
            plan = make_plan(self.source, metadata, MIXES[name], calibrated=True)
            return abs(sum(t.bytes_as(t.type) for t in plan) - size)

        return min((name for name in MIXES if name not in ("f32", "bf16", "mxfp4_moe")), key=apart)


class _Counter:
    """Counts windows on a progress bar."""

    def __init__(self, progress: Progress, title: str) -> None:
        self._progress, self._title, self._done = progress, title, 0

    def start(self, total: int) -> None:
        self._progress.start(self._title, total)

    def __call__(self) -> None:
        self._done += 1
        self._progress.update(self._done)


def split(windows: list[list[int]]) -> tuple[list[list[int]], list[list[int]]]:
    """Windows to calibrate and measure by, and those kept aside: every fourth. PyllmError for too few."""
    if len(windows) < HELD_OUT:
        raise PyllmError(
            f"the text has {len(windows)} windows of {len(windows[0])} tokens, expected at least {HELD_OUT}, "
            "of which one is kept aside: give a longer text"
        )
    aside = windows[HELD_OUT - 1 :: HELD_OUT]
    rest = [window for number, window in enumerate(windows) if number % HELD_OUT != HELD_OUT - 1]
    return rest, aside


def thinned(windows: Sequence[Sequence[int]], most: int) -> list[Sequence[int]]:
    """So many at most, evenly from the whole."""
    return [windows[i * len(windows) // most] for i in range(most)] if len(windows) > most else list(windows)


def _fits(planned: Planned, kind: str) -> bool:
    return bool(planned.columns % GGML_QUANT_SIZES[GGMLQuantizationType[kind]][0] == 0)


def _nearest(kinds: Mapping[str, float], planned: Planned, bits: float) -> str:
    return min(kinds, key=lambda kind: (abs(8 * planned.bytes_as(kind) / planned.weights - bits), kinds[kind]))


def _coarse(kinds: Mapping[str, float], planned: Planned) -> str:
    return next((kind for kind in _COARSE if kind in kinds), _nearest(kinds, planned, 3.5))


def _groups(tensors: Sequence[Planned]) -> list[list[Planned]]:
    """Tensors of one role in neighbouring layers; those outside of layers each alone."""
    places = [re.fullmatch(r"blk\.(\d+)\.(.+)", t.name) for t in tensors]
    last = max((int(place[1]) for place in places if place), default=0)
    groups: dict[tuple[str, int], list[Planned]] = {}
    for planned, place in zip(tensors, places, strict=True):
        key = (planned.name, 0) if place is None else (place[2], _band(int(place[1]), last))
        groups.setdefault(key, []).append(planned)
    return list(groups.values())


def _band(layer: int, last: int) -> int:
    if layer in (0, last):
        return 0 if layer == 0 else BANDS - 1
    return 1 + (layer - 1) * (BANDS - 2) // (last - 1)
