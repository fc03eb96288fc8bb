"""OpenAI's forms of requests and answers, and our own additions. msgspec checks, encodes and documents them.

A request's optional fields may be null, as clients send them; what a value may be is checked where it is used.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

_MESSAGE = {
    "type": "object",
    "required": ["role"],
    "properties": {
        "role": {"enum": ["system", "developer", "user", "assistant", "tool"]},
        "content": {
            "description": "Text, or parts of type text.",
            "anyOf": [
                {"type": "string"},
                {"type": "null"},
                {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "required": ["type", "text"],
                        "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
                    },
                },
            ],
        },
        "name": {"type": "string"},
        "tool_calls": {"type": "array", "items": {"type": "object"}},
        "tool_call_id": {"type": "string"},
        "reasoning_content": {"type": "string"},
    },
}

Message = Annotated[dict[str, Any], Meta(extra_json_schema=_MESSAGE)]
Tool = dict[str, Any]
Positive = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Natural = Annotated[int, Meta(ge=0, le=2**31 - 1)]
TokenIds = list[Natural]
CacheSalt = Annotated[str, Meta(max_length=1024)]
Priority = Annotated[int, Meta(ge=-1000, le=1000)]


# -- requests --------------------------------------------------------------------------------------------------


class StreamOptions(Struct, kw_only=True):
    include_usage: bool = False
    include_obfuscation: bool | None = None  # asks for padding against traffic analysis; never added


class Sampling(Struct, kw_only=True):
    """Fields of both generating endpoints. Absent ones have the model's recommended values."""

    model: str | None = None
    max_tokens: Positive | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    typical_p: float | None = None
    top_n_sigma: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    penalty_last_n: int | None = None
    dry_multiplier: float | None = None
    dry_base: float | None = None
    dry_allowed_length: int | None = None
    dry_penalty_last_n: int | None = None
    dry_sequence_breakers: list[str] | None = None
    xtc_probability: float | None = None
    xtc_threshold: float | None = None
    mirostat_tau: float | None = None
    mirostat_eta: float | None = None
    min_tokens: Natural | None = None
    stop: str | list[str] | None = None
    stop_token_ids: TokenIds | None = None
    ignore_eos: bool | None = None
    logit_bias: dict[int, float] | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    n: Positive | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    cache_salt: CacheSalt | None = None
    priority: Priority | None = None
    # Accepted, without effect on the answer.
    user: str | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    # What the answer must be: see structure.py. The guided ones are vLLM's.
    response_format: dict[str, Any] | None = None
    grammar: str | dict[str, Any] | None = None
    guided_json: Any = None
    guided_regex: Any = None
    guided_choice: Any = None
    guided_grammar: Any = None
    structured_outputs: dict[str, Any] | None = None


class ChatRequest(Sampling, kw_only=True):
    messages: list[Message]
    max_completion_tokens: Positive | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    tools: list[Tool] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    add_generation_prompt: bool | None = None
    modalities: list[str] | None = None
    audio: Any = None
    prediction: Any = None
    verbosity: str | None = None
    web_search_options: Any = None
    functions: Any = None
    function_call: Any = None


class CompletionRequest(Sampling, kw_only=True):
    prompt: str | list[str | Natural | list[Natural]]  # texts, token ids, or lists of token ids
    max_tokens: Natural | None = 16
    echo: bool | None = None
    suffix: str | None = None
    logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    best_of: Positive | None = None


class EmbeddingsRequest(Struct, kw_only=True):
    """pooling: absent: what the model was made for. dimensions: the first ones, again of length 1."""

    input: str | list[str | Natural | list[Natural]]  # texts, token ids, or lists of token ids
    model: str | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Positive | None = None
    pooling: Literal["last", "mean"] | None = None
    user: str | None = None
    cache_salt: CacheSalt | None = None
    priority: Priority | None = None


class TokenizeRequest(Struct, kw_only=True):
    """Exactly one of content, prompt (the same) and messages."""

    model: str | None = None
    content: str | None = None
    prompt: str | None = None
    messages: list[Message] | None = None
    tools: list[Tool] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    add_special: bool = False
    with_pieces: bool = False


class DetokenizeRequest(Struct, kw_only=True):
    model: str | None = None
    tokens: TokenIds


