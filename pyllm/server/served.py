"""A model that is served: what it is before it is loaded (Source), and once it is (ServedModel)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pyllm.parsers import Dialect, dialect_of

if TYPE_CHECKING:
    from pyllm.llm import LLM, Config
    from pyllm.server.engine import AsyncEngine


@dataclass(frozen=True)
class Source:
    """What can be loaded.

    id: its name in requests.
    load(kv_bytes): the model, ready to answer, with so much memory for keys and values; 0: decide by what is
    free. Called on a thread of its own.
    defaults: sampling parameters that its manifest recommends.
    path: of its file, for messages.
    config, context: as they will be; None and 0 where the file does not tell.
    size: bytes that it takes beside keys and values. kv_bytes: for those, when the user has said so.
    """

    id: str
    load: Callable[[int], LLM]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    path: str = ""
    config: Config | None = None
    context: int = 0
    size: int = 0
    kv_bytes: int = 0


@dataclass(frozen=True)
class ServedModel:
    """A loaded one."""

    id: str
    engine: AsyncEngine
    defaults: Mapping[str, Any] = field(default_factory=dict)

    @property
    def llm(self) -> LLM:
        return self.engine.llm

    @cached_property
    def dialect(self) -> Dialect:
        """How the model writes reasoning and tool calls."""
        dialect = dialect_of(self.llm.template.source, self.llm.config.architecture)
        return dialect if self.llm.template.takes_tools else dialect.told()

    @cached_property
    def visible_tokens(self) -> tuple[int, ...]:
        """Control tokens that the parser of answers must see."""
        return self.dialect.visible_tokens(self.llm.tokenizer)
