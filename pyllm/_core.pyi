"""The C++ core. One class or function per line of cpp/python/bind_*.cc."""

import os
from collections.abc import Sequence
from typing import Any, Literal, Protocol, TypeAlias, TypeVar, overload

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
    @property
    def identities(self) -> list[tuple[int, ...]]: ...
    def keys(self) -> list[str]: ...
    def __contains__(self, key: str) -> bool: ...
    @overload
    def get(self, key: str) -> MetadataValue | None: ...
    @overload
    def get(self, key: str, default: _Default) -> MetadataValue | _Default: ...
    def value_type(self, key: str) -> tuple[str, str | None]: ...
    def numbers(self, key: str) -> list[int] | list[float] | None: ...
    def string_bytes(self, key: str) -> list[bytes]: ...
    @property
    def tensors(self) -> list[TensorInfo]: ...
    def tensor_data(self, name: str) -> npt.NDArray[np.uint8]: ...
    def replace(self, name: str, type: str, data: npt.NDArray[np.uint8]) -> None: ...

# -- bind_quant.cc ---------------------------------------------------------------------------------------------

Buffer: TypeAlias = bytes | bytearray | memoryview | npt.NDArray[np.generic]

def quant_types() -> list[str]: ...
def dequantize(type: str, data: Buffer, n: int) -> npt.NDArray[np.float32]: ...
def written_types() -> list[str]: ...
def quantize(
    type: str,
    source_type: str,
    data: Buffer,
    columns: int,
    importance: npt.NDArray[np.float32] | None = None,
    repair: bool = False,
    threads: int = 0,
) -> npt.NDArray[np.uint8]: ...

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

# -- bind_packed.cc --------------------------------------------------------------------------------------------

class PackedPiece:
    @property
    def name(self) -> str: ...
    def __buffer__(self, flags: int) -> memoryview: ...

class PackedWeights:
    @overload
    def __init__(self) -> None: ...
    @overload
    def __init__(self, fd: int, places: Sequence[tuple[str, int, int]]) -> None: ...
    @property
    def packed(self) -> int: ...
    @property
    def mapped_bytes(self) -> int: ...
    def cancel(self) -> None: ...
    @property
    def pieces(self) -> list[PackedPiece]: ...

def packing_fingerprint() -> int: ...

# -- bind_engine.cc --------------------------------------------------------------------------------------------

class Activations:
    def __init__(self) -> None: ...
    def inputs(self) -> dict[str, tuple[npt.NDArray[np.float64], int]]: ...
    def layers(self) -> list[tuple[float, int]]: ...

class Model:
    def __init__(
        self,
        file: GgufFile,
        threads: int = 0,
        isa: str = "",
        precise: bool = False,
        pack: bool = True,
        packed: PackedWeights | None = None,
        kv_type: str = "f16",
        layer_devices: Sequence[int] = (),
        embedding_device: int = -1,
        head_device: int = -1,
        activations: Activations | None = None,
    ) -> None: ...
    @property
    def architecture(self) -> str: ...
    @property
    def vocab(self) -> int: ...
    @property
    def context_length(self) -> int: ...
    @property
    def dim(self) -> int: ...
    @property
    def layers(self) -> int: ...
    @property
    def kv_block_bytes(self) -> int: ...

class Event:
    @property
    def id(self) -> int: ...
    @property
    def index(self) -> int: ...
    @property
    def token(self) -> int | None: ...
    @property
    def logprob(self) -> float: ...
    @property
    def top_logprobs(self) -> list[tuple[int, float]]: ...
    @property
    def finish_reason(self) -> Literal["stop", "length", "cancelled", "error"] | None: ...
    @property
    def detail(self) -> str: ...
    @property
    def prompt_tokens(self) -> int: ...
    @property
    def cached_tokens(self) -> int: ...
    @property
    def queue_s(self) -> float: ...
    @property
    def logits(self) -> npt.NDArray[np.float32] | None: ...
    @property
    def scores(self) -> npt.NDArray[np.float32] | None: ...
    @property
    def embedding(self) -> npt.NDArray[np.float32] | None: ...

class MaskSource(Protocol):
    """Says which tokens may come next in the streams of constrained requests."""

    def fill(self, states: list[Any], tokens: list[list[int]], address: int, row_bytes: int) -> list[str]:
        """Writes one mask a state: bit i % 32 of its uint32 i // 32 is set when token i may come next.

        states: of the requests' streams. tokens: that each has got since it was last asked for. address: of
        row_bytes bytes a mask. Returns why there is no mask, "" for each that has one. Called from a thread of
        the engine.
        """

