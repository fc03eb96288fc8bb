from __future__ import annotations

import sys
from contextlib import closing
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from pyllm.cli.options import (
    constraint,
    constraint_options,
    engine_options,
    find_model,
    json_flag,
    open_model,
    optional_model,
    sampling_options,
    sampling_params,
)
from pyllm.cli.output import UsageError, note, read_text, show_json
from pyllm.errors import PyllmError
from pyllm.terminal import Answer, cut_short

if TYPE_CHECKING:
    from pyllm.completion import Completion


@click.command()
@optional_model
@click.option("-p", "--prompt", help="The text to continue; - or absent: standard input.")
@click.option("--chat", is_flag=True, help="Put the text into the model's chat template.")
@click.option("--system", help="A system message; implies --chat.")
@sampling_options
@constraint_options
@engine_options
@json_flag
def generate(
    model: str | None,
    prompt: str | None,
    chat: bool,
    system: str | None,
    json_schema: str | None,
    regex: str | None,
    grammar: str | None,
    as_json: bool,
    sampling: dict[str, Any],
    **engine: Any,
) -> None:
    """Continue a text. The continuation goes to standard output as it comes, statistics to standard error.

    With -p, standard input is not read. Without it, all of standard input is the prompt, less one line feed at
    its end.

    An answer that --max-tokens or a full context has cut is said to be so; where it is therefore only the
    beginning of what --json-schema, --regex or --grammar asks for, the exit code is 1.

    --json: {"text", "token_ids", "finish_reason": "stop" | "length", "usage": {"prompt_tokens",
    "completion_tokens", "cached_tokens"}, "timings": {"load_s", "queue_s", "first_token_s", "decode_s",
    "prompt_tokens_per_second", "decode_tokens_per_second"}}

    \b
    Example: pyllm generate -p "Once upon a time" --max-tokens 64
             pyllm generate smollm2-135m --chat < question.txt
             pyllm generate -p "Ada is 36. As JSON: " --json-schema person.json
    """
    text = _prompt(model, prompt)
    asked = {"--json-schema": json_schema, "--regex": regex, "--grammar": grammar}
    if not text and not chat and system is None:
        raise UsageError(f"{'standard input' if prompt in (None, '-') else '-p'}: the prompt is empty")
    sampling["constraint"] = constraint(json_schema, regex, grammar)
    path = find_model(model)
    params = sampling_params(model, sampling)
    with open_model(path, **engine) as llm:
        if chat or system is not None:
            messages = (
                [{"role": "system", "content": read_text(system, "--system")}] if system is not None else []
            )
            stream = llm.stream_chat([*messages, {"role": "user", "content": text}], params)
        else:
            stream = llm.stream(text, params)
        answer = Answer()
        with closing(stream):
            try:
                for piece in stream:
                    if not as_json:
                        answer.write(piece)
                    if piece.completion is not None:
                        completion = piece.completion
            finally:
                answer.end()
        whole = params.constraint is None or llm.is_complete(completion, params.constraint)
    if as_json:
        show_json(
            {
                "text": completion.text,
                "token_ids": list(completion.token_ids),
                "finish_reason": completion.finish_reason,
                "usage": asdict(completion.usage),
                "timings": asdict(completion.timings),
            }
        )
    else:
        note(statistics(completion))
    cut = cut_short(completion.usage.completion_tokens, completion.finish_detail)
    if not whole:
        option = next(name for name, value in asked.items() if value is not None)
        raise PyllmError(f"{cut}; it is only the beginning of what {option} asks for")
    if completion.finish_reason == "length" and not as_json:
        note(cut)


def statistics(completion: Completion) -> str:
    """One line: tokens, rates, why it ended."""
    usage, timings = completion.usage, completion.timings
    cached = f" ({usage.cached_tokens} cached)" if usage.cached_tokens else ""
    return (
        f"prompt {usage.prompt_tokens} tokens{cached}, {timings.prompt_tokens_per_second:.1f}/s; "
        f"answer {usage.completion_tokens} tokens, {timings.decode_tokens_per_second:.1f}/s; "
        f"load {timings.load_s:.2f} s, first token {timings.first_token_s:.2f} s; "
        f"finish reason: {completion.finish_reason}"
    )


def _prompt(model: str | None, prompt: str | None) -> str:
    if prompt is not None and prompt != "-":
        return read_text(prompt, "-p")
    if prompt is None and sys.stdin.isatty():
        hint = f" ({model!r} was taken for the model)" if model and " " in model else ""
        raise UsageError(f"no prompt: give -p TEXT, or pipe a text into standard input{hint}")
    return read_text("-", "-p").removesuffix("\n")
