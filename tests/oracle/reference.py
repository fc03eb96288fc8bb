"""A float32 forward of a GGUF file that shares no code with either engine.

The `gguf` package reads and dequantizes the file; transformers computes it, with eager attention.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import gguf
import numpy as np
import torch
import transformers
from gguf.quants import dequantize

HF_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "post_attention_norm": "post_attention_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def undo_pairs(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of one head: from rotation pairs side by side (GGUF's llama) to first halves, second halves."""
    rows = weight.reshape(heads, -1, 2, weight.shape[-1])
    return rows.transpose(0, 2, 1, 3).reshape(weight.shape)


class Float32:
    """logits(tokens) of the dequantized weights in float32."""

    name = "float32"

    def __init__(self, path: Path | str) -> None:
        reader = gguf.GGUFReader(str(path))
        field: Callable[[str], object] = lambda key: (  # noqa: E731
            reader.fields[key].contents() if key in reader.fields else None
        )
        self.architecture = str(field("general.architecture"))
        build = {"llama": self._llama, "gemma3": self._gemma3}.get(self.architecture)
        if build is None:
            raise ValueError(f"no float32 reference for architecture {self.architecture!r}")
        of = lambda key: field(f"{self.architecture}.{key}")  # noqa: E731
        tensors = {t.name: dequantize(t.data, t.tensor_type) for t in reader.tensors}
        self._model = build(of, tensors).eval()

    def _common(self, of: Callable[[str], object], tensors: dict[str, np.ndarray]) -> dict[str, object]:
        return {
            "vocab_size": tensors["token_embd.weight"].shape[0],
            "hidden_size": of("embedding_length"),
            "intermediate_size": of("feed_forward_length"),
            "num_hidden_layers": of("block_count"),
            "num_attention_heads": of("attention.head_count"),
            "num_key_value_heads": of("attention.head_count_kv"),
            "rms_norm_eps": of("attention.layer_norm_rms_epsilon"),
            "max_position_embeddings": of("context_length"),
            "tie_word_embeddings": "output.weight" not in tensors,
            "attn_implementation": "eager",
            "pad_token_id": None,
        }

    def _llama(self, of: Callable[[str], object], tensors: dict[str, np.ndarray]) -> torch.nn.Module:
        if "rope_freqs.weight" in tensors or of("rope.scaling.type") not in (None, "none"):
            raise ValueError("the float32 reference knows no RoPE scaling for llama")
        config = transformers.LlamaConfig(
            **self._common(of, tensors),
            head_dim=of("rope.dimension_count"),
            rope_parameters={"rope_type": "default", "rope_theta": of("rope.freq_base") or 10000.0},
        )
        for name in tensors:
            if ".attn_q." in name:
                tensors[name] = undo_pairs(tensors[name], config.num_attention_heads)
            elif ".attn_k." in name:
                tensors[name] = undo_pairs(tensors[name], config.num_key_value_heads)
        model = transformers.LlamaForCausalLM(config)
        load(model, tensors, {"ffn_norm": "post_attention_layernorm"})
        return model

    def _gemma3(self, of: Callable[[str], object], tensors: dict[str, np.ndarray]) -> torch.nn.Module:
        if of("block_count") == 62 or of("rope.scaling.type") not in (None, "none"):
            raise ValueError("the float32 reference knows neither Gemma 3 27B nor scaled RoPE")
        config = transformers.Gemma3TextConfig(
            **self._common(of, tensors),
            head_dim=of("attention.key_length"),
            query_pre_attn_scalar=of("attention.key_length"),
            sliding_window=of("attention.sliding_window"),
            rope_parameters={
                "full_attention": {"rope_type": "default", "rope_theta": of("rope.freq_base")},
                "sliding_attention": {
                    "rope_type": "default",
                    "rope_theta": of("rope.freq_base_swa") or 10000.0,
                },
            },
        )
        for name in tensors:
            if name.endswith("norm.weight"):
                tensors[name] = tensors[name] - 1  # GGUF stores 1 + w
        model = transformers.Gemma3ForCausalLM(config)
        load(model, tensors, {"ffn_norm": "pre_feedforward_layernorm"})
        return model

    def logits(self, tokens: Sequence[int]) -> np.ndarray:
        """Logits after each of `tokens`: float32 [token, vocabulary]."""
        with torch.inference_mode():
            return self._model(torch.tensor([list(tokens)]), use_cache=False).logits[0].numpy()


def load(model: torch.nn.Module, tensors: dict[str, np.ndarray], names: dict[str, str]) -> None:
    """Fills `model` with GGUF tensors; every parameter must be met and every tensor used."""
    table = HF_NAMES | names
    state = {}
    for name, value in tensors.items():
        parts = name.split(".")
        if parts[0] == "blk":
            target = f"model.layers.{parts[1]}.{table[parts[2]]}.{parts[3]}"
        else:
            target = {
                "token_embd": "model.embed_tokens",
                "output_norm": "model.norm",
                "output": "lm_head",
            }[parts[0]] + f".{parts[1]}"
        state[target] = torch.from_numpy(np.array(value))
    missing, unexpected = model.load_state_dict(state, strict=False)
    tied = {"lm_head.weight"} if "lm_head.weight" not in state else set()
    if unexpected or set(missing) - tied:
        raise ValueError(f"weights do not fit: missing {missing}, unexpected {unexpected}")
    model.tie_weights()
