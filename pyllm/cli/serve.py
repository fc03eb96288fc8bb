from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from pyllm.cli.options import engine_options
from pyllm.cli.serve_config import read_config, serve_options
from pyllm.cli.serve_models import ModelNames, sources
from pyllm.embedding import POOLINGS

SECONDS = click.FloatRange(min=0.1, max=86400)


def _read_config(context: click.Context, parameter: click.Parameter, path: Path | None) -> Path | None:
    """Options of a TOML file become defaults: the environment and the command line go before them."""
    if path is not None:
        context.default_map = {**(context.default_map or {}), **read_config(path, context.command)}
    return path


@click.command(context_settings={"auto_envvar_prefix": "PYLLM"})
@click.argument("model", nargs=-1, type=ModelNames(), envvar="PYLLM_MODEL")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0: any free one.")
@click.option("--alias", multiple=True, help="The model's name in requests, once for each; absent: its own.")
@click.option("--keep-alive", default="", help="Unload a model unused for so long; 0: never.  [several: 10m]")
@click.option(
    "--api-key-file",
    type=click.Path(path_type=Path),
    help="Keys that clients must send, one a line, of at least 8 characters.",
)
@click.option("--api-key", multiple=True, help="One key. Others can see it: better PYLLM_API_KEY or a file.")
@click.option("--allow-no-key", is_flag=True, help="Listen beyond this machine without any key.")
@click.option("--allow-host", multiple=True, help="A name in Host headers beside this machine's; *: any.")
@click.option("--cors-origin", multiple=True, help="A web page's origin that may ask; *: any.")
@click.option("--tls-cert", type=click.Path(path_type=Path), help="Certificate file (PEM), for https.")
@click.option("--tls-key", type=click.Path(path_type=Path), help="Its key file, not encrypted.")
@click.option("--strict", is_flag=True, help="Refuse unknown fields in requests, nested ones too.")
@click.option(
    "--pooling",
    type=click.Choice(POOLINGS),
    default="last",
    help="Of embeddings, where neither the request nor the model says.  [last]",
)
@click.option("--max-sequences", type=click.IntRange(1, 512), default=64, help="Answers at once.  [64]")
@click.option("--max-queue", type=click.IntRange(0), default=256, help="Answers that may wait.  [256]")
@click.option("--max-tokens", type=click.IntRange(0), default=0, help="Of an answer; absent: the context.")
@click.option("--max-body", default="16MiB", help="Of a request.  [16MiB]")
@click.option("--max-storage", default="4GiB", help="Of files for batches; 0: no batches.  [4GiB]")
@click.option("--receive-timeout", type=SECONDS, default=60.0, help="Seconds for a request to arrive.  [60]")
@click.option("--drain-timeout", type=SECONDS, default=30.0, help="Seconds for answers at the end.  [30]")
@click.option("--log-format", type=click.Choice(["human", "json", "none"]), default="human", help="[human]")
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    is_eager=True,
    callback=_read_config,
    help="TOML file of options.",
)
@engine_options
def serve(model: tuple[str, ...], **given: Any) -> None:
    """Serve MODEL to OpenAI's and Anthropic's clients, and to people: a page for chat and live metrics at /.

    Chat, completions, responses, messages, embeddings, batches; all requests run in one continuous batch.

    Of several models each is loaded when a request names it, and unloaded when nobody has used it for
    --keep-alive, or when another needs its memory: the one used longest ago first.

    It listens on this machine only, unless --host says otherwise; then it wants an API key.

    Every option can also be an environment variable (--max-queue: PYLLM_MAX_QUEUE) or a line of the TOML file
    of --config (max-queue = 100; model = "smollm2-135m"). The command line goes before the environment, the
    environment before the file. Several values: separated by spaces in a variable, a list in the file.

    \b
    Example: pyllm serve smollm2-135m --port 8000
             pyllm serve smollm2-135m models/other.gguf --keep-alive 5m
             curl localhost:8000/v1/chat/completions -d '{"messages": [{"role": "user", "content": "Hi"}]}'
    """
    options = serve_options(given, len(model))
    from pyllm.server.run import run

    run(options, sources(model, given))
