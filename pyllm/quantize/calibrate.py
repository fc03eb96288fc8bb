"""Quantizing by a text: which columns matter while the model reads it, and what a file may lose on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyllm import _core
from pyllm.calibration import WINDOW, Activations, record
from pyllm.errors import PyllmError
from pyllm.llm import LLM
from pyllm.perplexity import windows_of
from pyllm.progress import default_progress
from pyllm.quantize.importance import write_importance
from pyllm.quantize.quantize import Quantized, check_target, quantize
from pyllm.quantize.search import MEASURED, MEASURED_ASIDE, Found, Goal, Search, split, thinned
from pyllm.weights import GgufSource

if TYPE_CHECKING:
    from pyllm.progress import Progress
    from pyllm.quantize.plan import Override
    from pyllm.quantize.quantize import Importance


@dataclass(frozen=True)
class Calibration:
    """A text by which a model is quantized. name: what errors and files call it."""

    model: Path
    text: str
    name: str
    threads: int = 0

    def windows(self) -> list[list[int]]:
        """The text's tokens in windows. PyllmError for a text too short for one, and for a folder."""
        if self.model.is_dir():
            raise PyllmError(f"{self.model}: calibrating runs a model in one file: `pyllm convert` it first")
        with LLM(self.model, context=_window(self.model), pack=False, device="cpu") as llm:
            try:
                return windows_of(llm, self.text, llm.context)
            except PyllmError as error:
                raise PyllmError(f"{self.name}: {error}") from error

    def activations(self, windows: Sequence[Sequence[int]]) -> Activations:
        """What flows through the model while it reads them."""
        show = default_progress(counts=True)
        show.start(f"reading {self.name}", len(windows))
        try:
            tell: Callable[[int, int], None] = lambda count, of: show.update(count)  # noqa: E731
            return record(self.model, windows, window=len(windows[0]), done=tell, threads=self.threads)
        finally:
            show.close()

    def importance(
        self, save: Path | None = None, windows: Sequence[Sequence[int]] | None = None
    ) -> Importance:
        """How much each column matters, by all of the text or `windows` of it. save: where to keep that."""
        if save is not None:
            check_target(save, [str(self.model)])
        found = self.activations(self.windows() if windows is None else windows)
        if save is not None:
            architecture = str(_core.GgufFile(self.model).get("general.architecture"))
            write_importance(save, found, architecture, self.name)
        return found.importance


def quantize_to_goal(
    calibration: Calibration,
    target: Path,
    goal: Goal,
    *,
    overrides: Sequence[Override] = (),
    importance: Importance | None = None,
    save: Path | None = None,
    repair: bool = False,
    progress: Progress | None = None,
) -> tuple[Quantized, Found]:
    """Writes the smallest file that meets a goal, or the best one of a size, and tells what it lost.

    A quarter of the text is kept aside and only measured in the end. importance: in place of the text's own.
    save: where to keep the text's. PyllmError where the goal cannot be met, and as quantize().
    """
    path = calibration.model
    windows = calibration.windows()
    source = GgufSource(path)
    check_target(target, source.paths)
    try:
        rest, aside = split(windows)
    except PyllmError as error:
        raise PyllmError(f"{calibration.name}: {error}") from error
    if importance is None:
        importance = calibration.importance(save, rest)
    show = progress or default_progress(counts=True)
    options: dict[str, Any] = {"threads": calibration.threads, "repair": repair}
    try:
        parts = thinned(rest, MEASURED), thinned(aside, MEASURED_ASIDE)
        search = Search(path, source, *parts, importance, show, overrides, **options)
        found = search.run(goal)
    finally:
        show.close()
    mix = search.nearest_mix(found.types)
    fixed = [*overrides, *found.overrides]
    more = found.metadata
    done = quantize(path, target, mix, overrides=fixed, importance=importance, more_metadata=more, **options)
    return done, found


def _window(path: Path) -> int:
    """Tokens of a window: WINDOW, or all that the model was made for."""
    file = _core.GgufFile(path)
    length = file.get(f"{file.get('general.architecture')}.context_length")
    return min(WINDOW, length) if isinstance(length, int) and length > 0 else WINDOW
