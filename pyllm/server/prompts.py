"""Texts as OpenAI's forms give them: one or several, each a text or token ids."""

from __future__ import annotations

from collections.abc import Sequence

from pyllm.server.errors import bad_request


def texts_or_tokens(given: str | Sequence[str | int | list[int]], name: str) -> list[str | list[int]]:
    """One or several. ApiError for a mixture; `name`: of the field."""
    if isinstance(given, str):
        return [given]
    ids = [item for item in given if isinstance(item, int)]
    if ids and len(ids) == len(given):
        return [ids]
    many = [item for item in given if not isinstance(item, int)]
    if len(many) < len(given) or len({type(item) for item in many}) > 1:
        raise bad_request(f"{name}: expected texts, token ids, or lists of token ids, got a mixture", name)
    return many
