"""How much a smaller model may lose."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pyllm.errors import PyllmError


@dataclass(frozen=True)
class Goal:
    """The most of a figure. perplexity: its rise, a share. kl: mean divergence, nats. top1: share of other best
    tokens."""

    figure: Literal["perplexity", "kl", "top1"]
    most: float

    @staticmethod
    def parse(text: str) -> Goal:
        """From 5%, kl:0.1 or top1:2%. PyllmError for anything else."""
        found = re.fullmatch(r"(?:(perplexity|kl|top1):)?(\d{1,6}(?:\.\d{1,9})?)(%?)", text.strip())
        figure: Any = (found and found[1]) or "perplexity"
        if found is None or (figure == "kl") == bool(found[3]):
            raise PyllmError(
                f"{text!r}: expected 5% (of perplexity), kl:0.1 (nats) or top1:2% (other best tokens)"
            )
        return Goal(figure, float(found[2]) / (100 if found[3] else 1))

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
