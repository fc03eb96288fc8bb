"""How far two sets of logits are apart, position by position."""

from __future__ import annotations

import numpy as np


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """float64 log-probabilities of [token, vocabulary] logits."""
    x = logits.astype(np.float64)
    x -= x.max(axis=1, keepdims=True)
    x -= np.log(np.exp(x).sum(axis=1, keepdims=True))
    return x


def kl_divergence(reference: np.ndarray, other: np.ndarray, rows: int = 64) -> np.ndarray:
    """KL(reference || other) of each position, in nats: float64 [token]."""
    out = np.empty(len(reference))
    for first in range(0, len(reference), rows):
        part = slice(first, first + rows)
        p, q = log_softmax(reference[part]), log_softmax(other[part])
        out[part] = (np.exp(p) * (p - q)).sum(axis=1)
    return out


def top_two_gap(logits: np.ndarray) -> np.ndarray:
    """Distance of the best from the second-best logit: float32 [token]."""
    best = np.partition(logits, -2, axis=1)[:, -2:]
    return np.abs(best[:, 1] - best[:, 0])
