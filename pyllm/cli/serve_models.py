"""The models of a `pyllm serve` command line, as the server loads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pyllm.cli.options import asker, engine_values, open_model, parse_bytes
from pyllm.cli.output import UsageError
from pyllm.errors import PyllmError

if TYPE_CHECKING:
    from pyllm.llm import LLM, Config
    from pyllm.server.served import Source

OWN_BYTES = 150 << 20  # of a model beside its file and its keys and values


class ModelNames(click.types.StringParamType):
    """MODEL, once or several times; in a variable separated by spaces."""

    name = "model"

    def split_envvar_value(self, rv: str) -> Sequence[str]:
        return [rv] if Path(rv).is_file() else rv.split()


def sources(models: Sequence[str], given: Mapping[str, Any]) -> list[Source]:
    """One for each of MODELS, or the default model. UsageError when names are not unique."""
    aliases = given["alias"]
    if len(aliases) > max(1, len(models)):
        raise UsageError(f"--alias: expected one for each model at most, got {len(aliases)} for {len(models)}")
    found: dict[str, Source] = {}
    for number, model in enumerate(models or [None]):
        source = _source(model, aliases[number] if number < len(aliases) else "", given)
        if source.id in found:
            raise UsageError(
                f"two models are called {source.id}; --alias, once for each, gives them other names"
            )
        found[source.id] = source
    return list(found.values())


def _source(model: str | None, alias: str, given: Mapping[str, Any]) -> Source:
    from pyllm.models import manifest_of, resolve
    from pyllm.server.served import Source

    path = resolve(model, ask=asker())
    manifest = manifest_of(model)
    config, size = _header(path, given["kv_type"])

    def load(kv_bytes: int) -> LLM:
        from pyllm.sampling import SamplingParams

        engine = engine_values(given)
        if kv_bytes:
            engine["kv_memory"] = str(kv_bytes)
        llm = open_model(path, **engine, max_sequences=given["max_sequences"])
        _ = llm.template  # compiled now
        llm.generate([[0]], SamplingParams(max_tokens=1))  # the first pass over the weights reads them in
        return llm

    return Source(
        alias or (manifest.name if manifest else path.stem),
        load,
        manifest.defaults if manifest else {},
        str(path),
        config,
        min(given["context"] or config.context_length, config.context_length) if config else 0,
        size + OWN_BYTES,
        parse_bytes(given["kv_memory"], "--kv-memory") if given["kv_memory"] else 0,
    )


def _header(path: Path, kv_type: str) -> tuple[Config | None, int]:
    """A model's sizes and the bytes of its file. PyllmError when it is damaged, or none that can be loaded."""
    from pyllm._core import GgufFile
    from pyllm.cli.show import kv_bytes_per_token
    from pyllm.llm import Config
    from pyllm.needs import Needs

    try:
        file = GgufFile(str(path))
        Needs.of(file, kv_type)
    except PyllmError as error:
        raise PyllmError(str(error) if str(path) in str(error) else f"{path}: {error}") from None
    architecture = file.get("general.architecture")
    sizes = [file.get(f"{architecture}.{key}") for key in ("context_length", "embedding_length", "block_count")]
    context, dim, layers = (size if isinstance(size, int) else 0 for size in sizes)
    vocab = next((t.shape[-1] for t in file.tensors if t.name == "token_embd.weight"), 0)
    kv = kv_bytes_per_token(file, str(architecture), kv_type=kv_type) or 0
    if not all((context, dim, layers, vocab, kv)):
        return None, file.file_bytes
    return Config(str(architecture), context, vocab, dim, layers, kv), file.file_bytes
