"""config.json as GGUF metadata, for the architectures that the engine runs.

Sources: transformers' configuration classes; the GGUF specification's keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyllm.errors import PyllmError

ARCHITECTURES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "llama",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "Gemma3ForCausalLM": "gemma3",
    "Gemma3ForConditionalGeneration": "gemma3",  # its text model
}
_GEMMA3_EVERY = 6  # this many layers, one is global, unless the file says otherwise
_GEMMA3_LOCAL_BASE = 10000.0


class Config:
    """What config.json says, checked where it is asked for."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        names = values.get("architectures")
        name = names[0] if isinstance(names, list) and names else None
        if name not in ARCHITECTURES:
            raise PyllmError(
                f"config.json: architectures: {name!r} is not supported; expected {', '.join(ARCHITECTURES)}"
            )
        self.architecture = ARCHITECTURES[name]
        inner = values.get("text_config")
        self._values: Mapping[str, Any] = inner if isinstance(inner, dict) else values
        self.tied = bool(self.get("tie_word_embeddings", self.architecture == "gemma3"))
        self.layers = self.count("num_hidden_layers")
        self.heads = self.count("num_attention_heads")
        self.kv_heads = self.count("num_key_value_heads", self.heads)
        self.dim = self.count("hidden_size")
        self.head_dim = self.count("head_dim", self.dim // self.heads)

    def get(self, key: str, default: Any = None) -> Any:
        value = self._values.get(key)
        return default if value is None else value

    def count(self, key: str, default: int | None = None) -> int:
        """A whole number from 1."""
        value = self.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value < 1 << 31:
            raise PyllmError(f"config.json: {key}: expected a number from 1, found {value!r}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        return _number(key, self.get(key, default))

    @property
    def rope(self) -> Mapping[str, Any]:
        """RoPE's parameters (of global layers): rope_type, rope_theta and what the type needs."""
        given = self.get("rope_parameters", {})
        if "full_attention" in given:
            return dict(given["full_attention"])
        scaling = dict(given or self.get("rope_scaling", {}))
        scaling.setdefault("rope_type", scaling.get("type", "default"))
        scaling.setdefault("rope_theta", self.get("rope_theta", 10000.0))
        return scaling

    @property
    def local_base(self) -> float:
        """RoPE's base in Gemma 3's local layers."""
        local = self.get("rope_parameters", {}).get("sliding_attention", {})
        default = self.get("rope_local_base_freq", _GEMMA3_LOCAL_BASE)
        return _number("rope_theta", local.get("rope_theta", default))

    def metadata(self) -> dict[str, Any]:
        """Keys without the architecture's prefix. PyllmError for what the engine would compute otherwise."""
        self._check()
        context = self.count("max_position_embeddings", 131072 if self.architecture == "gemma3" else None)
        keys: dict[str, Any] = {
            "block_count": self.layers,
            "embedding_length": self.dim,
            "feed_forward_length": self.count("intermediate_size"),
            "attention.head_count": self.heads,
            "attention.head_count_kv": self.kv_heads,
            "attention.key_length": self.head_dim,
            "attention.value_length": self.head_dim,
            "attention.layer_norm_rms_epsilon": self.number("rms_norm_eps", 1e-6),
            "rope.freq_base": _number("rope_theta", self.rope["rope_theta"]),
        }
        if self.architecture == "llama":
            keys |= {"vocab_size": self.count("vocab_size"), "rope.dimension_count": self.head_dim}
            window = self.get("sliding_window")
            context = min(context, window) if window else context  # where both ways of attention agree
        if self.architecture == "gemma3":
            keys |= self._gemma3()
        return keys | {"context_length": context} | self._rope_scaling()

    def rope_factors(self) -> NDArray[np.float32] | None:
        """Llama 3's: what each frequency is divided by, [head_dim / 2]."""
        if self.rope["rope_type"] != "llama3":
            return None
        p = self.rope
        names = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
        factor, low, high, original = (_number(name, p.get(name)) for name in names)
        frequency = _number("rope_theta", p["rope_theta"]) ** (-np.arange(0, self.head_dim, 2) / self.head_dim)
        keep = np.clip((original * frequency / (2 * np.pi) - low) / (high - low), 0, 1)
        factors: NDArray[np.float32] = (1 / ((1 - keep) / factor + keep)).astype(np.float32)
        return factors

    def _rope_scaling(self) -> dict[str, Any]:
        p = self.rope
        kind = p["rope_type"]
        if kind in ("default", "llama3"):
            return {}
        if kind not in ("linear", "yarn"):
            raise PyllmError(f"config.json: rope_type {kind!r}: expected default, linear, yarn or llama3")
        keys: dict[str, Any] = {
            "rope.scaling.type": kind,
            "rope.scaling.factor": _number("factor", p.get("factor")),
        }
        if kind == "yarn":
            if p.get("mscale") or p.get("mscale_all_dim") or p.get("truncate") is False:
                raise PyllmError("config.json: rope: this variant of yarn is not supported")
            original = p.get("original_max_position_embeddings") or self.count("max_position_embeddings")
            keys["rope.scaling.original_context_length"] = int(original)
            for name in ("beta_fast", "beta_slow"):
                if p.get(name):
                    keys[f"rope.scaling.yarn_{name}"] = _number(name, p[name])
            if p.get("attention_factor"):  # GGUF's is relative to the usual one
                usual = 1 + 0.1 * float(np.log(keys["rope.scaling.factor"]))
                keys["rope.scaling.attn_factor"] = _number("attention_factor", p["attention_factor"]) / usual
        return keys

    def _gemma3(self) -> dict[str, Any]:
        keys: dict[str, Any] = {"attention.sliding_window": self.count("sliding_window")}
        every = self.get("sliding_window_pattern", self.get("_sliding_window_pattern", _GEMMA3_EVERY))
        kinds = self.get("layer_types")
        local = (
            [kind == "sliding_attention" for kind in kinds]
            if kinds
            else [(i + 1) % every != 0 for i in range(self.layers)]
        )
        if local != [(i + 1) % _GEMMA3_EVERY != 0 for i in range(self.layers)]:
            keys["attention.sliding_window_pattern"] = local
        if self.local_base != _GEMMA3_LOCAL_BASE:
            keys["rope.freq_base_swa"] = self.local_base
        return keys

    def _check(self) -> None:
        """What the engine would compute in another way."""
        gemma = self.architecture == "gemma3"
        activation = "gelu_pytorch_tanh" if gemma else "silu"
        scale = self.dim // self.heads if self.layers == 62 else self.head_dim  # 62 layers are Gemma 3 27B
        renamed = gemma and self.get("hidden_activation")
        rules: list[tuple[str, object, bool]] = [
            (
                "hidden_activation" if renamed else "hidden_act",
                activation,
                True,
            ),
            ("query_pre_attn_scalar", scale, gemma),
            ("final_logit_softcapping", None, True),
            ("attn_logit_softcapping", None, True),
            ("use_bidirectional_attention", False, True),
            ("use_sliding_window", False, self.architecture.startswith("qwen")),
            ("partial_rotary_factor", 1.0, True),
            ("quantization_config", None, True),
        ]
        for key, expected, matters in rules:
            if matters and (found := self.get(key, expected)) != expected:
                raise PyllmError(
                    f"config.json: {key}: expected {expected}, found {str(found)[:60]!r}: not supported"
                )


def _number(key: str, value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 1e30:
        raise PyllmError(f"config.json: {key}: expected a positive number, found {value!r}")
    return float(value)
