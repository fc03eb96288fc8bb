"""The list of commands, and what happens to the errors that come out of them."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from pyllm import __version__
from pyllm.cli.bench import bench
from pyllm.cli.chat import chat
from pyllm.cli.doctor import doctor
from pyllm.cli.generate import generate
from pyllm.cli.list import list_models
from pyllm.cli.output import UsageError, note, visible
from pyllm.cli.pull import pull
from pyllm.cli.rm import rm
from pyllm.cli.show import show
from pyllm.cli.tokenize import tokenize
from pyllm.errors import PyllmError


class Commands(TyperGroup):
    """Turns every error into one clear line on standard error and an exit code."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self.commands)  # in the order below, not the alphabet's

    def invoke(self, ctx: Any) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()  # a full disk behind a redirection shows here
            return result
        except KeyboardInterrupt:
            raise typer.Exit(130) from None
        except BrokenPipeError:  # `pyllm ... | head`: the reader has enough
            _abandon_stdout()
            raise typer.Exit(1) from None
        except Exception as error:
            if isinstance(error, typer.Exit | typer.Abort) or hasattr(error, "exit_code"):
                raise  # typer's own, wrong usage among them
            if os.environ.get("PYLLM_DEBUG"):
                raise
            if isinstance(error, PyllmError):
                note(str(error))
                raise typer.Exit(2 if isinstance(error, UsageError) else 1) from None
            if isinstance(error, OSError):
                _abandon_stdout()
                note(f"{error.filename or 'standard output'}: {error.strerror or error}")
                raise typer.Exit(1) from None
            told = str(error).strip().split("\n")[0]
            note(f"{type(error).__name__}: {told}; PYLLM_DEBUG=1 shows where (please report it)")
            raise typer.Exit(1) from None


def _abandon_stdout() -> None:
    """What is still buffered cannot be written; the interpreter would complain once more at exit."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, sys.stdout.fileno())


def _version(wanted: bool) -> None:
    if wanted:
        print(f"pyllm {__version__}")
        raise typer.Exit


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # plain help: rich would double the start-up
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="""\b
MODEL is a name of `pyllm list`, a path to a .gguf file, hf:owner/repo/file.gguf, or absent: smollm2-135m.
A known model is pulled at its first use.

\b
PYLLM_HOME   folder of models and caches    PYLLM_ISA   force an instruction set
PYLLM_DEBUG  1: tracebacks of errors        HF_ENDPOINT, HF_TOKEN: mirror and token of the hub""",
)


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Show the version and exit.")
    ] = False,
) -> None:
    """Run language models where you are: one GGUF file in, tokens out.

    Example: pyllm generate -p "Once upon a time"
    """
    for stream in (sys.stdout, sys.stderr):
        visible(stream)


for command in (generate, chat, pull, list_models, show, rm, tokenize, bench, doctor):
    app.command(command.__name__.removesuffix("_models"))(command)
