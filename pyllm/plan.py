"""Which layers go where, and what memory that takes: decided before anything is loaded.

Layers go to the GPU from the last one down, with the head behind them: the stream of a token crosses from the
CPU to the GPU once. The embedding table stays on the CPU, where its rows are only looked up, unless everything
else is on the GPU and there is room.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pyllm.devices import Device, choose_device
from pyllm.errors import PyllmError
from pyllm.needs import BLOCK, Needs
from pyllm.progress import megabytes

if TYPE_CHECKING:
    from pyllm import _core

CPU = -1
GPU_KV_TYPES = ("f16", "q8_0")
USUAL_CONTEXT = 4096  # tokens that a GPU's layers keep room for, unless the user names a context
MARGIN = 32  # a GPU's total memory over this stays free: fragments, and what its driver takes later


@dataclass(frozen=True)
class Demand:
    """What the user asks for, as LLM takes it. gpu_layers: None for as many as fit. Zeros: decide."""

    gpu_layers: int | None = None
    context: int = 0
    kv_bytes: int = 0
    max_batch_tokens: int = 512
    max_sequences: int = 0
    kv_type: str = "f16"
    pack: bool = True

    @property
    def sequences(self) -> int:
        return self.max_sequences or min(64, self.max_batch_tokens)


@dataclass(frozen=True)
class Place:
    """A memory and what of the model lies in it; bytes. available: before the model is loaded."""

    device: Device | None  # None: the host's
    available: int
    layers: tuple[int, ...]
    weights: int
    read: int  # of them for every token
    kv: int
    scratch: int

    @property
    def number(self) -> int:
        return self.device.number if self.device else CPU

    def __str__(self) -> str:
        return str(self.device) if self.device else "cpu"


@dataclass(frozen=True)
class Plan:
    """layer_devices: the GPU of each layer, CPU for none; problem: why it does not fit, empty when it does."""

    layer_devices: tuple[int, ...]
    embedding_device: int
    head_device: int
    places: tuple[Place, ...]
    context: int  # tokens that one sequence may have
    kv_tokens: int  # that all sequences share
    kv_bytes_per_token: int
    sequences: int  # of that context at once
    longest_context: int  # of a sequence alone
    reserve: int = 0  # bytes that must stay free on the GPU beside weights, keys and values
    problem: str = ""
    weights_problem: str = ""  # the part of it that is about weights in the host's memory

    def check_weights(self) -> None:
        """PyllmError when the host's memory does not hold the weights that are to be there."""
        if self.weights_problem:
            raise PyllmError(self.weights_problem)

    @property
    def gpu_layers(self) -> int:
        return sum(device != CPU for device in self.layer_devices)

    @property
    def uses_device(self) -> bool:
        return any(device != CPU for device in (*self.layer_devices, self.embedding_device, self.head_device))

    def describe(self) -> str:
        """'cpu', or 'cuda:0: NVIDIA H100, 20 of 32 layers'."""
        told = [
            f"{place}: {place.device.name}, {len(place.layers)} of {len(self.layer_devices)} layers"
            for place in self.places
            if place.device
        ]
        return "; ".join(told) or "cpu"


def plan_model(file: _core.GgufFile, device: str, demand: Demand) -> Plan:
    """The plan for the model in `file` on this machine now. PyllmError when a device that was asked for is not
    there, or the model does not fit on it; what does not fit in the host's memory is the plan's `problem`."""
    from pyllm import _core

    if (layers := demand.gpu_layers) is not None and layers < 0:
        raise PyllmError(f"gpu_layers: expected a number of layers, 0 or more, got {layers}")
    chosen = choose_device(device)
    if layers and chosen is None:
        if device != "auto":
            raise PyllmError(f"gpu_layers: {layers} layers on a GPU and device {device} exclude each other")
        try:
            choose_device("cuda")  # says why there is none
        except PyllmError as error:
            raise PyllmError(f"gpu_layers: {layers} layers on a GPU, {error}") from None
    if layers == 0:
        chosen = None
    if chosen and demand.kv_type not in GPU_KV_TYPES:
        if layers or device != "auto":
            raise PyllmError(
                f"kv_type: a GPU keeps {' or '.join(GPU_KV_TYPES)}, got {demand.kv_type}; "
                "the CPU has it: --device cpu"
            )
        chosen = None
    needs = Needs.of(file, demand.kv_type, pack=demand.pack, device=chosen is not None)
    must = chosen is not None and device != "auto"
    return make_plan(needs, _core.available_memory(), chosen, demand, must_use_device=must)


