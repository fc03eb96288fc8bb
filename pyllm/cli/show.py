from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pyllm.cli.options import json_flag, kv_type_option, model_argument
from pyllm.cli.output import fields, note, show_json, table
from pyllm.errors import PyllmError

if TYPE_CHECKING:
    from pyllm._core import GgufFile
    from pyllm.models import Manifest

# Bits of one key element and one value element, scales counted in.
KV_BITS = {"f16": (16, 16), "q8_0": (8.5, 8.5), "q8_q4": (8.5, 4.5), "q6_q4": (6.5, 4.5), "q4_0": (4.5, 4.5)}


@click.command()
@model_argument
@click.option("--tensors", is_flag=True, help="List the tensors too.")
@click.option("--sha256", is_flag=True, help="Compute the file's SHA-256.")
@kv_type_option
@json_flag
def show(model: str, tensors: bool, sha256: bool, kv_type: str, as_json: bool) -> None:
    """Describe MODEL without loading it.

    --json: {"name", "title", "path", "installed", "architecture", "parameters", "file_bytes",
    "bits_per_weight", "quantization": [{"type", "tensors", "bytes"}], "context", "vocabulary", "layers",
    "template", "kv_bytes_per_1k_tokens" (1,024 tokens in --kv-type), "licence", "licence_url", "sha256"}, with
    --tensors also "tensors": [{"name", "type", "shape" (fastest-varying first), "bytes"}].

    A known model that is not here yet is described from the catalogue; nothing is pulled.

    Example: pyllm show smollm2-135m
    """
    from pyllm.models import is_path, manifest_of, resolve

    manifest = manifest_of(model)
    if manifest is None and not is_path(model):
        raise PyllmError(f"{model} is not here yet: `pyllm pull {model}` fetches it")
    if manifest and not manifest.installed:
        note(f"{manifest.name} is not here yet: `pyllm pull {manifest.name}` fetches it")
        about = _from_catalogue(manifest)
    else:
        about = describe(resolve(model), manifest, tensors, sha256, kv_type)
    if as_json:
        show_json(about)
        return
    _print(about)


def describe(
    path: Path, manifest: Manifest | None, tensors: bool = False, sha256: bool = False, kv_type: str = "f16"
) -> dict[str, Any]:
    """What the file at `path` holds, in the shape that --json prints."""
    from pyllm._core import GgufFile
    from pyllm.models import Licence

    file = GgufFile(str(path))
    listed = file.tensors
    parameters = sum(math.prod(t.shape) for t in listed)
    tensor_bytes = sum(t.n_bytes for t in listed)
    counts, sizes = Counter(t.type for t in listed), Counter[str]()
    for tensor in listed:
        sizes[tensor.type] += tensor.n_bytes
    architecture = _text(file, "general.architecture")
    tokens = file.get("tokenizer.ggml.tokens")
    licence = manifest.licence if manifest else Licence()
    about: dict[str, Any] = {
        "name": manifest.name if manifest else None,
        "title": _text(file, "general.name"),
        "path": str(path),
        "installed": True,
        "architecture": architecture,
        "parameters": parameters,
        "file_bytes": file.file_bytes,
        "bits_per_weight": round(8 * tensor_bytes / parameters, 3) if parameters else None,
        "quantization": [{"type": t, "tensors": counts[t], "bytes": b} for t, b in sizes.most_common()],
        "context": _integer(file, f"{architecture}.context_length"),
        "vocabulary": len(tokens) if isinstance(tokens, list) else None,
        "layers": _integer(file, f"{architecture}.block_count"),
        "template": "tokenizer.chat_template" in file,
        "kv_bytes_per_1k_tokens": kv_bytes_per_token(file, architecture or "", 1024, kv_type),
        "licence": licence.name or _text(file, "general.license"),
        "licence_url": licence.url or _text(file, "general.license.link"),
        "sha256": _sha256(path, manifest, sha256),
    }
    if tensors:
        about["tensors"] = [
            {"name": t.name, "type": t.type, "shape": list(t.shape), "bytes": t.n_bytes} for t in listed
        ]
    return about


def kv_bytes_per_token(file: GgufFile, architecture: str, tokens: int = 1, kv_type: str = "f16") -> int | None:
    """Bytes that the keys and values of `tokens` tokens take, or None when the file does not say."""
    layers = _integer(file, f"{architecture}.block_count")
    width = _integer(file, f"{architecture}.embedding_length")
    heads = _integer(file, f"{architecture}.attention.head_count")
    if not layers or not width or not heads:
        return None
    key = _integer(file, f"{architecture}.attention.key_length") or width // heads
    value = _integer(file, f"{architecture}.attention.value_length") or width // heads
    kv_heads: Any = file.get(f"{architecture}.attention.head_count_kv", heads)
    try:
        total = (
            layers * kv_heads if isinstance(kv_heads, int) else sum(int(h) for h in kv_heads)
        )  # one per layer
    except (TypeError, ValueError):
        return None
    key_bits, value_bits = KV_BITS[kv_type]
    return int(total * (key * key_bits + value * value_bits) * tokens / 8)


def _from_catalogue(manifest: Manifest) -> dict[str, Any]:
    return {
        "name": manifest.name,
        "title": manifest.title,
        "path": None,
        "installed": False,
        "file_bytes": manifest.size or None,
        "licence": manifest.licence.name or None,
        "licence_url": manifest.licence.url or None,
        "sha256": manifest.sha256 or None,
    }


def _sha256(path: Path, manifest: Manifest | None, compute: bool) -> str | None:
    if compute:
        from pyllm.pull import file_sha256

        return file_sha256(path)
    return manifest.sha256 or None if manifest else None


def _text(file: GgufFile, key: str) -> str | None:
    value = file.get(key)
    return value if isinstance(value, str) else None


def _integer(file: GgufFile, key: str) -> int | None:
    value = file.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _print(about: dict[str, Any]) -> None:
    from pyllm.progress import megabytes

    labels = {
        "name": "name",
        "title": "title",
        "path": "file",
        "architecture": "architecture",
        "parameters": "parameters",
        "file_bytes": "size",
        "bits_per_weight": "bits per weight",
        "quantization": "quantization",
        "context": "context",
        "vocabulary": "vocabulary",
        "layers": "layers",
        "template": "chat template",
        "kv_bytes_per_1k_tokens": "KV per 1k tokens",
        "licence": "licence",
        "licence_url": "",
        "sha256": "SHA-256",
    }
    pairs: list[tuple[str, object]] = []
    for key, label in labels.items():
        value = about.get(key)
        if value is None:
            continue
        if key == "quantization":
            value = ", ".join(f"{q['type']} {megabytes(q['bytes'])} in {q['tensors']}" for q in value)
        elif key in ("file_bytes", "kv_bytes_per_1k_tokens"):
            value = megabytes(value)
        elif key == "template":
            value = "yes" if value else "no: a built-in one is used for chat"
        elif isinstance(value, int):
            value = f"{value:,}"
        pairs.append((label, value))
    fields(pairs)
    if "tensors" in about:
        print()
        table(
            ["TENSOR", "TYPE", "SHAPE", "BYTES"],
            [
                (t["name"], t["type"], " x ".join(map(str, t["shape"])), f"{t['bytes']:,}")
                for t in about["tensors"]
            ],
            right=["BYTES"],
        )
