"""A server that speaks OpenAI's chat completions; pyllm's own tells more."""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from pyllm.chat.engine import Done, Messages, Part, Prompt
from pyllm.completion import Timings, Usage
from pyllm.errors import PyllmError

if TYPE_CHECKING:
    from pathlib import Path

    import httpx

    from pyllm.constraint import Constraint
    from pyllm.sampling import SamplingParams

# SamplingParams that OpenAI's form has; pyllm's servers take the others too.
_STANDARD = ("temperature", "top_p", "presence_penalty", "frequency_penalty", "seed", "max_tokens")
_MORE = (
    "top_k",
    "min_p",
    "typical_p",
    "top_n_sigma",
    "repetition_penalty",
    "penalty_last_n",
    "dry_multiplier",
    "dry_base",
    "dry_allowed_length",
    "dry_penalty_last_n",
    "xtc_probability",
    "xtc_threshold",
    "mirostat_tau",
    "mirostat_eta",
    "min_tokens",
    "ignore_eos",
)


class RemoteEngine:
    """See Engine."""

    def __init__(self, url: str, model: str | None = None, key: str = "") -> None:
        """url: with or without /v1. PyllmError when nobody answers there or it has no such model."""
        import httpx

        self._base = url.rstrip("/").removesuffix("/v1")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = httpx.Client(timeout=httpx.Timeout(10, read=600), headers=headers)
        try:
            cards = self._json("GET", "/v1/models").get("data") or []
            self._cards = {card["id"]: card for card in cards if isinstance(card.get("id"), str)}
        except (AttributeError, TypeError, KeyError):
            raise PyllmError(
                f"{self._base}/v1/models: expected a list of models; is it an OpenAI server?"
            ) from None
        if model is not None and model not in self._cards:
            raise PyllmError(f"{self._base} has no model {model!r}, but {', '.join(self._cards) or 'none'}")
        if not self._cards:
            raise PyllmError(f"{self._base} has no model")
        self.name = model or next(iter(self._cards))
        card = self._cards[self.name]
        self._ours = card.get("owned_by") == "pyllm"
        self.context = _whole(card.get("max_model_len")) or _whole(card.get("context_length"))
        self.thinks = True  # unknown: what comes as reasoning is shown as such
        self.note = ""
        self.kv_bytes_per_token = 0

    @property
    def models(self) -> list[str]:
        return list(self._cards)

    def prompt(self, messages: Messages, think: bool = True) -> Prompt:
        started = time.perf_counter()
        arguments = {} if think else {"enable_thinking": False}
        tokens: list[int] = []
        if self._ours:
            asked = {"model": self.name, "messages": messages, "chat_template_kwargs": arguments}
            tokens = self._json("POST", "/tokenize", asked).get("tokens") or []
        return Prompt(messages, tokens, arguments, time.perf_counter() - started)

    def count(self, text: str) -> int | None:
        if not self._ours:
            return None
        return _whole(self._json("POST", "/tokenize", {"model": self.name, "content": text}).get("count"))

    def start(self, prompt: Prompt, params: SamplingParams, chosen: Set[str] = frozenset()) -> RemoteStream:
        asked: dict[str, Any] = {
            "model": self.name,
            "messages": prompt.messages,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        # What the user has not chosen is the server's own choice.
        for name in _STANDARD + (_MORE if self._ours else ()):
            if name in chosen and getattr(params, name) is not None:
                asked[name] = getattr(params, name)
        asked["n"] = params.n
        if params.stop:
            asked["stop"] = list(params.stop)
        if prompt.arguments:
            asked["chat_template_kwargs"] = dict(prompt.arguments)
        if params.constraint is not None:
            schema = json.loads(params.constraint.text)
            asked["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": "answer", "schema": schema},
            }
        return RemoteStream(self._http, f"{self._base}/v1/chat/completions", asked)

    def check(self, constraint: Constraint) -> None:
        pass  # the server tells with the first answer

    def warm(self, messages: Messages) -> None:
        pass  # the server's work is not ours to spend

    def save_kv(self, tokens: Sequence[int], path: Path, stop: Callable[[], None]) -> int:
        return 0

    def load_kv(self, path: Path) -> list[int]:
        return []

    def token(self, id: int) -> None:
        return None

    def stats(self) -> Mapping[str, int]:
        return {}

    def close(self) -> None:
        self._http.close()

    def _json(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        import httpx

        try:
            response = self._http.request(method, self._base + path, json=body, timeout=10)
            if response.status_code != 200:
                raise PyllmError(_refusal(self._base, response.status_code, response.text))
            document = response.json()
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise PyllmError(f"{self._base}: {error or type(error).__name__}") from None
        except ValueError:
            raise PyllmError(f"{self._base}{path}: expected JSON; is it an OpenAI server?") from None
        if not isinstance(document, dict):
            raise PyllmError(f"{self._base}{path}: expected a JSON object; is it an OpenAI server?")
        return document


class RemoteStream:
    """See Stream. A thread reads, so that waiting can end."""

    def __init__(self, http: httpx.Client, url: str, asked: dict[str, Any]) -> None:
        self._http = http
        self._url = url
        self._asked = asked
        self._parts: queue.SimpleQueue[Part | Exception] = queue.SimpleQueue()
        self._closed = False
        self._response: httpx.Response | None = None
        self._counts: dict[int, int] = {}  # answer -> pieces
        self._ends: dict[int, str] = {}
        self._usage = Usage()
        self._timings: Timings | None = None
        threading.Thread(target=self._read, name="pyllm-chat-http", daemon=True).start()

    def next(self, timeout: float) -> list[Part]:
        found: list[Part] = []
        try:
            came = self._parts.get(timeout=timeout)
            while True:
                if isinstance(came, Exception):
                    if not found:
                        raise came
                    self._parts.put(came)  # first what came before it
                    return found
                found.append(came)
                came = self._parts.get_nowait()
        except queue.Empty:
            return found

    def close(self) -> None:
        self._closed = True

    def _read(self) -> None:
        import httpx

        started = time.perf_counter()
        first = last = 0.0
        try:
            with self._http.stream("POST", self._url, json=self._asked) as response:
                if response.status_code != 200:
                    text = response.read().decode("utf-8", "replace")
                    raise PyllmError(_refusal(self._url, response.status_code, text))
                for line in response.iter_lines():
                    if self._closed:
                        return  # which hangs up, and so ends the generation
                    data = line[5:].strip() if line.startswith("data:") else ""
                    if data == "[DONE]":
                        break
                    if data:
                        last = time.perf_counter()
                        first = first or last
                        self._take(json.loads(data))
            if len(self._ends) < self._asked.get("n", 1):
                raise PyllmError(f"{self._url}: the answer broke off")
            tokens = self._usage.completion_tokens
            took = Timings(first_token_s=first - started, decode_s=last - first)
            if tokens > 1 and last > first:
                took = Timings(0, 0, first - started, last - first, 0, (tokens - 1) / (last - first))
            for answer, finish in self._ends.items():
                done = Done(finish, "", self._usage, self._timings or took)
                self._parts.put(Part(answer, done=done))
        except PyllmError as error:
            self._parts.put(error)
        except (httpx.HTTPError, httpx.StreamError) as error:
            self._parts.put(PyllmError(f"{self._url}: {error or type(error).__name__}"))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            self._parts.put(PyllmError(f"{self._url}: expected OpenAI's chunks, got {error!r:.80}"))

    def _take(self, chunk: dict[str, Any]) -> None:
        if error := chunk.get("error"):
            raise PyllmError(f"{self._url}: {_message(error)}")
        if usage := chunk.get("usage"):
            cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens")
            counts = (usage.get("prompt_tokens"), usage.get("completion_tokens"), cached)
            self._usage = Usage(*map(_whole, counts))
        if timings := chunk.get("timings"):
            names = {field.name for field in fields(Timings)}
            self._timings = Timings(**{name: float(timings[name]) for name in names & timings.keys()})
        for choice in chunk.get("choices") or []:
            delta = choice.get("delta") or {}
            text = delta.get("content") or ""
            reasoning = delta.get("reasoning_content") or delta.get("reasoning") or ""
            answer = _whole(choice.get("index"))
            if text or reasoning:
                self._parts.put(Part(answer, str(text), str(reasoning), 1))
            if finish := choice.get("finish_reason"):
                self._ends[answer] = str(finish)


def _refusal(url: str, status: int, text: str) -> str:
    try:
        document = json.loads(text)
        said = _message(document.get("error", document))
    except (ValueError, AttributeError, RecursionError):
        said = text.strip()[:200]
    hint = "; the key is PYLLM_API_KEY" if status in (401, 403) else ""
    return f"{url}: {status} {said}{hint}"


def _message(error: Any) -> str:
    return str(error.get("message") or error)[:500] if isinstance(error, dict) else str(error)[:500]


def _whole(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0
