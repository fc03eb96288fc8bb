"""The C++ core. One class or function per line of cpp/python/bind_*.cc."""

import os
from collections.abc import Sequence
from typing import Any, TypeAlias, TypeVar, overload

import numpy as np
import numpy.typing as npt

# -- bind_gguf.cc ----------------------------------------------------------------------------------------------

MetadataValue: TypeAlias = (
    bool | int | float | str | npt.NDArray[np.generic] | list["MetadataValue"] | list[str]
)
_Default = TypeVar("_Default")

class TensorInfo:
    @property
    def name(self) -> str: ...
    @property
    def type(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def n_bytes(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def file(self) -> int: ...

class GgufFile:
    def __init__(self, path: str | os.PathLike[str]) -> None: ...
    @property
    def path(self) -> str: ...
    @property
    def paths(self) -> list[str]: ...
    @property
    def version(self) -> int: ...
    @property
    def alignment(self) -> int: ...
    @property
    def file_bytes(self) -> int: ...
    def keys(self) -> list[str]: ...
    def __contains__(self, key: str) -> bool: ...
    @overload
    def get(self, key: str) -> MetadataValue | None: ...
    @overload
    def get(self, key: str, default: _Default) -> MetadataValue | _Default: ...
    def string_bytes(self, key: str) -> list[bytes]: ...
    @property
    def tensors(self) -> list[TensorInfo]: ...
    def tensor_data(self, name: str) -> npt.NDArray[np.uint8]: ...

# -- bind_quant.cc ---------------------------------------------------------------------------------------------

Buffer: TypeAlias = bytes | bytearray | memoryview | npt.NDArray[np.generic]

def quant_types() -> list[str]: ...
def dequantize(type: str, data: Buffer, n: int) -> npt.NDArray[np.float32]: ...

# -- bind_sampler.cc -------------------------------------------------------------------------------------------

class SamplingParams:
    """As the engine takes them: token ids, no text. Every field is a keyword: cpp/engine/sampling_params.h."""

    def __init__(self, **fields: object) -> None: ...
    def validate(self, vocab: int) -> None: ...
    @property
    def max_tokens(self) -> int: ...
    @property
    def n(self) -> int: ...

# `_core.testing.Sampler` and its like are for tests alone.
testing: Any

# -- bind_engine.cc --------------------------------------------------------------------------------------------

class Model:
    """Weights, packed and ready. Loading releases the GIL."""

    def __init__(self, file: GgufFile, threads: int = 0, isa: str = "") -> None: ...

class Event:
    """What a step did for a request. `token` is -1 when the event only ends it."""

    @property
    def id(self) -> int: ...
    @property
    def index(self) -> int: ...  # which of the n sequences
    @property
    def token(self) -> int: ...
    @property
    def logprob(self) -> float: ...
    @property
    def top_logprobs(self) -> list[tuple[int, float]]: ...
    @property
    def finish_reason(self) -> str: ...  # "": goes on; "stop", "length", "error"
    @property
    def error(self) -> str: ...
    @property
    def cached_tokens(self) -> int: ...
    @property
    def logits(self) -> npt.NDArray[np.float32] | None: ...  # [token, vocab] of submit_logits

class Engine:
    def __init__(
        self,
        model: Model,
        *,
        eos: Sequence[int] = (),
        context: int = 0,
        kv_bytes: int = 0,
        max_batch_tokens: int = 512,
        max_sequences: int = 64,
        prefix_cache: bool = True,
    ) -> None: ...
    @property
    def context(self) -> int: ...
    def submit(self, id: int, tokens: Sequence[int], params: SamplingParams) -> None: ...
    def submit_logits(self, id: int, tokens: Sequence[int]) -> None: ...
    def cancel(self, id: int) -> None: ...
    def step(self) -> list[Event]:
        """One step; waits while there is nothing to do. An empty list after close()."""

    def close(self) -> None:
        """Wakes step(); from any thread."""

    def stats(self) -> dict[str, float]: ...
