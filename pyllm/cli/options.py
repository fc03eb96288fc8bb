"""Arguments and options that several commands share, and what they mean."""

from __future__ import annotations

import functools
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pyllm.cli.output import UsageError
from pyllm.errors import PyllmError
from pyllm.sampling import SamplingParams

if TYPE_CHECKING:
    from pyllm.constraint import Constraint
    from pyllm.llm import LLM
    from pyllm.models import Manifest
    from pyllm.pull import Ask

F = TypeVar("F", bound=Callable[..., Any])

COUNT = click.IntRange(min=0)
# Parameters of LLM that have an option of the same name.
PARAMETERS = ("context", "device", "gpu_layers", "kv_type", "threads")

model_argument = click.argument("model")
optional_model = click.argument("model", required=False)
kv_type_option = click.option(
    "--kv-type",
    type=click.Choice(("f16", "q8_0", "q8_q4", "q6_q4", "q4_0")),
    default="f16",
    help="Of the KV cache: q8_0 takes half the memory, q8_q4 40 %, q6_q4 a third, q4_0 a quarter at a loss.",
)
json_flag = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")

DEVICE = [
    click.option("--device", default="auto", help="auto, cpu, cuda or cuda:N; auto: a GPU where there is one."),
    click.option("--gpu-layers", type=COUNT, help="How many layers go to the GPU; absent: as many as fit."),
]

ENGINE = [
    click.option(
        "--context", type=COUNT, default=0, help="Longest context in tokens; absent: the model's own."
    ),
    click.option(
        "--threads", type=COUNT, default=0, help="CPU threads; absent: one per core that may be used."
    ),
    click.option("--kv-memory", default="", help="Memory for the KV cache, such as 2GB; absent: what fits."),
    kv_type_option,
    click.option("--no-pack", is_flag=True, help="Keep weights in the file's layout: less memory, slower."),
    *DEVICE,
    click.option("--precise", is_flag=True, help="Activations in 15 bits, not 8: nearer to float32, slower."),
]


def _else(name: str) -> str:
    """What holds where neither the command line nor the model's manifest says."""
    return f"  [the model's own, else {getattr(SamplingParams, name):g}]"


# The fields of SamplingParams. What is not given comes from the model's manifest, then from its own defaults.
SAMPLING = [
    click.option(
        "--max-tokens",
        type=int,
        help=f"Longest answer in tokens; absent: {SamplingParams.max_tokens}, in pyllm chat what the context "
        "holds.",
    ),
    click.option("--temperature", type=float, help="0: always the most probable token." + _else("temperature")),
    click.option("--top-k", type=int, help="Keep the k most probable tokens; 0: all." + _else("top_k")),
    click.option("--top-p", type=float, help="Keep the tokens that make up this probability." + _else("top_p")),
    click.option(
        "--min-p", type=float, help="Drop tokens below this share of the best one's." + _else("min_p")
    ),
    click.option("--typical-p", type=float, help="Locally typical sampling; 1: off."),
    click.option("--top-n-sigma", type=float, help="Keep logits within n sigma of the best; 0: off."),
    click.option("--repetition-penalty", type=float, help="Above 1: repeat less."),
    click.option("--presence-penalty", type=float, help="Subtracted from tokens already there."),
    click.option("--frequency-penalty", type=float, help="The same, per occurrence."),
    click.option("--seed", type=int, help="The same seed gives the same tokens; absent: another each time."),
    click.option("--stop", multiple=True, help="End before this text; may be repeated."),
    click.option("--ignore-eos", is_flag=True, default=None, help="Never end by itself."),
]

CONSTRAINT = [
    click.option(
        "--json-schema",
        help="The answer is JSON valid by this schema: a file, or the text itself. As JSON Schema has it, "
        'other keys may come too, even repeatedly, unless it says "additionalProperties": false.',
    ),
    click.option("--regex", help="The answer matches this regular expression as a whole."),
    click.option("--grammar", help="The answer is of the grammar (GBNF or Lark) in this file."),
]


def device_options(command: F) -> F:
    """Adds DEVICE."""
    for option in reversed(DEVICE):
        command = option(command)
    return command


def engine_options(command: F) -> F:
    """Adds ENGINE."""
    for option in reversed(ENGINE):
        command = option(command)
    return command


def engine_values(given: Mapping[str, Any]) -> dict[str, Any]:
    """Of a command's values those of ENGINE, for open_model."""
    names = inspect.signature(open_model).parameters
    return {name: given[name] for name in names if name in given and name != "path"}


def constraint_options(command: F) -> F:
    """Adds CONSTRAINT."""
    for option in reversed(CONSTRAINT):
        command = option(command)
    return command


