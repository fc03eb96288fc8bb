"""A Hugging Face folder under GGUF's names and in GGUF's layout."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf.constants import GGUFValueType
from numpy.typing import NDArray

from pyllm import _core
from pyllm.convert.config import Config
from pyllm.convert.safetensors import Entry, read_folder, read_json
from pyllm.convert.vocabulary import vocabulary_metadata
from pyllm.errors import PyllmError
from pyllm.gguf_writer import Value, typed
from pyllm.weights import SourceTensor

_NO_TEXT = re.compile(r"^(model\.)?(vision_tower|multi_modal_projector|vision_model)\.")
_NESTED = re.compile(r"^(language_model\.model|model\.language_model)\.")
_PARTS = (
    *("attn_norm", "attn_q", "attn_k", "attn_v", "attn_output"),
    *("ffn_norm", "ffn_gate", "ffn_up", "ffn_down"),
)
_COMPUTED = ("rotary_emb.inv_freq", "attn.masked_bias")
_ROPE_FACTORS = "rope_freqs.weight"


@dataclass(frozen=True)
class _Stored:
    """heads: how many heads' rows are to be interleaved; plus_one: a norm that is stored around 0."""

    entry: Entry
    heads: int = 0
    plus_one: bool = False


class FolderSource:
    """What pyllm.weights.Source asks for. PyllmError for what is missing, damaged or not supported."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = Config(read_json(folder / "config.json"))
        self.notes: list[str] = []
        self._stored = self._map(read_folder(folder))
        self._factors = self.config.rope_factors()
        self.tensors = [
            SourceTensor(name, s.entry.dtype if len(s.entry.shape) > 1 else "F32", s.entry.shape)
            for name, s in self._stored.items()
        ]
        if self._factors is not None:
            self.tensors.insert(0, SourceTensor(_ROPE_FACTORS, "F32", self._factors.shape))

    @property
    def paths(self) -> Sequence[str]:
        return sorted({str(s.entry.path) for s in self._stored.values()})

    @property
    def n_bytes(self) -> int:
        return sum(Path(path).stat().st_size for path in self.paths)

    def metadata(self) -> dict[str, Value]:
        architecture = self.config.architecture
        plain: dict[str, Any] = {
            "general.architecture": architecture,
            "general.name": self.folder.resolve().name,
        }
        plain |= {f"{architecture}.{key}": value for key, value in self.config.metadata().items()}
        plain |= vocabulary_metadata(self.folder, self._stored["token_embd.weight"].entry.shape[0])
        values = {key: typed(value) for key, value in plain.items()}
        scores = values.get("tokenizer.ggml.scores")
        if scores:
            values["tokenizer.ggml.scores"] = Value(scores.value, GGUFValueType.ARRAY, GGUFValueType.FLOAT32)
        return values

    def rows(self, name: str, first: int, count: int) -> NDArray[np.uint8]:
        if name == _ROPE_FACTORS and self._factors is not None:
            return self._factors.view(np.uint8).reshape(1, -1)
        stored = self._stored[name]
        entry = stored.entry
        if len(entry.shape) > 1:
            if not stored.heads:
                return entry.rows(first, count)
            order = interleaved(first, count, entry.shape[0] // stored.heads)
            low, high = int(order.min()), int(order.max()) + 1
            return entry.rows(low, high - low)[order - low]
        data = _core.dequantize(entry.dtype, entry.rows(0, 1), entry.shape[0])
        if stored.heads:
            data = data[interleaved(0, entry.shape[0], entry.shape[0] // stored.heads)]
        return (data + np.float32(1) if stored.plus_one else data).view(np.uint8).reshape(1, -1)

    def _map(self, entries: dict[str, Entry]) -> dict[str, _Stored]:
        """GGUF name -> where it is stored, in the order of the layers."""
        config = self.config
        arch = gguf.MODEL_ARCH[config.architecture.upper()]
        names = gguf.get_tensor_name_map(arch, config.layers)
        found: dict[str, _Stored] = {}
        skipped = 0
        for original, entry in entries.items():
            if _NO_TEXT.search(original):
                skipped += 1
                continue
            name = _NESTED.sub("model.", original).replace("language_model.lm_head", "lm_head")
            if name.endswith(_COMPUTED) or (config.tied and name == "lm_head.weight"):
                continue
            mapped = names.get_name(name, try_suffixes=(".weight", ".bias"))
            if mapped is None:
                raise PyllmError(
                    f"{entry.path}: {original} has no place in a {config.architecture} model of "
                    f"{config.layers} layers"
                )
            if mapped in found:
                raise PyllmError(f"{entry.path}: {original}: {mapped} is there already")
            found[mapped] = self._layout(mapped, entry)
        if skipped:
            self.notes.append(f"{skipped} tensors for images are left out: only the text model is converted")
        wanted = ["token_embd.weight", "output_norm.weight", *([] if config.tied else ["output.weight"])]
        wanted += [f"blk.{layer}.{part}.weight" for layer in range(config.layers) for part in _PARTS]
        if missing := [name for name in wanted if name not in found]:
            raise PyllmError(f"{self.folder}: {len(missing)} tensors are missing, {missing[0]} for one")
        return dict(sorted(found.items(), key=lambda item: _place(item[0])))

    def _layout(self, name: str, entry: Entry) -> _Stored:
        config = self.config
        if config.architecture == "gemma3":
            return _Stored(entry, plus_one=name.endswith("norm.weight"))
        part = name.rsplit(".", 2)[-2]
        if config.architecture != "llama" or part not in ("attn_q", "attn_k"):
            return _Stored(entry)
        heads = config.heads if part == "attn_q" else config.kv_heads
        if entry.shape[0] != heads * config.head_dim or config.head_dim % 2:
            raise PyllmError(
                f"{entry.path}: {entry.name}: expected {heads} heads of {config.head_dim} rows, found "
                f"{entry.shape[0]}"
            )
        return _Stored(entry, heads=heads)


def stored_type(folder: Path) -> str:
    """The type of most of a folder's weights, as mixes are called: f32, f16 or bf16."""
    counts: Counter[str] = Counter()
    for entry in read_folder(folder).values():
        counts[entry.dtype.lower()] += math.prod(entry.shape)
    if not counts:
        raise PyllmError(f"{folder}: there are no tensors")
    return counts.most_common(1)[0][0]


def interleaved(first: int, count: int, head_dim: int) -> NDArray[np.int64]:
    """Which stored row each of GGUF's rows is: there the pairs (i, i + half) of a head lie side by side."""
    row = np.arange(first, first + count)
    within = row % head_dim
    return row - within + within // 2 + within % 2 * (head_dim // 2)


def _place(name: str) -> tuple[int, int, str]:
    """As published files are ordered: what is of no layer, then layer by layer."""
    layer = re.match(r"blk\.(\d+)\.", name)
    return (1, int(layer[1]), name) if layer else (0, 0, name)