class Engine:
    def __init__(
        self,
        model: Model,
        kv_bytes: int = 0,
        context: int = 0,
        max_batch_tokens: int = 512,
        max_sequences: int = 0,
        prefix_cache: bool = True,
        eos: Sequence[int] | None = None,
        scratch_bytes: int = 0,
        masks: MaskSource | None = None,
    ) -> None: ...
    def submit(
        self,
        id: int,
        tokens: Sequence[int] | npt.NDArray[np.integer],
        params: SamplingParams,
        priority: int = 0,
        cache_salt: str = "",
        want_logits: bool = False,
        pooling: Literal["last", "mean"] | None = None,
        score_from: int | None = None,
        constraint: list[Any] = ...,
    ) -> None: ...
    def cancel(self, id: int) -> None: ...
    def step(self, timeout_s: float | None = None) -> list[Event]: ...
    def wake(self) -> None: ...
    def read_kv(self, tokens: Sequence[int], first: int, count: int, cache_salt: str = "") -> bytes:
        """Keys and values that the prefix cache holds of `tokens`: of at most `count` blocks of 16 tokens from
        block `first` on, kv_block_bytes each. Waits for the current step."""

    def write_kv(self, tokens: Sequence[int], first: int, data: bytes, cache_salt: str = "") -> int:
        """Puts such bytes into the prefix cache, as far as there is room; the blocks of `tokens` that are then
        cached. PyllmError when bytes and tokens do not fit together."""

    def stats(self) -> dict[str, int]: ...
    @property
    def context(self) -> int: ...
    @property
    def kv_blocks(self) -> int: ...
    @property
    def kv_block_bytes(self) -> int: ...

def layer_count(file: GgufFile) -> int: ...
def known_architectures() -> list[str]: ...
def available_memory(root: str = "") -> int: ...

# -- bind_device.cc --------------------------------------------------------------------------------------------

def devices() -> tuple[list[dict[str, Any]], str]:
    """GPUs by their number, as cpp/backend/cuda/entry.h describes them, and why there is none."""

def matrix_bytes(type: str, rows: int, cols: int, on_device: bool = False) -> int:
    """Bytes of a weight once it is loaded, packed on the CPU; -1 when it cannot be multiplied."""

def kv_pool_blocks(
    rooms: Sequence[tuple[int, int, int, bool]], context: int, sequences: int, kv_bytes: int = 0
) -> int:
    """Blocks of 16 tokens. rooms: block bytes, available, mapped weights, device's own (engine/kv_size.h)."""

# -- bind_tokenizer.cc -----------------------------------------------------------------------------------------

class PieceTokenizer:
    @staticmethod
    def from_scores(
        tokens: Sequence[bytes],
        scores: Sequence[float],
        usable: bytes,
        byte_tokens: Sequence[int],
        unknown: int,
    ) -> PieceTokenizer: ...
    @staticmethod
    def from_merges(
        tokens: Sequence[bytes],
        merges: Sequence[bytes],
        usable: bytes,
        byte_tokens: Sequence[int],
        unknown: int,
    ) -> PieceTokenizer: ...
    def encode(self, text: str) -> list[int]: ...
    def encode_words(self, words: Sequence[tuple[str, object]], whole: bool) -> list[int]: ...

class SpecialTokens:
    def __init__(self, tokens: Sequence[tuple[str, int, bool, bool, bool]]) -> None: ...
    def split(self, segments: Sequence[tuple[str, bool]]) -> list[int | str]: ...

# -- bind_ops.cc -----------------------------------------------------------------------------------------------

def isas(built: bool = False) -> list[str]:
    """Instruction sets usable here, the best first; with `built`, all that this build has kernels for."""

def active_isa(isa: str = "") -> str:
    """The one that is used: `isa`, else PYLLM_ISA, else the best. PyllmError when it can not be used here."""

def kv_block_bytes(kv_type: str, kv_heads: int, head_dim: int) -> int:
    """Bytes of the keys and values of 16 tokens in one layer."""

def cpu_threads() -> int:
    """Processors that this process may use, by affinity and control group."""

def measure_ceilings(threads: int = 0, isa: str = "") -> dict[str, float]:
    """What the machine can do: {"read_gbps", "int8_tops"}. Takes about a second."""

ops: Any  # single operations of the backend, for tests