def make_plan(
    needs: Needs, available: int, device: Device | None, demand: Demand, *, must_use_device: bool = False
) -> Plan:
    """The plan for a model of these sizes, with `available` bytes of host memory (0: unknown) and maybe a GPU.

    PyllmError when the layers that demand.gpu_layers names, or with must_use_device a single one, do not fit on
    the GPU.
    """
    made_for = needs.context_length
    if not 0 <= demand.context <= made_for:
        raise PyllmError(
            f"context: expected 1 to {made_for}, the length that the model was made for (0 means that), got "
            f"{demand.context}"
        )
    context = demand.context or made_for
    scratch = needs.scratch_bytes(demand.max_batch_tokens, demand.sequences)
    split = _split(needs, device, demand, scratch, must_use_device)
    parts = [_Part(None, available)]
    if device is not None and split.layers:
        parts.append(_Part(device, device.free_bytes))
    gpu = range(len(needs.layers) - split.layers, len(needs.layers))
    for part in parts:
        on_gpu = part.device is not None
        part.layers = [i for i in range(len(needs.layers)) if (i in gpu) == on_gpu]
        part.kv_block = sum(needs.kv_block[i] for i in part.layers)
        read = [needs.layers[i] for i in part.layers]
        read += [needs.head] if split.head == on_gpu else []
        looked_up = [needs.embedding] if split.embedding == on_gpu else []
        part.read = sum(size.file for size in read)
        part.weights = sum((size.device or 0) if on_gpu else size.host for size in (*read, *looked_up))
    number = device.number if device else CPU
    problem, blocks, longest = "", 0, 0
    try:
        blocks = _blocks(parts, split.reserve, context, demand.sequences, demand.kv_bytes)
        longest = BLOCK * _blocks(parts, split.reserve, made_for, 1, demand.kv_bytes)
    except PyllmError as error:
        problem = str(error)
    weights_problem = ""
    if demand.pack and 0 < available < parts[0].weights:
        weights_problem = (
            f"the weights on the CPU take {megabytes(parts[0].weights)}, and {megabytes(available)} of memory "
            "are available; a smaller model or quantization may fit, and --no-pack (pack=False) runs from the "
            "file, slowly"
        )
    return Plan(
        layer_devices=tuple(number if i in gpu else CPU for i in range(len(needs.layers))),
        embedding_device=number if split.embedding else CPU,
        head_device=number if split.head else CPU,
        places=tuple(
            Place(p.device, p.available, tuple(p.layers), p.weights, p.read, blocks * p.kv_block, scratch)
            for p in parts
            if p.device or p.weights
        ),
        context=min(context, BLOCK * blocks),
        kv_tokens=BLOCK * blocks,
        kv_bytes_per_token=needs.kv_bytes_per_token(),
        sequences=min(demand.sequences, BLOCK * blocks // context or min(1, blocks)),
        longest_context=min(longest, made_for),
        reserve=split.reserve,
        problem=weights_problem or problem,
        weights_problem=weights_problem,
    )


@dataclass
class _Part:
    device: Device | None
    available: int
    layers: list[int] = field(default_factory=list)
    kv_block: int = 0
    weights: int = 0
    read: int = 0


def _blocks(parts: list[_Part], reserve: int, context: int, sequences: int, kv_bytes: int) -> int:
    """As the engine will decide once the weights are loaded."""
    from pyllm import _core

    rooms = []
    for part in parts:
        if part.layers and part.device:
            rooms.append((part.kv_block, part.available - part.weights - reserve, 0, True))
        elif part.layers:
            rooms.append((part.kv_block, part.available, part.weights, False))
    return _core.kv_pool_blocks(rooms, context, sequences, kv_bytes)


@dataclass(frozen=True)
class _Split:
    """How many of the last layers go to the GPU, and whether the head and the embedding table do."""

    layers: int = 0
    head: bool = False
    embedding: bool = False
    reserve: int = 0  # of the GPU's memory


def _split(needs: Needs, device: Device | None, demand: Demand, scratch: int, must_use_device: bool) -> _Split:
    if device is None or demand.gpu_layers == 0:
        return _Split()
    count = len(needs.layers)
    reserve = scratch + device.total_bytes // MARGIN
    room = device.free_bytes - reserve
    blocks = _wanted_blocks(needs, demand)
    costs = [  # of each layer with its keys and values, the last one first
        None if size.device is None else size.device + blocks * kv
        for size, kv in zip(reversed(needs.layers), reversed(needs.kv_block), strict=True)
    ]
    head = needs.head.device
    alone, beside_head = _fit(costs, room), 0 if head is None else _fit(costs, room - head)
    layers = (beside_head or alone) if demand.gpu_layers is None else min(demand.gpu_layers, count)
    if layers > alone or (must_use_device and not layers):
        raise PyllmError(_refusal(needs, device, max(1, layers), alone, costs, reserve, scratch))
    with_head = 0 < layers <= beside_head
    used = sum(cost or 0 for cost in costs[:layers]) + (head or 0) + (needs.embedding.device or 0)
    return _Split(layers, with_head, with_head and layers == count and used <= room, reserve)


def _wanted_blocks(needs: Needs, demand: Demand) -> int:
    """Blocks of keys and values that layers on the GPU keep room for."""
    if demand.kv_bytes:
        return -(-demand.kv_bytes // max(1, sum(needs.kv_block)))
    return -(-(demand.context or min(needs.context_length, USUAL_CONTEXT)) // BLOCK)


def _refusal(
    needs: Needs, device: Device, wanted: int, fit: int, costs: list[int | None], reserve: int, scratch: int
) -> str:
    count = len(costs)
    if None in costs[:wanted]:
        layer = count - 1 - costs.index(None)
        return f"{device}: blk.{layer}: its weights have a type that the GPU cannot multiply"
    weights = sum(size.device or 0 for size in needs.layers[count - wanted :])
    keys = sum(cost or 0 for cost in costs[:wanted]) - weights
    return (
        f"{device} ({device.name}): {wanted} of {count} layers need {megabytes(weights)} for weights, "
        f"{megabytes(keys)} for keys and values and {megabytes(scratch)} to compute; "
        f"{megabytes(device.free_bytes)} of {megabytes(device.total_bytes)} are free, of which "
        f"{megabytes(reserve - scratch)} stay so. {fit} layers fit"
        f"{f': --gpu-layers {fit}' if fit else ''}; less --context leaves room for more"
    )


def _fit(costs: list[int | None], room: int) -> int:
    """How many of the first costs fit into `room`."""
    for count, cost in enumerate(costs):
        if cost is None or cost > room:
            return count
        room -= cost
    return len(costs)
