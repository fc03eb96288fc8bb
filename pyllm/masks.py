"""Which tokens keep constrained answers within their grammar: llguidance over one model's vocabulary."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from pyllm.errors import PyllmError

if TYPE_CHECKING:
    from pyllm.constraint import Constraint
    from pyllm.tokenizer import Tokenizer

_KEPT = 64  # compiled constraints
_THREADS = 4  # that fill the masks of one step, at most


class Masks:
    """Makes the states of constrained streams, and fills their masks: a `_core.MaskSource`.

    vocab: of the model's logits. reserved: gives the chat template's source; user-defined tokens that it names
    are no text, see Tokenizer.control_tokens. Nothing is built before the first constraint comes.
    """

    def __init__(self, tokenizer: Tokenizer, vocab: int, reserved: Callable[[], str]) -> None:
        self._tokenizer = tokenizer
        self._vocab = vocab
        self._reserved = reserved
        self._lock = threading.Lock()
        self._vocabulary: Any = None
        self._executor: Any = None
        self._compiled: OrderedDict[Constraint, Any] = OrderedDict()  # the one used last at the end

    def states(self, constraint: Constraint, n: int, trusted: bool = True) -> list[Any]:
        """For `n` streams that begin. PyllmError says what is wrong with the constraint. Not trusted: one that
        takes too long to compile is refused."""
        from pyllm.grammar import check_cost, compiled, prepare_trial, surely_cheap

        with self._lock:
            if self._vocabulary is None:
                if not trusted:
                    prepare_trial()
                self._vocabulary = self._build()
            found = self._compiled.get(constraint)
        if found is None:
            if not trusted and not surely_cheap(constraint):
                try:
                    check_cost(constraint)
                finally:
                    prepare_trial()
            found = compiled(constraint, self._vocabulary)
        with self._lock:
            self._compiled[constraint] = found
            self._compiled.move_to_end(constraint)
            if len(self._compiled) > _KEPT:
                self._compiled.popitem(last=False)
            return [found.deep_copy() for _ in range(n)]

    def complete(self, constraint: Constraint, tokens: Sequence[int]) -> bool:
        """Whether an answer of these tokens may end there."""
        (state,) = self.states(constraint, 1)
        return bool(state.consume_tokens(list(tokens)) and state.is_accepting())

    def fill(self, states: list[Any], tokens: list[list[int]], address: int, row_bytes: int) -> list[str]:
        """See _core.MaskSource. The work itself is done without the GIL."""
        from pyllm.grammar import trouble

        for state, new in zip(states, tokens, strict=True):
            if new:
                state.consume_tokens(new)
        if len(states) == 1:
            states[0].unsafe_compute_mask_ptr(address, row_bytes)
        else:
            rows = [(state, row) for row, state in enumerate(states)]
            self._pool().unsafe_compute_mask_ptr(rows, address, row_bytes, len(rows))
        return [trouble(state) for state in states]

    def _pool(self) -> Any:
        if self._executor is None:
            from llguidance import LLExecutor

            from pyllm._core import cpu_threads

            self._executor = LLExecutor(min(_THREADS, cpu_threads()))
        return self._executor

    def _build(self) -> Any:
        from llguidance import LLTokenizer, TokenizerWrapper

        ends = sorted(token for token in self._tokenizer.stop_ids if token < self._vocab)
        if not ends:
            raise PyllmError("constraint: this model has no token that ends a text")
        words: Any = TokenizerWrapper(_Words(self._tokenizer, self._vocab, ends[0], self._reserved()))
        return LLTokenizer(words, n_vocab=self._vocab, eos_token=ends)


class _Words:
    """The vocabulary in the form that llguidance takes."""

    def __init__(self, tokenizer: Tokenizer, vocab: int, eos: int, reserved: str) -> None:
        count = min(vocab, tokenizer.vocab_size)
        self.eos_token_id = eos
        self.bos_token_id = tokenizer.bos
        self.tokens: Sequence[bytes] = [tokenizer.piece_bytes(token) for token in range(count)]
        self.special_token_ids = [token for token in tokenizer.control_tokens(reserved) if token < count]
        self._tokenizer = tokenizer

    def __call__(self, text: bytes) -> list[int]:
        """Tokens of text that goes on a text: where only one text can follow, it comes in the usual tokens."""
        return self._tokenizer.encode(text, add_bos=False, continued=True)
