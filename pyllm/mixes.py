"""Which type each tensor gets in a file of one type or of a mix such as q4_k_m.

The mixes give every tensor the type that llama.cpp's have, so that sizes and names mean what users know.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType, LlamaFileType

from pyllm import _core
from pyllm.errors import PyllmError


@dataclass(frozen=True)
class Facts:
    """What the rules of mixes ask of a model. group: query heads to a KV head. calibrated: an importance matrix
    is at hand."""

    layers: int
    group: int
    tied: bool
    experts: int = 0
    calibrated: bool = False


Rule = Callable[[Facts, int], "str | None"]  # of a layer: its tensor's type, None for the mix's own


def always(kind: str) -> Rule:
    return lambda facts, layer: kind


def first(part: int, kind: str) -> Rule:
    """In the first `part`th of the layers."""
    return lambda facts, layer: kind if layer < facts.layers // part else None


def below(count: int, kind: str, otherwise: str | None = None) -> Rule:
    return lambda facts, layer: kind if layer < count else otherwise


def some(kind: str) -> Rule:
    """In the first and the last eighth of the layers, and in every third between."""

    def rule(facts: Facts, layer: int) -> str | None:
        eighth = facts.layers // 8
        edge = layer < eighth or layer >= 7 * facts.layers // 8
        return kind if edge or (layer - eighth) % 3 == 2 else None

    return rule


def grouped(kind: str, otherwise: str | None = None) -> Rule:
    """Where at least four query heads share a KV head: the tensor is small then."""
    return lambda facts, layer: kind if facts.group >= 4 else otherwise


def uncalibrated(rule: Rule) -> Rule:
    return lambda facts, layer: None if facts.calibrated else rule(facts, layer)


def of_experts(eight: Rule, otherwise: Rule) -> Rule:
    """eight: where there are eight experts."""
    return lambda facts, layer: (eight if facts.experts == 8 else otherwise)(facts, layer)


def middle(kind: str) -> Rule:
    """In all but the first and the last eighth of the layers."""
    return lambda f, layer: kind if f.layers // 8 <= layer < 7 * f.layers // 8 else None


@dataclass(frozen=True)
class Mix:
    """base: of every matrix without a rule. rules: by the tensor's name within its layer.

    head: of the matrix that makes the logits. embedding: of the token embeddings where that is another one.
    """

    base: str
    file_type: LlamaFileType
    rules: Mapping[str, Rule]
    head: str = "Q6_K"
    embedding: str | None = None


def _plain(name: str, **more: str) -> Mix:
    return Mix(name, LlamaFileType[f"MOSTLY_{name}"], {}, **more)


_T = LlamaFileType
_LOW = {  # the 1 and 2 bit mixes: what matters most keeps more
    "attn_v": grouped("Q4_K", "Q2_K"),
    "ffn_down": first(8, "Q2_K"),
}
_LOW_S = {
    "attn_v": grouped("Q4_K", "IQ3_S"),
    "ffn_down": first(8, "IQ3_S"),
    "attn_output": always("IQ3_S"),
}
MIXES: Mapping[str, Mix] = {
    "f32": Mix("F32", _T.ALL_F32, {}, head="F32"),
    "f16": _plain("F16", head="F16"),
    "bf16": _plain("BF16", head="BF16"),
    "q8_0": _plain("Q8_0", head="Q8_0"),
    "q6_k": _plain("Q6_K"),
    "q5_k_m": Mix(
        "Q5_K", _T.MOSTLY_Q5_K_M, {"attn_v": some("Q6_K"), "ffn_down": some("Q6_K"), "attn_qkv": always("Q6_K")}
    ),
    "q5_k_s": Mix("Q5_K", _T.MOSTLY_Q5_K_S, {}),
    "q5_1": _plain("Q5_1"),
    "q5_0": _plain("Q5_0"),
    "q4_k_m": Mix(
        "Q4_K", _T.MOSTLY_Q4_K_M, {"attn_v": some("Q6_K"), "ffn_down": some("Q6_K"), "attn_qkv": always("Q5_K")}
    ),
    "q4_k_s": Mix("Q4_K", _T.MOSTLY_Q4_K_S, {"attn_v": below(4, "Q5_K"), "ffn_down": first(8, "Q5_K")}),
    "q4_1": _plain("Q4_1"),
    "q4_0": _plain("Q4_0"),
    "iq4_nl": Mix(
        "IQ4_NL", _T.MOSTLY_IQ4_NL, {"attn_v": grouped("Q5_K"), "ffn_down": uncalibrated(first(8, "Q5_K"))}
    ),
    "iq4_xs": Mix(
        "IQ4_XS", _T.MOSTLY_IQ4_XS, {"attn_v": grouped("Q5_K"), "ffn_down": uncalibrated(first(8, "Q5_K"))}
    ),
    "q3_k_l": Mix(
        "Q3_K",
        _T.MOSTLY_Q3_K_L,
        {
            "attn_v": always("Q5_K"),
            "ffn_down": always("Q5_K"),
            "attn_output": of_experts(always("Q3_K"), always("Q5_K")),
            "attn_qkv": always("Q4_K"),
        },
    ),
    "q3_k_m": Mix(
        "Q3_K",
        _T.MOSTLY_Q3_K_M,
        {
            "attn_v": below(2, "Q5_K", "Q4_K"),
            "ffn_down": lambda f, layer: "Q5_K" if layer < f.layers // 16 else "Q4_K",
            "attn_output": always("Q4_K"),
            "attn_qkv": always("Q4_K"),
        },
    ),
    "q3_k_s": Mix("Q3_K", _T.MOSTLY_Q3_K_S, {}),
    "iq3_m": Mix(
        "IQ3_S",
        _T.MOSTLY_IQ3_M,
        {
            "attn_v": always("Q4_K"),
            "ffn_down": of_experts(some("Q4_K"), first(8, "Q4_K")),
            "attn_output": always("Q4_K"),
            "attn_qkv": always("Q4_K"),
        },
    ),
    "iq3_s": Mix("IQ3_S", _T.MOSTLY_IQ3_S, {"attn_v": grouped("Q4_K")}),
    "iq3_xs": Mix(
        "IQ3_S",
        _T.MOSTLY_IQ3_XS,
        {
            "attn_v": grouped("Q4_K"),
            "attn_q": always("IQ3_XXS"),
            "attn_k": always("IQ3_XXS"),
            "ffn_gate": middle("IQ3_XXS"),
            "ffn_up": middle("IQ3_XXS"),
        },
    ),
    "iq3_xxs": Mix(
        "IQ3_XXS",
        _T.MOSTLY_IQ3_XXS,
        {
            "attn_v": lambda f, _: "Q4_K" if f.group >= 4 else None if f.calibrated else "IQ3_S",
            "attn_q": always("IQ2_S"),
            "attn_k": always("IQ2_S"),
            "attn_output": always("IQ3_S"),
            "ffn_down": uncalibrated(lambda f, layer: "Q4_K" if layer < f.layers // 8 else "Q3_K"),
        },
        head="Q5_K",
        embedding="IQ3_S",
    ),
    "q2_k": Mix(
        "Q2_K",
        _T.MOSTLY_Q2_K,
        {"attn_v": grouped("Q4_K", "Q3_K"), "ffn_down": always("Q3_K"), "attn_output": always("Q3_K")},
    ),
    "q2_k_s": Mix("Q2_K", _T.MOSTLY_Q2_K_S, {"attn_v": grouped("Q4_K"), "ffn_down": first(8, "Q4_K")}),
    "iq2_m": Mix("IQ2_S", _T.MOSTLY_IQ2_M, _LOW_S, head="Q5_K", embedding="IQ3_S"),
    "iq2_s": Mix("IQ2_XS", _T.MOSTLY_IQ2_S, _LOW_S, head="Q5_K", embedding="IQ3_S"),
    "iq2_xs": Mix("IQ2_XS", _T.MOSTLY_IQ2_XS, _LOW, head="Q5_K", embedding="Q2_K"),
    "iq2_xxs": Mix("IQ2_XXS", _T.MOSTLY_IQ2_XXS, _LOW, head="Q5_K", embedding="Q2_K"),
    "iq1_m": Mix(
        "IQ1_M", _T.MOSTLY_IQ1_M, _LOW | {"attn_output": always("IQ2_XXS")}, head="Q5_K", embedding="Q2_K"
    ),
    "iq1_s": Mix(
        "IQ1_S", _T.MOSTLY_IQ1_S, _LOW | {"attn_output": always("IQ2_XXS")}, head="Q5_K", embedding="Q2_K"
    ),
    "tq2_0": _plain("TQ2_0", embedding="Q4_K"),
    "tq1_0": _plain("TQ1_0", embedding="Q4_K"),
    "mxfp4": Mix("MXFP4", _T.MOSTLY_MXFP4_MOE, {}),
    "mxfp4_moe": Mix(
        "Q8_0",
        _T.MOSTLY_MXFP4_MOE,
        {f"ffn_{part}_exps": always("MXFP4") for part in ("gate", "up", "down", "gate_up")},
        head="Q8_0",
    ),
}
ALIASES = {"q3_k": "q3_k_m", "q4_k": "q4_k_m", "q5_k": "q5_k_m"}

# Where a row is no multiple of 256: the type of blocks of 32 that is nearest in size.
_NARROW = {
    "Q2_K": "Q4_0",
    "Q3_K": "Q4_0",
    "Q4_K": "Q5_0",
    "Q5_K": "Q5_1",
    "Q6_K": "Q8_0",
    "TQ1_0": "Q4_0",
    "TQ2_0": "Q4_0",
}


def mix_named(name: str) -> Mix:
    """PyllmError for an unknown name, listing the known ones."""
    wanted = name.lower()
    found = MIXES.get(ALIASES.get(wanted, wanted))
    if found is None:
        raise PyllmError(f"unknown type {name!r}: expected one of {', '.join(MIXES)}")
    return found


def type_named(name: str) -> str:
    """A single type that can be written, as GGUF spells it."""
    if (kind := name.upper()) in _core.written_types():
        return kind
    raise PyllmError(f"unknown type {name!r}: expected one of {', '.join(_core.written_types()).lower()}")


def mixed_type(mix: Mix, name: str, facts: Facts) -> str:
    """What `mix` makes of a matrix, its columns aside."""
    if is_head(name, facts):
        return mix.head
    if name == "token_embd.weight":
        return mix.embedding or mix.base
    within = re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", name)
    if within is None:
        return mix.base
    layer, full = int(within[1]), within[2]
    role = full.removesuffix("_exps").removesuffix("_shexp")
    if facts.experts == 8 and (changed := _eight_experts(mix, role)):
        return changed
    rule = mix.rules.get(full) or mix.rules.get(role)
    return (rule and rule(facts, layer)) or mix.base


# With eight experts, these keep the type of their other matrices in attn_output.
_EVEN = ("Q6_K", "Q5_K", "Q5_1", "Q5_0", "Q4_1", "Q4_0", "TQ1_0", "TQ2_0", "MXFP4")
_EVEN_FILES = (_T.MOSTLY_Q3_K_L, _T.MOSTLY_Q2_K_S)


def _eight_experts(mix: Mix, role: str) -> str | None:
    """Beside eight experts, attention is small."""
    if mix.base in ("F32", "F16", "BF16", "Q8_0"):
        return None
    low = mix.base.startswith(("IQ1", "IQ2"))
    if role in ("attn_v", "attn_k"):
        return "Q4_K" if low else "Q8_0"
    if role == "attn_output" and mix.base not in _EVEN and mix.file_type not in _EVEN_FILES:
        return "Q5_K"
    return None


def is_head(name: str, facts: Facts) -> bool:
    """Whether a matrix makes the logits."""
    return name == ("token_embd.weight" if facts.tied else "output.weight")


def fitting(kind: str, columns: int, head: bool = False) -> GGMLQuantizationType:
    """`kind`, or what takes its place where rows of `columns` are no multiple of its blocks."""
    narrow = "Q8_0" if head else _NARROW.get(kind, "IQ4_NL")
    for candidate in (kind, narrow, "F16"):
        if columns % GGML_QUANT_SIZES[GGMLQuantizationType[candidate]][0] == 0:
            return GGMLQuantizationType[candidate]
    raise AssertionError("every number of columns is a multiple of F16's one")