# -- answers ---------------------------------------------------------------------------------------------------


class PromptTokensDetails(Struct):
    cached_tokens: int


class Usage(Struct):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


class Timings(Struct):
    """Seconds and tokens per second. cached_share: of the prompt's tokens, those that were not computed."""

    queue_s: float
    prompt_s: float
    first_token_s: float
    decode_s: float
    prompt_tokens_per_second: float
    decode_tokens_per_second: float
    cached_share: float


class TopLogprob(Struct):
    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(Struct):
    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[TopLogprob]


class ChatLogprobs(Struct):
    content: list[TokenLogprob]
    refusal: None = None


class Function(Struct):
    name: str
    arguments: str


class ToolCall(Struct):
    id: str
    function: Function
    type: Literal["function"] = "function"


class FunctionDelta(Struct, omit_defaults=True):
    name: str | None = None
    arguments: str | None = None


class ToolCallDelta(Struct, omit_defaults=True):
    index: Annotated[int, Meta(ge=0)] | msgspec.UnsetType = msgspec.UNSET
    id: str | None = None
    type: str | None = None
    function: FunctionDelta | None = None


class Delta(Struct, omit_defaults=True):
    role: str | None = None
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCallDelta] | None = None


class ChatMessage(Struct, omit_defaults=True):
    role: str
    content: str | None
    reasoning_content: str | None = None
    tool_calls: list[ToolCall] | None = None
    refusal: msgspec.UnsetType | None = msgspec.UNSET


class ChatChunkChoice(Struct):
    index: int
    delta: Delta
    logprobs: ChatLogprobs | None = None
    finish_reason: str | None = None


class ChatChunk(Struct):
    id: str
    created: int
    model: str
    choices: list[ChatChunkChoice]
    usage: Usage | msgspec.UnsetType | None = msgspec.UNSET
    timings: Timings | msgspec.UnsetType = msgspec.UNSET
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"


class ChatChoice(Struct):
    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None
    finish_reason: str


class ChatCompletion(Struct):
    id: str
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    timings: Timings
    object: Literal["chat.completion"] = "chat.completion"


class CompletionLogprobs(Struct):
    """Per token; the first token of an echoed prompt has none."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(Struct):
    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: str | None = None


class Completion(Struct):
    """A whole answer, or a chunk of a stream."""

    id: str
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | msgspec.UnsetType | None = msgspec.UNSET
    timings: Timings | msgspec.UnsetType = msgspec.UNSET
    object: Literal["text_completion"] = "text_completion"


class EmbeddingObject(Struct):
    """`embedding`: base64 is of little-endian float32."""

    index: int
    embedding: list[float] | str
    object: Literal["embedding"] = "embedding"


class EmbeddingsUsage(Struct):
    prompt_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


class Embeddings(Struct):
    data: list[EmbeddingObject]
    model: str
    usage: EmbeddingsUsage
    object: Literal["list"] = "list"


class ModelMeta(Struct):
    n_ctx: int
    n_ctx_train: int
    n_vocab: int
    n_embd: int
    architecture: str


class ModelCard(Struct):
    """A model that is not loaded can be asked: then it will be. `reason`: why it failed."""

    id: str
    created: int
    state: Literal["unloaded", "loading", "loaded", "failed"]
    reason: str | msgspec.UnsetType = msgspec.UNSET
    max_model_len: int | msgspec.UnsetType = msgspec.UNSET
    context_length: int | msgspec.UnsetType = msgspec.UNSET
    meta: ModelMeta | msgspec.UnsetType = msgspec.UNSET
    object: Literal["model"] = "model"
    owned_by: str = "pyllm"


class ModelList(Struct):
    data: list[ModelCard]
    object: Literal["list"] = "list"


class Tokens(Struct, omit_defaults=True):
    tokens: list[int]
    count: int
    max_model_len: int
    pieces: list[str] | None = None


class Content(Struct):
    content: str


class Status(Struct, omit_defaults=True):
    status: Literal["ok", "loading", "draining", "broken"]
    reason: str = ""


class ErrorBody(Struct):
    message: str
    type: str
    param: str | None
    code: str | None


class Error(Struct):
    error: ErrorBody
