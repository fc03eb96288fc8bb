"""A report as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pyllm.pictures import save_picture


def plot(report: dict[str, Any], path: Path) -> None:
    """One bar per result, prompt and decode apart; whiskers from the slowest run to the fastest."""
    from matplotlib.figure import Figure

    groups = [[r for r in report["results"] if r["test"] == kind] for kind in ("prompt", "decode")]
    groups = [group for group in groups if group]
    heights = [1.2 + len(group) for group in groups]
    figure = Figure(figsize=(8, 1.2 + 0.45 * sum(heights)), layout="constrained")
    all_axes = figure.subplots(max(len(groups), 1), 1, squeeze=False, height_ratios=heights or None)[:, 0]
    for axes, group in zip(all_axes, groups, strict=False):
        rates = [result["tokens_per_second"] for result in group]
        medians = [rate["median"] for rate in rates]
        low = [rate["median"] - rate["min"] for rate in rates]
        high = [rate["max"] - rate["median"] for rate in rates]
        bars = axes.barh([_label(result) for result in group], medians, xerr=[low, high], capsize=3)
        axes.bar_label(bars, [f" {rate:.1f}, {_share(r)}" for rate, r in zip(medians, group, strict=True)])
        axes.invert_yaxis()
        axes.margins(x=0.35)
        axes.set_xlim(left=0)
        axes.set_title(f"{group[0]['test']}, tokens per second")
    figure.suptitle(f"{report['model']}, {report['device']}, {report['threads']} threads, {report['isa']}")
    save_picture(figure, path)


def _label(result: dict[str, Any]) -> str:
    depth = f"\nafter {result['context']}" if result["context"] else ""
    return f"{result['tokens']} x {result['batch']}{depth}"


def _share(result: dict[str, Any]) -> str:
    name, share = max(result["of_ceiling"].items(), key=lambda item: item[1])
    return f"{share:.0%} of {'memory read' if name == 'read' else name}"