def constraint(json_schema: str | None, regex: str | None, grammar: str | None) -> Constraint | None:
    """The values of CONSTRAINT. UsageError for more than one, and for what is none."""
    given = {"--json-schema": json_schema, "--regex": regex, "--grammar": grammar}
    names = [name for name, value in given.items() if value is not None]
    if len(names) > 1:
        raise UsageError(f"{' and '.join(names)}: expected only one of them")
    if json_schema is not None and not json_schema.lstrip().startswith("{"):
        json_schema = read_file("--json-schema", json_schema)
    if grammar is not None:
        grammar = read_file("--grammar", grammar)
    from pyllm.constraint import Constraint

    try:
        if json_schema is not None:
            found = Constraint.json(json_schema)
        elif regex is not None:
            found = Constraint.regex(regex)
        elif grammar is not None:
            found = Constraint.grammar(grammar)
        else:
            return None
        from pyllm.grammar import check

        check(found)
        return found
    except PyllmError as error:
        raise UsageError(f"{names[0]}: {str(error).removeprefix('constraint: ')}") from error


def read_file(option: str, path: str | Path) -> str:
    """The text of the file that an option names. UsageError when there is none."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{option} {path}: {error.strerror}") from error
    except (UnicodeDecodeError, ValueError) as error:
        raise UsageError(f"{option} {path}: expected a text file in UTF-8") from error


def sampling_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds SAMPLING; the command gets their values as one mapping, `sampling`."""
    signature = inspect.signature(SamplingParams)

    @functools.wraps(command)
    def collected(**given: Any) -> Any:
        sampling = {name: given.pop(name) for name in signature.parameters if name in given}
        return command(sampling=sampling, **given)

    for option in reversed(SAMPLING):
        collected = option(collected)
    return collected


def open_model(
    path: Path,
    context: int,
    threads: int,
    kv_memory: str,
    kv_type: str,
    no_pack: bool,
    precise: bool,
    device: str,
    gpu_layers: int | None,
    **more: Any,
) -> LLM:
    """The model in `path`, ready, with the values of ENGINE; `more`: of LLM's own."""
    kv_bytes = parse_bytes(kv_memory, "--kv-memory") if kv_memory else 0
    from pyllm.llm import LLM

    options: dict[str, Any] = {"context": context, "threads": threads, "kv_bytes": kv_bytes, "precise": precise}
    options |= {"device": device, "gpu_layers": gpu_layers}
    with options_named():
        return LLM(path, kv_type=kv_type, pack=not no_pack, **options, **more)


@contextmanager
def options_named(names: Sequence[str] = PARAMETERS) -> Iterator[None]:
    """Errors about a parameter of LLM name its option instead; an impossible value is a UsageError."""
    try:
        yield
    except PyllmError as error:
        told = by_options(str(error), names)
        usage = told != str(error) and ": expected" in told
        raise (UsageError if usage else type(error))(told) from error


def by_options(text: str, names: Sequence[str] = PARAMETERS) -> str:
    """A message about a parameter of LLM as one about its option: kv_bytes: ... -> --kv-memory: ..."""
    if text.startswith("kv_bytes: "):
        return "--kv-memory: " + re.sub(r"\b(\d+)\b(?! tokens)( bytes)?", _amount, text[10:])
    return re.sub(f"^({'|'.join(names)})(?=[: ])", _option_name, text)


def _amount(found: re.Match[str]) -> str:
    """Bytes as people write them; what is the least is rounded up, so that it will do when it is typed."""
    from pyllm.progress import megabytes

    count = int(found[1])
    if "at least" in found.string:
        digits = 10 ** max(0, len(found[1]) - 3)
        count = -(-count // digits) * digits
    return megabytes(count)


def _option_name(parameter: re.Match[str]) -> str:
    return "--" + parameter[0].replace("_", "-")


def sampling_params(model: str | None, given: Mapping[str, Any], **defaults: Any) -> SamplingParams:
    """The values of SAMPLING over the model's own defaults over `defaults`. UsageError for impossible ones."""
    from pyllm.models import manifest_of

    manifest = manifest_of(model)
    recommended = manifest.defaults if manifest else {}
    chosen = {name: value for name, value in given.items() if value is not None and value != ()}
    try:
        return SamplingParams(**{**defaults, **recommended, **chosen})
    except PyllmError as error:
        raise UsageError(str(error)) from error


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
    return click.confirm("Do you accept these terms?", default=False, err=True)


def parse_bytes(text: str, option: str) -> int:
    """'2GB', '512 MiB', '1e9' -> bytes. UsageError for anything else; it names the option."""
    from pyllm.amounts import parse_bytes as parse

    try:
        count = parse(text)
    except ValueError as error:
        raise UsageError(f"{option} {error}") from None
    if count <= 0:
        raise UsageError(f"{option} {text!r}: expected an amount of memory such as 2GB or 512MiB")
    return count
