"""Arguments that several commands share. A group of options is a dataclass: a new option is one line here."""

from __future__ import annotations

import contextlib
import functools
import inspect
import re
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from pyllm.cli.output import UsageError
from pyllm.errors import PyllmError

if TYPE_CHECKING:
    from pyllm.llm import LLM
    from pyllm.models import Manifest
    from pyllm.pull import Ask
    from pyllm.sampling import SamplingParams

ModelArg = Annotated[str, typer.Argument(help="A name, a path to a .gguf, or hf:owner/repo/file.gguf.")]
OptionalModel = Annotated[
    str | None,
    typer.Argument(
        metavar="MODEL", help="A name, a path to a .gguf, hf:owner/repo/file.gguf; absent: smollm2-135m."
    ),
]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


def find_model(model: str | None) -> Path:
    """The file behind MODEL, pulled with a bar at first use; its terms are asked for on a terminal."""
    from pyllm.models import resolve

    return resolve(model, ask=asker())


def asker() -> Ask | None:
    """Asks the person at the terminal to accept a model's terms; None when there is nobody to ask."""
    return ask_terms if sys.stdin.isatty() and sys.stderr.isatty() else None


def ask_terms(manifest: Manifest) -> bool:
    """Shows the terms and reads y or n."""
    print(f"{manifest.name}: {manifest.licence.name}\n\n{manifest.licence.terms}", file=sys.stderr)
    return typer.confirm("Do you accept these terms?", default=False, err=True)


@dataclass(frozen=True)
class EngineOptions:
    """How a model is loaded."""

    context: Annotated[int, typer.Option(min=0, help="Longest context in tokens; 0: the model's own.")] = 0
    threads: Annotated[int, typer.Option(min=0, help="Threads; 0: one per core that may be used.")] = 0
    kv_memory: Annotated[
        str, typer.Option(help="Memory for the KV cache, such as 2GB; default: what fits.")
    ] = ""

    def open(self, path: Path) -> LLM:
        """The model in `path`, ready."""
        kv_bytes = parse_bytes(self.kv_memory) if self.kv_memory else 0
        from pyllm.llm import LLM

        return LLM(path, context=self.context, threads=self.threads, kv_bytes=kv_bytes)


@dataclass(frozen=True)
class SamplingOptions:
    """How tokens are chosen. What is not given comes from the model's manifest, then from SamplingParams."""

    max_tokens: Annotated[int | None, typer.Option(help="Longest answer in tokens.")] = None
    temperature: Annotated[float | None, typer.Option(help="0: always the most probable token.")] = None
    top_k: Annotated[int | None, typer.Option(help="Keep the k most probable tokens; 0: all.")] = None
    top_p: Annotated[float | None, typer.Option(help="Keep the tokens that make up this probability.")] = None
    min_p: Annotated[float | None, typer.Option(help="Drop tokens below this share of the best one's.")] = None
    typical_p: Annotated[float | None, typer.Option(help="Locally typical sampling; 1: off.")] = None
    top_n_sigma: Annotated[
        float | None, typer.Option(help="Keep logits within n sigma of the best; 0: off.")
    ] = None
    repetition_penalty: Annotated[float | None, typer.Option(help="Above 1: repeat less.")] = None
    presence_penalty: Annotated[float | None, typer.Option(help="Subtracted from tokens already there.")] = None
    frequency_penalty: Annotated[float | None, typer.Option(help="The same, per occurrence.")] = None
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same tokens.")] = None
    stop: Annotated[list[str] | None, typer.Option(help="End before this text; may be repeated.")] = None
    ignore_eos: Annotated[bool, typer.Option("--ignore-eos", help="Never end by itself.")] = False

    def params(self, model: str | None, **defaults: Any) -> SamplingParams:
        """The options over the model's own defaults over `defaults`. UsageError for impossible values."""
        from pyllm.models import manifest_of
        from pyllm.sampling import SamplingParams

        manifest = manifest_of(model)
        recommended = dict(manifest.defaults) if manifest else {}
        given = {
            name: value
            for name, value in asdict(self).items()
            if not (value is None or value is False or value == [])
        }
        whole = {f.name for f in fields(SamplingParams) if "int" in str(f.type)}  # TOML's 64 came as 64.0
        recommended = {k: int(v) if k in whole else v for k, v in recommended.items()}
        try:
            return SamplingParams(**{**defaults, **recommended, **given})
        except PyllmError as error:
            raise UsageError(str(error)) from error


def parse_bytes(text: str) -> int:
    """'2GB', '512 MiB', '1e9' -> bytes. UsageError for anything else."""
    match = re.fullmatch(r"\s*([0-9.]+(?:e[0-9]+)?)\s*([kmgt]?)(i?)b?\s*", text, re.IGNORECASE)
    count = 0
    if match:
        power = " kmgt".index(match[2].lower() or " ")
        with contextlib.suppress(ValueError, OverflowError):  # 1.2.3, 1e999
            count = int(float(match[1]) * (1024 if match[3] else 1000) ** power)
    if count <= 0:
        raise UsageError(f"{text!r}: expected an amount of memory such as 2GB or 512MiB")
    return count


def with_options(command: Callable[..., None]) -> Callable[..., None]:
    """Makes a command's dataclass parameters into one option per field."""
    groups: dict[str, Any] = {}
    plain, options = [], []
    for name, parameter in inspect.signature(command, eval_str=True).parameters.items():
        group = parameter.annotation
        if not is_dataclass(group):
            plain.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
            continue
        types = get_type_hints(group, include_extras=True)
        groups[name] = group
        options += [
            inspect.Parameter(
                f.name, inspect.Parameter.KEYWORD_ONLY, default=f.default, annotation=types[f.name]
            )
            for f in fields(group)
        ]

    @functools.wraps(command)
    def expanded(**values: Any) -> None:
        built = {
            name: group(**{f.name: values.pop(f.name) for f in fields(group)}) for name, group in groups.items()
        }
        command(**values, **built)

    signature = inspect.Signature([*plain, *options])
    expanded.__signature__ = signature  # type: ignore[attr-defined]
    expanded.__annotations__ = {p.name: p.annotation for p in signature.parameters.values()}
    return expanded
