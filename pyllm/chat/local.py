"""A model in this process."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pyllm.chat.engine import Done, Messages, Part, Prompt
from pyllm.engine_thread import Mail, opened
from pyllm.errors import PyllmError
from pyllm.parsers import Content, Parser, Reasoning, dialect_of
from pyllm.sampling import SamplingParams

if TYPE_CHECKING:
    from pathlib import Path

    from pyllm.completion import Piece
    from pyllm.constraint import Constraint
    from pyllm.generation import Request
    from pyllm.llm import LLM

_PROMPT_END = 64  # tokens of a prompt that show whether it opens the model's reasoning


class LocalEngine:
    """See Engine."""

    def __init__(self, llm: LLM, name: str) -> None:
        self.name = name
        self.context = llm.context
        self.kv_bytes_per_token = llm.config.kv_bytes_per_token
        self._llm = llm
        self._warming: Request[Piece] | None = None
        template = llm.template
        self._dialect = dialect_of(template.source, llm.config.architecture)
        self.thinks = self._dialect.thinking is not None
        form = template.built_in
        self.note = (
            f"this model has no chat template (a base model?): the built-in form {form!r} is used"
            if form
            else ""
        )
        self._parsed = self.thinks or self._dialect.format == "gpt-oss"
        self._visible = self._dialect.visible_tokens(llm.tokenizer) if self._parsed else ()

    def prompt(self, messages: Messages, think: bool = True) -> Prompt:
        started = time.perf_counter()
        arguments: dict[str, Any] = {} if think else {"enable_thinking": False}
        tokens = self._llm.chat_tokens(messages, **arguments)
        return Prompt(messages, tokens, arguments, time.perf_counter() - started)

    def count(self, text: str) -> int:
        return len(self._llm.tokenizer.encode(text, add_bos=False))

    def check(self, constraint: Constraint) -> None:
        tokens = self._llm.chat_tokens([{"role": "user", "content": "x"}])
        self._llm.job(tokens, SamplingParams(constraint=constraint))

    def start(self, prompt: Prompt, params: SamplingParams, chosen: Set[str] = frozenset()) -> LocalStream:
        if self._warming is not None:
            self._llm.cancel(self._warming)  # what was read stays in the prefix cache
            self._warming = None
        params = self._llm.chat_params(params)
        if self._visible:
            params = replace(params, visible_tokens=self._visible)
        parsers: list[Parser | None] = [None] * params.n
        if self._parsed:
            end = self._llm.tokenizer.decode(prompt.tokens[-_PROMPT_END:])
            parsers = [self._dialect.parser(prompt=end) for _ in range(params.n)]
        return LocalStream(self._llm, prompt, params, parsers)

    def warm(self, messages: Messages) -> None:
        with suppress(PyllmError):  # one that does not fit is told of with the next question
            job = self._llm.job(self._llm.chat_tokens(messages), SamplingParams(max_tokens=1))
            self._warming = self._llm.submit(job, queue.SimpleQueue())

    def save_kv(self, tokens: Sequence[int], path: Path, stop: Callable[[], None]) -> int:
        return self._llm.save_kv(tokens, path, stop)

    def load_kv(self, path: Path) -> list[int]:
        return self._llm.load_kv(path)

    def token(self, id: int) -> str:
        return self._llm.tokenizer.piece(id)

    def stats(self) -> Mapping[str, int]:
        return self._llm.stats()

    def close(self) -> None:
        self._llm.close()


class LocalStream:
    """See Stream."""

    def __init__(self, llm: LLM, prompt: Prompt, params: SamplingParams, parsers: list[Parser | None]) -> None:
        self._llm = llm
        self._parsers = parsers
        self._failed: PyllmError | None = None
        self._box: queue.SimpleQueue[Mail] = queue.SimpleQueue()
        self._generation = llm.submit(llm.job(prompt.tokens, params), self._box)

    def next(self, timeout: float) -> list[Part]:
        parts: list[Part] = []
        if self._failed is not None:
            raise self._failed
        try:
            mail = self._box.get(timeout=timeout)
            while True:
                now, events = opened(mail)
                for event in events:
                    piece = self._generation.take(event, now)
                    if piece is not None:
                        parts.append(self._part(piece))
                mail = self._box.get_nowait()
        except queue.Empty:
            return parts
        except PyllmError as error:
            if not parts:
                raise
            self._failed = error  # first what came before it
            return parts

    def _part(self, piece: Piece) -> Part:
        text, reasoning = str.__str__(piece), ""
        completion = piece.completion
        if parser := self._parsers[piece.answer]:
            deltas = parser.feed(text) + (parser.finish() if completion else [])
            text = "".join(delta.text for delta in deltas if isinstance(delta, Content))
            reasoning = "".join(delta.text for delta in deltas if isinstance(delta, Reasoning))
        done = None
        if completion:
            done = Done(
                completion.finish_reason,
                completion.finish_detail,
                completion.usage,
                completion.timings,
                completion.token_ids,
            )
        return Part(piece.answer, text, reasoning, len(piece.token_ids), piece.logprobs or (), done)

    def close(self) -> None:
        self._llm.cancel(self._generation)
