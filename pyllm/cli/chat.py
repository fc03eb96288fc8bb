from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any

import click

from pyllm.cli.options import (
    engine_options,
    find_model,
    open_model,
    optional_model,
    sampling_options,
    sampling_params,
)
from pyllm.cli.output import Answer, note, read_text
from pyllm.errors import PyllmError

if TYPE_CHECKING:
    from pyllm.llm import LLM
    from pyllm.sampling import SamplingParams


@click.command()
@optional_model
@click.option("--system", help="A system message before the first turn.")
@sampling_options
@engine_options
def chat(
    model: str | None,
    system: str | None,
    context: int,
    threads: int,
    kv_memory: str,
    kv_type: str,
    no_pack: bool,
    precise: bool,
    device: str,
    gpu_layers: int | None,
    **sampling: Any,
) -> None:
    """Talk with MODEL. Ctrl-C stops an answer (what came is kept), Ctrl-D leaves.

    Without a terminal every line of standard input is a turn, and the answers go to standard output.
    Nothing is ever dropped from the conversation: when the context is full, that is an error.

    Example: pyllm chat smollm2-135m --system "Answer in one sentence."
    """
    path = find_model(model)
    params = sampling_params(model, sampling, max_tokens=None)
    terminal = sys.stdin.isatty()
    with open_model(path, context, threads, kv_memory, kv_type, no_pack, precise, device, gpu_layers) as llm:
        if form := llm.template.built_in:
            note(f"this model has no chat template (a base model?): the built-in form {form!r} is used")
        if terminal:
            note(f"chatting with {model or path.stem}; Ctrl-C stops an answer, Ctrl-D leaves")
        history = [{"role": "system", "content": read_text(system)}] if system is not None else []
        for text in _turns(terminal):
            turn = {"role": "user", "content": text}
            try:
                answer = _answer(llm, [*history, turn], params)
            except PyllmError as error:
                if not terminal:
                    raise
                note(f"{error}\nThis turn was not added to the conversation.")
                continue
            if answer:
                history += [turn, {"role": "assistant", "content": answer}]


def _answer(llm: LLM, messages: list[dict[str, str]], params: SamplingParams) -> str:
    """Streams the next answer to standard output; what came before Ctrl-C counts."""
    came: list[str] = []
    out = Answer()
    cut = ""
    try:
        with closing(llm.stream_chat(messages, params)) as stream:
            for piece in stream:
                came.append(piece)
                out.write(piece)
                if piece.completion is not None and piece.finish_reason == "length":
                    cut = f"the answer was cut after {piece.completion.usage.completion_tokens} tokens: "
                    cut += "--max-tokens reached" if params.max_tokens else "the context is full"
    except KeyboardInterrupt:
        cut = "stopped"
    out.end()
    if cut:
        note(cut)
    return "".join(came)


def _turns(terminal: bool) -> Iterator[str]:
    """The user's turns until end of input; empty lines are none."""
    if not terminal:
        for line in sys.stdin.buffer:
            if text := line.decode("utf-8", "replace").strip():
                yield text
        return
    with suppress(ImportError):
        import readline  # noqa: F401  line editing and history for input()
    while True:
        try:
            text = _ask()
        except EOFError:
            print(file=sys.stderr)
            return
        except KeyboardInterrupt:
            print("\n(Ctrl-D leaves)", file=sys.stderr)
            continue
        if text := read_text(text).strip():
            yield text


def _ask() -> str:
    if sys.stdout.isatty():
        return input("> ")
    print("> ", end="", file=sys.stderr, flush=True)  # answers are redirected: the prompt must not go with them
    return input()
