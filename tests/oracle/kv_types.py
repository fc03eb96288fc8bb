"""What a quantized KV cache costs: perplexity, and KL divergence from the answers with a float16 cache.

python tests/oracle/kv_types.py MODEL.gguf [MODEL.gguf ...] [--tokens 2000] [--llama-cpp]

The first tokens of text.txt are one sequence, so later ones read a long cache. `--llama-cpp` adds that engine.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from measure import kl_divergence, log_softmax

TEXT = Path(__file__).with_name("text.txt")
TYPES = ("f16", "q8_0", "q8_q4", "q6_q4", "q4_0")


def pyllm_logits(path: Path, kv_type: str, ids: list[int]) -> np.ndarray:
    from pyllm import LLM

    with LLM(path, context=len(ids) + 16, kv_type=kv_type) as llm:
        return llm.logits(ids)


def llama_cpp_logits(path: Path, kv_type: str, ids: list[int]) -> np.ndarray:
    from engines import LlamaCpp

    engine = LlamaCpp(path, context=len(ids) + 16, kv_type=kv_type)
    try:
        return engine.logits(ids)
    finally:
        engine.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--tokens", type=int, default=2000)
    parser.add_argument("--llama-cpp", action="store_true")
    args = parser.parse_args()
    from pyllm import _core
    from pyllm.tokenizer import Tokenizer

    for path in args.models:
        ids = Tokenizer.from_gguf(_core.GgufFile(path)).encode(TEXT.read_text())[: args.tokens]
        engines = {"pyllm": pyllm_logits} | ({"llama.cpp": llama_cpp_logits} if args.llama_cpp else {})
        for name, logits_of in engines.items():
            truth = None
            for kv_type in TYPES:
                if kv_type in ("q8_q4", "q6_q4") and name != "pyllm":
                    continue
                logits = logits_of(path, kv_type, ids)
                loss = -log_softmax(logits[:-1])[np.arange(len(ids) - 1), ids[1:]].mean()
                truth = logits if truth is None else truth
                kl = kl_divergence(truth, logits).mean()
                same = (truth.argmax(axis=1) == logits.argmax(axis=1)).mean()
                print(
                    f"{path.name}  {name:9}  {kv_type:4}  {len(ids)} tokens  perplexity {np.exp(loss):.4f}  "
                    f"KL {kl:.5f}  same best token {same:.4f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
