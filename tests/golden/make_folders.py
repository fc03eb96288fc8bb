"""Writes the folders of tests/test_convert.py: tiny random models as transformers saves them, and their logits.

python tests/golden/make_folders.py     # all, into tests/golden/folders

Each folder has config.json, safetensors in bfloat16 (llama's in shards), tokenizer.json, tokenizer_config.json,
and expected.npz: `tokens` int32 [token]; `logits` float32 [token, vocab] of transformers with the same weights.
Needs torch, transformers >= 5 and tokenizers.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import tokenizers
import torch
import transformers
from make_architectures import GEMMA3, LLAMA, QWEN2, QWEN3, randomize, rope, sizes
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors, trainers

OUT = Path(__file__).resolve().parent / "folders"
TEXT = Path(__file__).resolve().parent.parent / "oracle" / "text.txt"
VOCAB = 300
LLAMA3_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
CASES = {
    "llama": (
        LLAMA,
        sizes(
            32,
            2,
            1,
            48,
            head_dim=16,
            max_position_embeddings=256,
            rope_parameters=rope(
                "llama3",
                500.0,
                factor=8.0,
                low_freq_factor=1.0,
                high_freq_factor=4.0,
                original_max_position_embeddings=32,
            ),
        ),
    ),
    "qwen2": (
        QWEN2,
        sizes(32, 4, 2, 48, tie_word_embeddings=True, rope_parameters=rope("default", 1e6)),
    ),
    "qwen3": (
        QWEN3,
        sizes(
            32,
            2,
            1,
            48,
            head_dim=32,
            rope_parameters=rope(
                "yarn", 1000.0, factor=8.0, original_max_position_embeddings=256, beta_fast=16.0, beta_slow=2.0
            ),
        ),
    ),
    "gemma3": (
        GEMMA3,
        sizes(
            24,
            2,
            1,
            32,
            layers=4,
            head_dim=12,
            query_pre_attn_scalar=12,
            sliding_window=9,
            layer_types=["sliding_attention", "full_attention", "sliding_attention", "sliding_attention"],
            rope_parameters={
                "full_attention": rope("linear", 50000.0, factor=8.0),
                "sliding_attention": rope("default", 5000.0),
            },
        ),
    ),
}


def byte_level(words: str, digits: bool) -> tokenizers.Tokenizer:
    """GPT-2's kind with a begin and an end token."""
    made = tokenizers.Tokenizer(models.BPE(ignore_merges=digits))
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(words), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB - 8, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    made.train([str(TEXT)], trainer)
    return made


def pieces() -> tokenizers.Tokenizer:
    """SentencePiece's kind: spaces as U+2581, bytes for what has no token."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>"]
    bytes_ = [f"<0x{i:02X}>" for i in range(256)]
    trained = tokenizers.Tokenizer(models.BPE())
    trained.normalizer = normalizers.Replace(" ", "\u2581")
    trained.train([str(TEXT)], trainers.BpeTrainer(vocab_size=120, limit_alphabet=60, show_progress=False))
    import json

    about = json.loads(trained.to_str())["model"]
    words = special + bytes_ + sorted(about["vocab"], key=about["vocab"].get)
    vocab = {text: i for i, text in enumerate(words)}
    merges = [tuple(merge) for merge in about["merges"]]
    made = tokenizers.Tokenizer(
        models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True, ignore_merges=False)
    )
    made.normalizer = normalizers.Replace(" ", "\u2581")
    made.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    made.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in special])
    return made


def tokenizer_of(name: str) -> tokenizers.Tokenizer:
    if name == "gemma3":
        made, bos, eos = pieces(), "<bos>", "<eos>"
    else:
        qwen = name.startswith("qwen")
        made = byte_level(LLAMA3_WORDS.replace("{1,3}", "") if qwen else LLAMA3_WORDS, not qwen)
        bos, eos = "<|begin|>", "<|end|>"
        made.add_special_tokens([AddedToken(text, special=True) for text in (bos, eos)])
        made.add_tokens([AddedToken("<tool>", special=False)])
    if not name.startswith("qwen"):
        made.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, made.token_to_id(bos))]
        )
    return made


def main() -> None:
    for name, (build, options) in CASES.items():
        folder = OUT / name
        shutil.rmtree(folder, ignore_errors=True)
        tokenizer = tokenizer_of(name)
        vocab = tokenizer.get_vocab_size() + 3  # rows that no token uses
        config = build(vocab_size=vocab, attn_implementation="eager", **options)
        model = transformers.AutoModelForCausalLM.from_config(config).eval()
        randomize(model, name == "gemma3", seed=1)
        model = model.to(torch.bfloat16)
        model.save_pretrained(folder, max_shard_size="30KB" if name == "llama" else "50GB")
        wrapped = transformers.PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            bos_token="<bos>" if name == "gemma3" else "<|begin|>",
            eos_token="<eos>" if name == "gemma3" else "<|end|>",
            chat_template="{% for m in messages %}{{ m['content'] }}{% endfor %}",
        )
        wrapped.save_pretrained(folder)
        tokens = np.random.default_rng(2).integers(0, vocab - 3, 40).astype(np.int32)
        with torch.no_grad():
            read = transformers.AutoModelForCausalLM.from_pretrained(
                folder, dtype=torch.float32, attn_implementation="eager"
            )
            logits = read.eval()(torch.tensor(tokens)[None].long()).logits[0].numpy()
        np.savez_compressed(folder / "expected.npz", tokens=tokens, logits=logits)
        print(
            name,
            sum(path.stat().st_size for path in folder.iterdir()),
            sorted(p.name for p in folder.iterdir()),
        )


if __name__ == "__main__":
    main()
