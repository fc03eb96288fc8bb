"""What becomes of every tensor of a file when it is quantized."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType

from pyllm import _core
from pyllm.errors import PyllmError
from pyllm.gguf_writer import Value
from pyllm.mixes import Facts, Mix, fitting, is_head, mixed_type, type_named
from pyllm.weights import Source, SourceTensor

NUMBERS = ("F32", "F16", "BF16")

# Small, and a little error in them does much harm: norms, what routes tokens to experts, convolutions.
_KEPT = re.compile(
    r"_norm\.weight$|ffn_gate_inp|ssm_conv1d|shortconv\.conv|time_mix|attn_rel_b|altup|laurel|per_layer_model_proj"
    r"|^position_embd\.|^token_types\."
)


@dataclass(frozen=True)
class Override:
    """A user's own choice: the type of the matrices whose names `pattern` is found in."""

    pattern: re.Pattern[str]
    type: str

    @staticmethod
    def parse(text: str) -> Override:
        """From PATTERN=TYPE. PyllmError for what is not of that form."""
        pattern, equals, kind = text.rpartition("=")
        if not equals or not pattern:
            raise PyllmError(f"{text!r}: expected PATTERN=TYPE, such as ffn_down=q6_k")
        try:
            return Override(re.compile(pattern), type_named(kind))
        except re.error as error:
            raise PyllmError(f"{text!r}: {pattern!r} is no regular expression: {error}") from error


@dataclass(frozen=True)
class Planned:
    """A tensor and what it becomes.

    shape: slowest-varying first. wanted: the type that its columns may have ruled out.
    """

    name: str
    shape: tuple[int, ...]
    source: str
    type: str
    wanted: str

    @property
    def columns(self) -> int:
        return self.shape[-1]

    @property
    def weights(self) -> int:
        return math.prod(self.shape)

    def bytes_as(self, kind: str) -> int:
        block, size = GGML_QUANT_SIZES[GGMLQuantizationType[kind]]
        return int(self.weights // block * size)


def make_plan(
    source: Source,
    metadata: Mapping[str, Value],
    mix: Mix,
    overrides: Sequence[Override] = (),
    pure: bool = False,
    calibrated: bool = False,
) -> list[Planned]:
    """Every tensor in the file's order. pure: `mix.base` for all matrices.

    PyllmError for an override that fits no matrix, or a matrix that does not fit its type.
    """
    facts = facts_of(source, metadata, calibrated)
    unused = set(overrides)
    plan = []
    for tensor in source.tensors:
        shape = tensor.shape
        kind = wanted = tensor.type
        if is_quantized(tensor):
            chosen = next((o for o in overrides if o.pattern.search(tensor.name)), None)
            unused -= {o for o in unused if o.pattern.search(tensor.name)}
            if chosen:
                kind = wanted = _checked(chosen.type, tensor.name, shape[-1])
            else:
                wanted = mix.base if pure else mixed_type(mix, tensor.name, facts)
                kind = fitting(wanted, shape[-1], not pure and is_head(tensor.name, facts)).name
        plan.append(Planned(tensor.name, shape, tensor.type, kind, wanted))
    if unused:
        pattern = next(o.pattern.pattern for o in overrides if o in unused)
        raise PyllmError(f"{pattern!r} is in no matrix's name; `pyllm show --tensors` lists what the file has")
    return plan


def is_quantized(tensor: SourceTensor) -> bool:
    """Whether its type is ours to choose: matrices of weights, but for small and delicate ones."""
    matrix = len(tensor.shape) >= 2 and tensor.shape[-2] > 1 and tensor.type in _core.quant_types()
    return matrix and tensor.name.endswith(".weight") and not _KEPT.search(tensor.name)


def facts_of(source: Source, metadata: Mapping[str, Value], calibrated: bool) -> Facts:
    """What mixes ask, from the metadata. PyllmError for a file that does not say."""
    named = metadata.get("general.architecture")
    architecture = named.value if named else None
    if not isinstance(architecture, str):
        raise PyllmError(f"{source.paths[0]}: general.architecture: expected a name, found {architecture!r}")

    def number(key: str, default: int | None = None) -> int:
        value: Any = metadata.get(f"{architecture}.{key}", Value(default, GGUFValueType.UINT32)).value
        values = [value] if isinstance(value, int) else list(value) if value is not None else []
        if not values or not 0 <= int(max(values)) < 1 << 24:
            raise PyllmError(
                f"{source.paths[0]}: {architecture}.{key}: expected a number, the file has {value!r}"
            )
        return int(max(values))

    heads = number("attention.head_count", 1)
    kv_heads = number("attention.head_count_kv", heads)
    names = {tensor.name for tensor in source.tensors}
    return Facts(
        layers=number("block_count"),
        group=heads // max(1, kv_heads),
        tied="output.weight" not in names,
        experts=number("expert_count", 0),
        calibrated=calibrated,
    )


def _checked(kind: str, name: str, columns: int) -> str:
    block = GGML_QUANT_SIZES[GGMLQuantizationType[kind]][0]
    if columns % block:
        raise PyllmError(f"{name}: {columns} columns are not a multiple of {kind}'s blocks of {block}")
    return kind
