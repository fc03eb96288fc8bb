"""Hidden channels of the feed-forward parts: those go that add least to what comes out.

Without channel j the output of ffn_down differs by x_j W[:, j], so on the calibration text by the norm of x_j
times the norm of W[:, j].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from numpy.typing import NDArray

from pyllm.errors import PyllmError
from pyllm.prune.draft import Draft, Floats

STEP = 32  # what all kernels work in


def column_loss(draft: Draft, name: str, importance: Mapping[str, Floats]) -> NDArray[np.float64]:
    """[column] mean squared change of a matrix' output, summed over its rows, when a column's input goes.

    importance: mean squared inputs of each matrix by its name, [column].
    """
    columns = draft.edit(name).tensor.shape[-1]
    inputs = importance.get(name)
    if inputs is None or len(inputs) != columns:
        found = "nothing" if inputs is None else f"{len(inputs)} columns"
        raise PyllmError(f"{name}: expected the activations of {columns} columns, found {found}")
    squares = np.zeros(columns)
    for weights in draft.weights(name):
        squares += np.square(weights, dtype=np.float64).sum(axis=0)
    return np.asarray(squares * inputs)


def kept_channels(draft: Draft, share: float) -> int:
    """How many channels are left when at least `share` of them go: a multiple of 32, or of larger blocks."""
    shape = draft.shape
    kind = draft.edit("blk.0.ffn_down.weight").tensor.type
    step = max(STEP, int(GGML_QUANT_SIZES[GGMLQuantizationType[kind]][0]))
    step = next((s for s in (step, STEP) if shape.ffn % s == 0), 1)
    kept = int(shape.ffn * (1 - share) + 1e-6) // step * step
    if not 0 < kept < shape.ffn:
        raise PyllmError(
            f"--ffn {100 * share:.4g}%: {kept} of {shape.ffn} channels would be left, in steps of {step}; some "
            "must go and some stay"
        )
    return kept


def narrow_ffn(draft: Draft, keep: int, importance: Mapping[str, Floats]) -> None:
    """Leaves `keep` channels in every layer, each layer's own best."""
    for layer in range(draft.shape.layers):
        down = f"blk.{layer}.ffn_down"
        loss = column_loss(draft, f"{down}.weight", importance)
        kept = np.sort(np.argsort(loss, kind="stable")[len(loss) - keep :])
        draft.keep_rows(f"blk.{layer}.ffn_gate", kept)
        draft.keep_rows(f"blk.{layer}.ffn_up", kept)
        draft.edit(f"{down}.weight").columns = kept
    draft.set("feed_forward_length", keep)
    draft.shape = replace(draft.shape, ffn=keep)
