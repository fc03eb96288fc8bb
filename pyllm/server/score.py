"""Log-probabilities of a prompt's own tokens, as evaluation programs ask for them."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

from pyllm.completion import Logprob

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from pyllm.llm import LLM


def prompt_logprobs(
    llm: LLM, tokens: Sequence[int], top: int, stop: threading.Event, options: Mapping[str, Any]
) -> list[Logprob | None]:
    """One per token, none for the first: nothing comes before it. `top`: how many of the most probable tokens
    at each place. Ends early, with what it has, once `stop` is set."""
    out: list[Logprob | None] = [None]
    with closing(llm.logits_in_parts(tokens, **options)) as parts:
        for rows in parts:
            for row in rows:
                if len(out) == len(tokens) or stop.is_set():
                    return out
                out.append(_logprob(row, tokens[len(out)], top))
    return out


def _logprob(logits: npt.NDArray[np.float32], token: int, top: int) -> Logprob:
    import numpy as np

    values = logits.astype(np.float64)
    values -= values.max()
    values -= np.log(np.exp(values).sum())
    best = np.argpartition(-values, min(top, len(values) - 1))[:top] if top else np.empty(0, int)
    best = best[np.argsort(-values[best], kind="stable")]
    return Logprob(token, float(values[token]), tuple((int(i), float(values[i])) for i in best))
