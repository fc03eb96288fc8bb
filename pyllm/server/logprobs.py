"""Log-probabilities in OpenAI's two forms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pyllm.server.protocol import ChatLogprobs, CompletionLogprobs, TokenLogprob, TopLogprob

if TYPE_CHECKING:
    from pyllm.completion import Logprob
    from pyllm.tokenizer import Tokenizer


def token_text(tokenizer: Tokenizer, token: int) -> str:
    """A token's text; where it is only a part of a character, its bytes as OpenAI writes them."""
    piece = tokenizer.piece_bytes(token)
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in piece)


def chat_logprobs(tokenizer: Tokenizer, logprobs: Sequence[Logprob] | None) -> ChatLogprobs | None:
    if logprobs is None:
        return None
    return ChatLogprobs(
        [
            TokenLogprob(
                token_text(tokenizer, item.token_id),
                item.logprob,
                list(tokenizer.piece_bytes(item.token_id)),
                [
                    TopLogprob(token_text(tokenizer, token), logprob, list(tokenizer.piece_bytes(token)))
                    for token, logprob in item.top
                ],
            )
            for item in logprobs
        ]
    )


class CompletionLogprobsWriter:
    """For one answer: offsets go on from one chunk to the next."""

    def __init__(self, tokenizer: Tokenizer, offset: int = 0) -> None:
        self._tokenizer = tokenizer
        self._offset = offset  # characters of the text before

    def write(self, items: Sequence[tuple[int, Logprob | None]]) -> CompletionLogprobs:
        """items: (token id, its log-probability, none for the first token of a text)."""
        out = CompletionLogprobs([], [], [], [])
        for token, item in items:
            out.tokens.append(token_text(self._tokenizer, token))
            out.token_logprobs.append(None if item is None else item.logprob)
            out.top_logprobs.append(
                None if item is None else {token_text(self._tokenizer, t): p for t, p in item.top}
            )
            out.text_offset.append(self._offset)
            self._offset += len(self._tokenizer.piece(token))
        return out
