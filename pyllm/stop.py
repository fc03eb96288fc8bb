"""Stop strings in a stream of text: found across token borders, and never shown in part."""

from __future__ import annotations

from collections.abc import Sequence


class StopMatcher:
    """Passes text on until one of `stops` completes; what might still become one is held back.

    Where several could match, the one that completes first counts (of those, the longest), so the outcome does
    not depend on how the text is cut into pieces.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self.matched: str | None = None
        # The longest first. Knuth, Morris and Pratt: how far each stop has matched, and where to fall back to.
        self._stops = sorted(stops, key=len, reverse=True)
        self._falls = [_fallbacks(stop) for stop in self._stops]
        self._states = [0] * len(self._stops)
        self._held = ""

    def push(self, text: str) -> str:
        """The text that is safe to show now; "" once a stop string has matched."""
        if not self._stops:
            return text
        if self.matched is not None:
            return ""
        text, start = self._held + text, len(self._held)
        for end in range(start, len(text)):
            for i, stop in enumerate(self._stops):
                state = self._states[i]
                while state and stop[state] != text[end]:
                    state = self._falls[i][state - 1]
                state += stop[state] == text[end]
                if state == len(stop):
                    self.matched, self._held = stop, ""
                    return text[: end + 1 - len(stop)]
                self._states[i] = state
        safe = len(text) - max(self._states)
        self._held = text[safe:]
        return text[:safe]

    def flush(self) -> str:
        """What was held back, when no more text comes."""
        held, self._held = self._held, ""
        return held


def _fallbacks(stop: str) -> list[int]:
    """[i]: length of the longest proper prefix of stop[:i + 1] that also ends it."""
    falls = [0] * len(stop)
    state = 0
    for i in range(1, len(stop)):
        while state and stop[i] != stop[state]:
            state = falls[state - 1]
        state += stop[i] == stop[state]
        falls[i] = state
    return falls
