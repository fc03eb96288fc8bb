"""What flows through a model: against transformers' hooks, and by its own rules."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pyllm import LLM, _core
from pyllm.calibration import record
from pyllm.errors import PyllmError
from pyllm.shapes import write_model

GOLDEN = Path(__file__).resolve().parent / "golden"
SEEN = dict(np.load(GOLDEN / "activations.npz"))
TEXT = "It rained for three days, and on the fourth the river took the bridge. " * 3


@pytest.mark.parametrize("case", sorted({name.split("/")[0] for name in SEEN}))
@pytest.mark.parametrize("chunk", [512, 7])
def test_inputs_and_layers_are_what_transformers_sees(case: str, chunk: int) -> None:
    path = GOLDEN / "architectures" / f"{case}.gguf"
    tokens = np.load(path.with_suffix(".npz"))["tokens"].tolist()
    recorder = _core.Activations()
    with LLM(path, activations=recorder, max_batch_tokens=chunk) as llm, LLM(path) as plain:
        assert np.array_equal(llm.logits(tokens), plain.logits(tokens))
    expected = {key.split("/")[1]: value for key, value in SEEN.items() if key.split("/")[0] == case}
    influence = expected.pop("influence")
    inputs = recorder.inputs()
    assert set(inputs) == set(expected)
    for name, (squares, rows) in inputs.items():
        assert rows == len(tokens), name
        assert np.abs(squares - expected[name]).max() <= 2e-3 * expected[name].max(), name
    found = [1 - cosine / rows for cosine, rows in recorder.layers()]
    assert found == pytest.approx(influence, abs=1e-4)
    assert min(influence) > 1e-3  # they would not all pass as nothing


def test_windows_are_summed(tmp_path: Path) -> None:
    model = write_model(tmp_path / "m.gguf", std=0.3)
    heard: list[tuple[int, int]] = []
    whole = record(model, TEXT, window=16, done=lambda count, of: heard.append((count, of)))
    one = record(model, TEXT, window=16, windows=1)
    assert whole.tokens == 16 * len(heard)
    assert heard[-1][0] == heard[-1][1] == len(heard)
    assert one.tokens == 16
    name = "blk.0.ffn_down.weight"
    assert whole.counts[name] == whole.tokens
    assert whole.squares[name].sum() > one.squares[name].sum()
    assert whole.importance[name] == pytest.approx(whole.squares[name] / whole.tokens)
    with pytest.raises(PyllmError, match="expected at least a window of 512"):
        record(model, "short")
