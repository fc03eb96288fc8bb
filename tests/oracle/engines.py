"""Two engines behind one face: `vocabulary`, `tokenize` and `logits`, for comparing them on the same tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np


class LlamaCpp:
    """llama.cpp through llama-cpp-python's low-level binding.

    `float_cache` stores keys and values as float32 without fused attention (for exact comparisons of float32
    models); otherwise llama.cpp's own defaults hold: a float16 cache, and fused attention where it chooses so.
    `yarn_betas` (fast, slow) must be given where a file has its own: llama.cpp reads them in few cases.
    """

    name = "llama.cpp"

    def __init__(
        self,
        path: Path | str,
        *,
        context: int = 2048,
        threads: int = 2,
        float_cache: bool = False,
        sequences: int = 1,
        fused_attention: bool | None = None,
        yarn_betas: tuple[float, float] | None = None,
        kv_type: str = "f16",
    ) -> None:
        import llama_cpp
        import llama_cpp_calls

        self._lib, self._calls = llama_cpp, llama_cpp_calls
        self._model = llama_cpp_calls.load(str(path))
        options = llama_cpp.llama_context_default_params()
        options.n_ctx = context
        options.n_batch = options.n_ubatch = 512
        options.n_seq_max = sequences
        options.n_threads = options.n_threads_batch = threads
        if sequences > 1:
            options.kv_unified = False
        if fused_attention is not None:
            options.flash_attn_type = int(fused_attention)
        if yarn_betas is not None:
            options.yarn_beta_fast, options.yarn_beta_slow = yarn_betas
        options.type_k = options.type_v = getattr(llama_cpp, f"GGML_TYPE_{kv_type.upper()}")
        if float_cache:
            options.type_k = options.type_v = llama_cpp.GGML_TYPE_F32
            options.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self._context = llama_cpp.llama_init_from_model(self._model, options)
        if not self._context:
            raise RuntimeError(f"llama.cpp cannot make a context for {path}")
        self._vocab = llama_cpp.llama_model_get_vocab(self._model)
        self.vocabulary: int = llama_cpp.llama_vocab_n_tokens(self._vocab)
        self._batch = llama_cpp.llama_batch_init(512, 0, 1)

    def tokenize(self, text: str, *, special: bool = True) -> list[int]:
        """Token ids of `text`, with the model's own begin token when `special`."""
        raw = text.encode()
        ids = (self._lib.llama_token * (len(raw) + 8))()
        count = self._lib.llama_tokenize(self._vocab, raw, len(raw), ids, len(ids), special, False)
        if count < 0:
            raise RuntimeError("llama.cpp needs more room for the tokens")
        return list(ids[:count])

    def clear(self) -> None:
        """Forgets every sequence."""
        self._lib.llama_memory_clear(self._lib.llama_get_memory(self._context), False)

    def decode(self, entries: Sequence[tuple[int, int, int, bool]]) -> None:
        """Computes (token, position, sequence, wants logits) entries, at most 512."""
        self._calls.decode(self._context, self._batch, entries)

    def rows(self, count: int) -> np.ndarray:
        """Logits of the last decode, a view: float32 [count, vocabulary]."""
        return self._calls.rows(self._context, count, self.vocabulary)

    def logits(self, tokens: Sequence[int]) -> np.ndarray:
        """Logits after each of `tokens`: float32 [token, vocabulary]."""
        self.clear()
        out = np.empty((len(tokens), self.vocabulary), np.float32)
        for first in range(0, len(tokens), 512):
            part = tokens[first : first + 512]
            self.decode([(token, first + i, 0, True) for i, token in enumerate(part)])
            out[first : first + len(part)] = self.rows(len(part))
        return out

    def greedy(self, tokens: Sequence[int], count: int) -> list[int]:
        """What greedy decoding appends: at most `count` tokens, without the one that ends it."""
        self.clear()
        self.decode([(token, i, 0, i + 1 == len(tokens)) for i, token in enumerate(tokens)])
        chosen: list[int] = []
        while True:
            best = int(self.rows(1)[0].argmax())
            if self._lib.llama_vocab_is_eog(self._vocab, best):
                return chosen
            chosen.append(best)
            if len(chosen) == count:
                return chosen
            self.decode([(best, len(tokens) + len(chosen) - 1, 0, True)])

    def close(self) -> None:
        """Frees the context and the model."""
        self._lib.llama_batch_free(self._batch)
        self._lib.llama_free(self._context)
        self._lib.llama_model_free(self._model)


class Pyllm:
    """This project's engine, without the Python layers above it."""

    name = "pyllm"
    precise = False

    def __init__(self, path: Path | str, *, context: int = 2048, threads: int = 2, isa: str = "") -> None:
        from pyllm import _core

        self._core = _core
        model = _core.Model(_core.GgufFile(path), threads=threads, isa=isa, precise=self.precise)
        self._engine = _core.Engine(model, context=context, prefix_cache=False)

    def _events(self, tokens: Sequence[int], want_logits: bool, **params: float) -> Iterator[Any]:
        """What the engine reports until the request has ended."""
        options = self._core.SamplingParams(**params)
        self._engine.submit(1, list(tokens), options, want_logits=want_logits)
        ended = False
        while not ended:
            for event in self._engine.step():
                if event.finish_reason == "error":
                    raise RuntimeError(event.detail)
                ended = bool(event.finish_reason)
                yield event

    def logits(self, tokens: Sequence[int]) -> np.ndarray:
        """Logits after each of `tokens`: float32 [token, vocabulary]."""
        events = list(self._events(tokens, want_logits=True))
        return np.concatenate([event.logits for event in events if event.logits is not None])

    def greedy(self, tokens: Sequence[int], count: int) -> list[int]:
        """What greedy decoding appends: at most `count` tokens, without the one that ends it."""
        events = self._events(tokens, want_logits=False, max_tokens=count, temperature=0.0)
        return [e.token for e in events if e.token is not None and e.finish_reason != "stop"]


class PyllmPrecise(Pyllm):
    """The same with precise=True."""

    name = "pyllm-precise"
    precise = True
