"""What all routes share: the models that are served, whether they are ready, and the bounds on the work."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import msgspec

from pyllm.parsers import Dialect, Parser, dialect_of
from pyllm.server.admission import Admission
from pyllm.server.batches import BatchRunner
from pyllm.server.body import read_json
from pyllm.server.engine import AsyncEngine
from pyllm.server.errors import ApiError, not_ready
from pyllm.server.log import Log
from pyllm.server.metrics import Metrics

if TYPE_CHECKING:
    from starlette.requests import Request

    from pyllm.llm import LLM
    from pyllm.server.exchange import Exchange
    from pyllm.server.options import ServeOptions

_T = TypeVar("_T")
_Form = TypeVar("_Form", bound=msgspec.Struct)


@dataclass(frozen=True)
class ServedModel:
    """`id`: its name in requests. `defaults`: sampling parameters that its manifest recommends."""

    id: str
    engine: AsyncEngine
    defaults: Mapping[str, Any] = field(default_factory=dict)
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def llm(self) -> LLM:
        return self.engine.llm

    @cached_property
    def dialect(self) -> Dialect:
        """How the model writes reasoning and tool calls."""
        return dialect_of(self.llm.template.source, self.llm.config.architecture)

    @cached_property
    def visible_tokens(self) -> tuple[int, ...]:
        """Control tokens that the parser of answers must see."""
        return self.dialect.visible_tokens(self.llm.tokenizer)

    def parser(self, tools: list[dict[str, Any]] | None, prompt: str, dialect: Dialect) -> Parser | None:
        """For one answer: finds reasoning and calls of `tools`; none where there is nothing to find."""
        if tools is None and dialect.thinking is None and dialect.format != "gpt-oss":
            return None
        return dialect.parser(tools=tools, prompt=prompt)


class Service:
    """The server's state. All of it belongs to the event loop's thread."""

    def __init__(self, options: ServeOptions, log: Log | None = None) -> None:
        self.options = options
        self.log = log or Log(options.log_format)
        self.metrics = Metrics()
        self.admission = Admission(options.max_sequences + options.max_queue)
        self.draining = False
        self.batches = BatchRunner(self)
        self._served: ServedModel | None = None
        # Templates and tokenizers take milliseconds: the loop must not wait for them.
        self._workers = ThreadPoolExecutor(2, thread_name_prefix="pyllm-prompt")
        # Grammars take longer: nor must prompts wait for them.
        self._compilers = ThreadPoolExecutor(2, thread_name_prefix="pyllm-grammar")

    # -- models ------------------------------------------------------------------------------------------------

    def add(self, id: str, llm: LLM, defaults: Mapping[str, Any]) -> None:
        """Serves a loaded model. Called on the loop's thread."""
        engine = AsyncEngine(llm, asyncio.get_running_loop(), self.metrics.gap)
        self._served = ServedModel(id, engine, defaults)
        self.metrics.watch(llm.stats)

    @property
    def models(self) -> list[ServedModel]:
        return [self._served] if self._served else []

    def model(self, name: str | None) -> ServedModel:
        """The model that a request names, the first when it names none. ApiError 404; 503 until loaded."""
        self.check_ready()
        for model in self.models:
            if name is None or name == model.id:
                return model
        served = ", ".join(model.id for model in self.models)
        raise ApiError(
            404,
            f"model: {name!r:.120} is not served here, expected {served}",
            param="model",
            code="model_not_found",
        )

    # -- state -------------------------------------------------------------------------------------------------

    @property
    def state(self) -> tuple[Literal["ok", "loading", "draining", "broken"], str]:
        """One word, and why."""
        for model in self.models:
            if model.engine.broken:
                return "broken", model.engine.broken
        if self.draining:
            return "draining", "the server is shutting down"
        if not self.models:
            return "loading", "the model is being loaded"
        return "ok", ""

    def check_ready(self) -> None:
        """ApiError 503 unless requests can be answered."""
        state, reason = self.state
        if state != "ok":
            raise not_ready(reason)

    def fail_all(self, reason: str) -> None:
        """Every request under way ends with an error."""
        for model in self.models:
            model.engine.fail_all(not_ready(reason))

    def close(self) -> None:
        """Ends the engines."""
        self._workers.shutdown(wait=False, cancel_futures=True)
        self._compilers.shutdown(wait=False, cancel_futures=True)
        for model in self.models:
            model.llm.close()

    # -- for routes --------------------------------------------------------------------------------------------

    async def read(self, request: Request, form: type[_Form]) -> tuple[_Form, dict[str, Any]]:
        """The request's JSON as `form` and as plain values."""
        return await read_json(request, form, self.options)

    async def in_worker(self, work: Callable[[], _T], compiles: bool = False) -> _T:
        """Runs `work` beside the loop; compiles: it makes a grammar."""
        pool = self._compilers if compiles else self._workers
        return await asyncio.get_running_loop().run_in_executor(pool, work)

    def salt(self, exchange: Exchange, cache_salt: str | None) -> str:
        """Keeps one caller's cached prompts from another's: how fast an answer comes would tell of them."""
        if not exchange.caller and not cache_salt:
            return ""
        return hashlib.sha256(f"{exchange.caller}\0{cache_salt or ''}".encode("utf-8", "replace")).hexdigest()
