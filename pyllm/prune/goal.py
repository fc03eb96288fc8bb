"""How much a smaller model may lose."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pyllm.errors import PyllmError

Figure = Literal["perplexity", "kl", "top1"]


@dataclass(frozen=True)
class Goal:
    """The most of a figure. perplexity: its rise, a share. kl: mean divergence, nats. top1: share of other best
    tokens."""

    figure: Figure
    most: float

    @staticmethod
    def parse(text: str, figure: Figure) -> Goal:
        """From 5% or 0.05; of a KL divergence only numbers. PyllmError for anything else."""
        found = re.fullmatch(r"(\d{1,6}(?:\.\d{1,9})?)(%?)", text.strip())
        if found is None or (figure == "kl" and found[2]):
            raise PyllmError(
                f"{text!r}: expected {'nats such as 0.1' if figure == 'kl' else 'a share such as 5%'}"
            )
        return Goal(figure, float(found[1]) / (100 if found[2] else 1))

    def loss(self, report: Mapping[str, Any]) -> float:
        """The figure in a report of pyllm.perplexity with a reference."""
        if self.figure == "kl":
            return float(report["kl_mean"])
        if self.figure == "top1":
            return 1 - float(report["top1_agreement"])
        return float(report["perplexity"] / report["reference_perplexity"] - 1)

    def show(self, loss: float) -> str:
        return f"{loss:.4g} nats" if self.figure == "kl" else f"{loss:+.2%}"

    def __str__(self) -> str:
        names = {"perplexity": "perplexity", "kl": "KL divergence", "top1": "other best tokens"}
        return f"{names[self.figure]} {self.show(self.most)}"
