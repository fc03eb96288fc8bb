"""The list of commands, and what happens to the errors that come out of them."""

from __future__ import annotations

import os
import re
import sys
from importlib import import_module

import click
from click.core import ParameterSource

from pyllm import __version__
from pyllm.cli.output import UsageError, note, visible
from pyllm.errors import PyllmError

# In the order of --help. Each is a module, imported only when it runs: start-up counts.
NAMES = (
    "generate",
    "chat",
    "batch",
    "serve",
    "pull",
    "list",
    "show",
    "plan",
    "rm",
    "tokenize",
    "embed",
    "convert",
    "quantize",
    "prune",
    "inspect",
    "perplexity",
    "eval",
    "bench",
    "doctor",
)
_FUNCTIONS = {"list": "list_models", "eval": "eval_"}  # others have the command's name


class Commands(click.Group):
    """Turns every error into one clear line on standard error and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(NAMES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in NAMES:
            return None
        module = import_module(f"pyllm.cli.{cmd_name}")
        command: click.Command = getattr(module, _FUNCTIONS.get(cmd_name, cmd_name))
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in NAMES and not name.startswith("-"):
            from difflib import get_close_matches

            near = get_close_matches(name, NAMES)
            ctx.fail(f"No such command {name!r}." + (f" Did you mean {' or '.join(near)}?" if near else ""))
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> object:
        try:
            result: object = super().invoke(ctx)
            sys.stdout.flush()  # a full disk behind a redirection shows here
            return result
        except KeyboardInterrupt:
            ctx.exit(130)
        except BrokenPipeError:  # `pyllm ... | head`: the reader has enough
            _abandon_stdout()
            ctx.exit(1)
        except click.MissingParameter:
            raise  # its words are its own
        except click.BadParameter as error:
            raise in_plain_words(error) from None
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise  # wrong usage, and what --help and the like end with
        except Exception as error:
            if os.environ.get("PYLLM_DEBUG"):
                raise
            if isinstance(error, PyllmError):
                note(str(error))
                ctx.exit(2 if isinstance(error, UsageError) else 1)
            if isinstance(error, OSError):
                _abandon_stdout()
                note(f"{error.filename or 'standard output'}: {error.strerror or error}")
                ctx.exit(1)
            told = str(error).strip().split("\n")[0]
            note(f"{type(error).__name__}: {told}; PYLLM_DEBUG=1 shows where (please report it)")
            ctx.exit(1)


_NUMBERS = {"integer": "whole number", "float": "number"}


def in_plain_words(error: click.BadParameter) -> click.BadParameter:
    """The same error; it names the environment variable or the file that the value came from."""
    message, hint, context, parameter = error.message, error.param_hint, error.ctx, error.param
    for name, words in _NUMBERS.items():
        message = re.sub(f"is not a valid {name}( range)?", f"is not a {words}", message)
    if context is not None and parameter is not None and parameter.name is not None:
        source = context.get_parameter_source(parameter.name)
        if source is ParameterSource.ENVIRONMENT:
            hint = str(parameter.envvar or f"{context.auto_envvar_prefix}_{parameter.name.upper()}")
        elif source is ParameterSource.DEFAULT_MAP:
            hint = f"{parameter.name.replace('_', '-')} in {context.params.get('config')}"
    return click.BadParameter(message, context, parameter, hint)


def _abandon_stdout() -> None:
    """What is still buffered cannot be written; the interpreter would complain once more at exit."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, sys.stdout.fileno())


@click.group(
    cls=Commands,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="""\b
MODEL is a name of `pyllm list`, a path to a .gguf file or hf:owner/repo/file.gguf. generate, chat, serve,
bench and batch do without: smollm2-135m. A known model is pulled at its first use.

\b
PYLLM_HOME   folder of models and caches    PYLLM_ISA   force an instruction set
PYLLM_DEBUG  1: tracebacks of errors        HF_ENDPOINT, HF_TOKEN: mirror and token of the hub""",
)
@click.version_option(__version__, message="%(prog)s %(version)s")
def app() -> None:
    """Run language models where you are: one GGUF file in, tokens out.

    Example: pyllm generate -p "Once upon a time"
    """
    for stream in (sys.stdout, sys.stderr):
        visible(stream)
