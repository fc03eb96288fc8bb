"""Rates of reading prompts and of decoding, at any depth of the context."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pyllm.errors import PyllmError
from pyllm.sampling import SamplingParams

if TYPE_CHECKING:
    from pyllm.completion import Completion
    from pyllm.llm import LLM

KV_BLOCK = 16  # tokens


@dataclass(frozen=True)
class Test:
    """`batch` sequences that have `context` tokens read `tokens` more, or decode as many each."""

    test: Literal["prompt", "decode"]
    tokens: int
    batch: int = 1
    context: int = 0

    def __str__(self) -> str:
        depth = f" at {self.context}" if self.context else ""
        return f"{self.test} {self.tokens}{f' x {self.batch}' if self.test == 'decode' else ''}{depth}"

    @property
    def length(self) -> int:
        """Tokens of a sequence at its end."""
        return self.context + self.tokens + KV_BLOCK


class Speed:
    """Runs tests on one LLM, which must have its prefix cache: depth is computed once and then found there.

    Tokens are random, those after the depth new in every run, and different in every sequence.
    """

    def __init__(self, llm: LLM) -> None:
        self._llm = llm
        self._vocab = llm.config.vocab
        self._source = random.Random(0)

    def check(self, test: Test) -> None:
        """PyllmError when a test does not fit into the context or the KV cache."""
        if test.length > self._llm.context:
            raise PyllmError(
                f"{test}: {test.length} tokens are more than the context of {self._llm.context}; "
                "give less --depth, --prompt or --gen"
            )
        room = self._llm.stats()["blocks_total"] * KV_BLOCK
        if test.batch * test.length > room:
            raise PyllmError(
                f"{test}: {test.batch * test.length} tokens are more than the {room} that the KV cache has "
                "memory for; give less --depth or --batch"
            )

    def warm_up(self, test: Test) -> None:
        """Computes the depth, and a little of the test."""
        self._run(test, test.tokens if test.test == "prompt" else min(test.tokens, 4))

    def rate(self, test: Test) -> float:
        """Tokens per second of one run, all sequences together. It has been warmed up."""
        done = self._run(test, test.tokens)
        if any(c.usage.cached_tokens < test.context // KV_BLOCK * KV_BLOCK for c in done):
            raise PyllmError(f"{test}: the KV cache lost the depth; give less --depth or --batch")
        if test.test == "prompt":
            return done[0].timings.prompt_tokens_per_second
        return test.batch * test.tokens / max(completion.timings.decode_s for completion in done)

    def _run(self, test: Test, tokens: int) -> list[Completion]:
        new = tokens if test.test == "prompt" else 1
        prompts = [self._depth(test.context, i) + self._tokens(new, self._source) for i in range(test.batch)]
        count = 1 if test.test == "prompt" else tokens + 1
        return self._llm.generate(prompts, SamplingParams(max_tokens=count, temperature=0.0, ignore_eos=True))

    def _depth(self, tokens: int, sequence: int) -> list[int]:
        return self._tokens(tokens, random.Random(f"{tokens} {sequence}"))

    def _tokens(self, count: int, source: random.Random) -> list[int]:
        return [source.randrange(self._vocab) for _ in range(count)]
