"""From a request's fields to the engine's parameters; what cannot be honoured is refused by its name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pyllm.errors import PyllmError
from pyllm.server.errors import bad_request, from_pyllm

if TYPE_CHECKING:
    from pyllm.sampling import SamplingParams
    from pyllm.server.options import ServeOptions
    from pyllm.server.protocol import ChatRequest, CompletionRequest, Sampling
    from pyllm.template import ChatTemplate

MAX_STOPS = 64
MAX_STOP_LENGTH = 1000  # characters

# Fields of SamplingParams that have the same name and meaning in a request.
PASSED = (
    "max_tokens",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "typical_p",
    "top_n_sigma",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "penalty_last_n",
    "dry_multiplier",
    "dry_base",
    "dry_allowed_length",
    "dry_penalty_last_n",
    "dry_sequence_breakers",
    "xtc_probability",
    "xtc_threshold",
    "mirostat_tau",
    "mirostat_eta",
    "min_tokens",
    "stop",
    "stop_token_ids",
    "ignore_eos",
    "logit_bias",
    "n",
)

_never: Callable[[Any], bool] = lambda value: False  # noqa: E731

# Known fields: the values that ask for nothing beyond what is done anyway, and what to do instead.
NOT_HONOURED: dict[str, tuple[Callable[[Any], bool], str]] = {
    "store": (lambda value: value is False, "nothing is stored here"),
    "service_tier": (lambda value: value in ("auto", "default"), "expected auto or default"),
    "modalities": (lambda value: value == ["text"], "models write text only"),
    "audio": (_never, "models write text only"),
    "web_search_options": (_never, "nothing is looked up on the web"),
    "functions": (lambda value: value == [], "use tools"),
    "function_call": (lambda value: value in ("none", "auto"), "use tool_choice"),
}


def refuse_not_honoured(document: Mapping[str, Any]) -> None:
    """ApiError that names the first field that would be ignored."""
    for name, (asks_nothing, instead) in NOT_HONOURED.items():
        value = document.get(name)
        if value is not None and not asks_nothing(value):
            raise bad_request(f"{name}: this server cannot honour it: {instead}", name, "unsupported_field")


def sampling_params(
    body: Sampling, defaults: Mapping[str, Any], options: ServeOptions, **more: Any
) -> SamplingParams:
    """The request's parameters over `defaults`; `more` over both. ApiError names what is out of its range."""
    from pyllm.sampling import SamplingParams

    given = {name: value for name in PASSED if (value := getattr(body, name)) is not None} | more
    if body.seed is not None:
        given["seed"] = body.seed % 2**64
    if isinstance(body.stop, list) and len(body.stop) > MAX_STOPS:
        raise bad_request(f"stop: expected at most {MAX_STOPS} strings, got {len(body.stop)}", "stop")
    for stop in [body.stop] if isinstance(body.stop, str) else body.stop or ():
        if not 1 <= len(stop) <= MAX_STOP_LENGTH:
            raise bad_request(f"stop: expected 1 to {MAX_STOP_LENGTH} characters, got {len(stop)}", "stop")
    if (n := given.get("n", 1)) > options.max_n:
        raise bad_request(f"n: expected at most {options.max_n}, got {n}", "n")
    if options.max_tokens:
        wanted = given.get("max_tokens")
        if wanted is not None and wanted > options.max_tokens:
            raise bad_request(f"max_tokens: expected at most {options.max_tokens}, got {wanted}", "max_tokens")
        given["max_tokens"] = wanted or options.max_tokens
    known = frozenset(body.__struct_fields__)
    try:
        return SamplingParams(**{**defaults, **given})
    except PyllmError as error:
        raise from_pyllm(error, known) from None


def chat_params(
    body: ChatRequest, defaults: Mapping[str, Any], options: ServeOptions, template: ChatTemplate
) -> SamplingParams:
    if body.top_logprobs and not body.logprobs:
        raise bad_request("top_logprobs: needs logprobs: true", "top_logprobs")
    more: dict[str, Any] = {}
    if body.max_completion_tokens is not None:
        more["max_tokens"] = body.max_completion_tokens
    if body.logprobs:
        more |= {"logprobs": True, "top_logprobs": body.top_logprobs or 0}
    params = sampling_params(body, {"max_tokens": None, **defaults}, options, **more)
    if not template.stop:
        return params
    from dataclasses import replace

    return replace(params, stop=params.stop + template.stop)


def completion_params(
    body: CompletionRequest, defaults: Mapping[str, Any], options: ServeOptions
) -> SamplingParams:
    n = body.n or 1
    if body.best_of is not None and body.best_of != n:
        raise bad_request(
            f"best_of: this server cannot honour it: expected {n}, as n, got {body.best_of}",
            "best_of",
            "unsupported_field",
        )
    if body.max_tokens == 0 and not body.echo:
        raise bad_request("max_tokens: expected at least 1, or echo: true, got 0", "max_tokens")
    more: dict[str, Any] = {"max_tokens": body.max_tokens or 1}
    if body.logprobs is not None:
        more |= {"logprobs": True, "top_logprobs": body.logprobs}
    return sampling_params(body, defaults, options, **more)


def template_arguments(
    given: Mapping[str, Any] | None, effort: str | None, template: ChatTemplate, options: ServeOptions
) -> dict[str, Any]:
    """What goes to the model's template beside messages and tools."""
    arguments = dict(given or {})
    for name in arguments:
        if name not in options.template_arguments:
            raise bad_request(
                f"chat_template_kwargs.{name:.60}: expected one of {', '.join(options.template_arguments)}",
                "chat_template_kwargs",
            )
    if effort is not None:
        arguments = reasoning_arguments(effort, template) | arguments
    return arguments


def reasoning_arguments(effort: str, template: ChatTemplate) -> dict[str, Any]:
    """How the model's own template is told an effort. ApiError when it takes none."""
    if "reasoning_effort" in template.source:
        return {"reasoning_effort": effort}
    for switch in ("enable_thinking", "thinking"):
        if switch in template.source:
            return {switch: effort != "none"}
    if effort == "none":
        return {}
    raise bad_request(
        "reasoning_effort: this server cannot honour it: the model's template has no reasoning",
        "reasoning_effort",
        "unsupported_field",
    )
