"""The GGUF reader against the gguf package's writer, and against files made to harm it."""

import os
import struct
import subprocess
import sys
import time
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyllm._core import GgufFile
from pyllm.errors import PyllmError

SIZES = dict(gguf.GGML_QUANT_SIZES)
SIZES[gguf.GGMLQuantizationType.Q8_1] = (
    32,
    36,
)  # the package still has the size from before its sums were halfs
U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)


# -- Files by hand: what no writer would write ---------------------------------------------------------------


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def entry(key: bytes, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def tensor(name: bytes = b"t", shape: tuple[int, ...] = (8,), kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def build(
    entries: list[bytes] | None = None, tensors: list[bytes] | None = None, data: int = 32, align: int = 32
) -> bytes:
    entries, tensors = entries or [], tensors or []
    header = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(entries)) + b"".join(entries + tensors)
    return header + bytes(-len(header) % align) + bytes(data)


@pytest.fixture
def opened(tmp_path):
    def open_bytes(content: bytes) -> GgufFile:
        path = tmp_path / "model.gguf"
        path.unlink(missing_ok=True)  # much faster than truncating where the file system flushes then
        path.write_bytes(content)
        return GgufFile(path)

    return open_bytes


def write(path: Path, fill, **options) -> list[Path]:
    writer = gguf.GGUFWriter(path, "llama", **options)
    fill(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return sorted(path.parent.glob("*.gguf"))


# -- What the format allows ----------------------------------------------------------------------------------

VALUES = {
    "a.u8": (gguf.GGUFValueType.UINT8, 255),
    "a.i8": (gguf.GGUFValueType.INT8, -128),
    "a.u16": (gguf.GGUFValueType.UINT16, 65535),
    "a.i16": (gguf.GGUFValueType.INT16, -32768),
    "a.u32": (gguf.GGUFValueType.UINT32, 2**32 - 1),
    "a.i32": (gguf.GGUFValueType.INT32, -(2**31)),
    "a.f32": (gguf.GGUFValueType.FLOAT32, 0.15625),
    "a.bool": (gguf.GGUFValueType.BOOL, True),
    "a.string": (gguf.GGUFValueType.STRING, "naïve 語 \N{GRINNING FACE}"),
    "a.empty": (gguf.GGUFValueType.STRING, ""),
    "a.u64": (gguf.GGUFValueType.UINT64, 2**64 - 1),
    "a.i64": (gguf.GGUFValueType.INT64, -(2**63)),
    "a.f64": (gguf.GGUFValueType.FLOAT64, 1e300),
    "a.numbers": (gguf.GGUFValueType.ARRAY, [1.5, -2.0]),
    "a.integers": (gguf.GGUFValueType.ARRAY, [1, -2, 3]),
    "a.bools": (gguf.GGUFValueType.ARRAY, [True, False]),
    "a.strings": (gguf.GGUFValueType.ARRAY, ["x", "", "語"]),
    "a.nested": (gguf.GGUFValueType.ARRAY, [[1, 2], [3]]),
}


def test_every_value_type(tmp_path):
    def fill(writer):
        for key, (kind, value) in VALUES.items():
            writer.add_key_value(key, value, kind)

    write(tmp_path / "m.gguf", fill)
    file = GgufFile(tmp_path / "m.gguf")
    assert file.keys() == ["general.architecture", *VALUES]
    for key, (_, value) in VALUES.items():
        found = file.get(key)
        if key == "a.nested":
            assert [inner.tolist() for inner in found] == value
        elif isinstance(value, list) and not isinstance(value[0], str):
            assert isinstance(found, np.ndarray)
            assert found.tolist() == value
        else:
            assert type(found) is type(value)
            assert found == value
    assert "a.u8" in file
    assert "a.u9" not in file
    assert file.get("a.u9") is None
    assert file.get("a.u9", 7) == 7
    assert file.string_bytes("a.strings") == [b"x", b"", "語".encode()]
    assert (file.version, file.alignment, file.path) == (3, 32, str(tmp_path / "m.gguf"))
    assert file.tensors == []


NUMERIC = {
    U8: "u1",
    I8: "i1",
    U16: "u2",
    I16: "i2",
    U32: "u4",
    I32: "i4",
    F32: "f4",
    U64: "u8",
    I64: "i8",
    F64: "f8",
}


@pytest.mark.parametrize(("kind", "dtype"), NUMERIC.items())
def test_arrays_of_every_numeric_type(opened, kind, dtype):
    values = np.arange(5).astype(dtype)
    # A key of odd length: elements are not aligned in the file.
    file = opened(build([entry(b"abc", ARRAY, struct.pack("<IQ", kind, 5) + values.tobytes())]))
    found = file.get("abc")
    assert found.dtype == np.dtype(dtype)
    assert np.array_equal(found, values)


def test_text_that_is_not_utf8_is_kept(opened):
    file = opened(
        build(
            [
                entry(b"a", STRING, text(b"\xff\xc3")),
                entry(b"b", ARRAY, struct.pack("<IQ", STRING, 1) + text(b"\x80")),
            ]
        )
    )
    assert file.get("a").encode(errors="surrogateescape") == b"\xff\xc3"
    assert file.get("b")[0].encode(errors="surrogateescape") == b"\x80"
    assert file.string_bytes("b") == [b"\x80"]


@pytest.mark.parametrize("kind", list(SIZES), ids=lambda kind: kind.name)
def test_every_tensor_type_has_its_size(opened, kind):
    block, size = SIZES[kind]
    data = np.random.default_rng(kind).integers(0, 256, 6 * size, dtype=np.uint8).tobytes()
    content = build(tensors=[tensor(b"w", (2 * block, 3), kind)], data=0) + data + bytes(-len(data) % 32)
    file = opened(content)
    (info,) = file.tensors
    assert (info.name, info.type, info.shape, info.n_bytes, info.file) == (
        "w",
        kind.name,
        (2 * block, 3),
        6 * size,
        0,
    )
    assert content[info.offset : info.offset + info.n_bytes] == data
    assert file.tensor_data("w").tobytes() == data
    with pytest.raises(PyllmError, match="w: expected 6 blocks"):
        opened(content[: info.offset + info.n_bytes - 1])
    if block > 1:
        with pytest.raises(
            PyllmError, match=f"dimension 0: expected a multiple of {block} for type {kind.name}, found"
        ):
            opened(build(tensors=[tensor(b"w", (block + 1,), kind)], data=2 * size))


def test_version_2(opened):
    content = bytearray(build([entry(b"a", U8, b"\x07")], [tensor()]))
    content[4] = 2
    file = opened(bytes(content))
    assert (file.version, file.get("a"), file.tensors[0].n_bytes) == (2, 7, 32)


@pytest.mark.parametrize("alignment", [8, 64, 4096])
def test_alignment(tmp_path, alignment):
    first, second = np.arange(3, dtype=np.float32), np.arange(100, dtype=np.float32)

    def fill(writer):
        writer.add_custom_alignment(alignment)
        writer.add_tensor("first", first)
        writer.add_tensor("second", second)

    write(tmp_path / "m.gguf", fill)
    file = GgufFile(tmp_path / "m.gguf")
    assert file.alignment == alignment
    assert all(info.offset % alignment == 0 for info in file.tensors)
    assert np.array_equal(file.tensor_data("second").view(np.float32), second)


def test_alignment_need_not_be_a_power_of_two(opened):
    entries = [entry(b"general.alignment", U32, struct.pack("<I", 24))]
    file = opened(build(entries, [tensor(shape=(5,)), tensor(b"u", (6,), 0, 24)], data=48, align=24))
    assert [info.offset % 24 for info in file.tensors] == [0, 0]


def test_data_without_its_last_padding(opened):
    content = build(tensors=[tensor(shape=(5,))], data=32)
    assert opened(content[:-12]).tensors[0].n_bytes == 20
    with pytest.raises(PyllmError, match=r"data section: expected 96 bytes .* found 95"):
        opened(content[:-1])


def test_tensor_data_is_read_only_and_keeps_the_file_open(opened):
    view = opened(build(tensors=[tensor()], data=0) + bytes(range(32))).tensor_data("t")
    assert view.tobytes() == bytes(range(32))
    with pytest.raises(ValueError, match="read-only"):
        view[0] = 1
    with pytest.raises(ValueError, match="WRITEABLE"):
        view.flags.writeable = True
    with pytest.raises(PyllmError, match="no such tensor"):
        opened(build()).tensor_data("t")


def test_a_large_vocabulary_opens_in_50_ms(opened):
    # The size of Gemma's: the table of strings must be checked, not materialised.
    words = b"".join(text(b"token%d" % i) for i in range(262_144))
    content = build([entry(b"tokenizer.ggml.tokens", ARRAY, struct.pack("<IQ", STRING, 262_144) + words)])
    file = opened(content)
    path, best = file.path, float("inf")
    for _ in range(5):
        start = time.perf_counter()
        file = GgufFile(path)
        best = min(best, time.perf_counter() - start)
    assert best < 0.05
    assert file.get("tokenizer.ggml.tokens")[262_143] == "token262143"


scalars = st.one_of(
    st.tuples(st.just(gguf.GGUFValueType.INT64), st.integers(-(2**63), 2**63 - 1)),
    st.tuples(st.just(gguf.GGUFValueType.FLOAT64), st.floats(allow_nan=False)),
    st.tuples(st.just(gguf.GGUFValueType.BOOL), st.booleans()),
    st.tuples(st.just(gguf.GGUFValueType.STRING), st.text()),
    st.tuples(st.just(gguf.GGUFValueType.ARRAY), st.lists(st.text(), min_size=1, max_size=5)),
    st.tuples(
        st.just(gguf.GGUFValueType.ARRAY), st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=5)
    ),
)
keys = st.from_regex(r"[a-z_]{1,8}(\.[a-z_]{1,8}){0,2}", fullmatch=True).filter(
    lambda key: not key.startswith("general")
)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(metadata=st.dictionaries(keys, scalars, max_size=6), sizes=st.lists(st.integers(1, 20), max_size=4))
def test_what_the_package_writes_is_read_back(tmp_path, metadata, sizes):
    def fill(writer):
        for key, (kind, value) in metadata.items():
            writer.add_key_value(key, value, kind)
        for i, size in enumerate(sizes):
            writer.add_tensor(f"t{i}", np.full((i + 1, size), i, dtype=np.float32))

    write(tmp_path / "m.gguf", fill)
    file = GgufFile(tmp_path / "m.gguf")
    for key, (_, value) in metadata.items():
        found = file.get(key)
        assert (found.tolist() if isinstance(found, np.ndarray) else found) == value
    assert [info.shape for info in file.tensors] == [(size, i + 1) for i, size in enumerate(sizes)]
    for i in range(len(sizes)):
        assert set(file.tensor_data(f"t{i}").view(np.float32)) == {i}


# -- Split models --------------------------------------------------------------------------------------------


@pytest.fixture
def split(tmp_path):
    """A model of five tensors in three files."""

    def fill(writer):
        writer.add_uint32("a.count", 5)
        for i in range(5):
            writer.add_tensor(f"t{i}", np.full(8, i, dtype=np.float32))

    return write(tmp_path / "m.gguf", fill, split_max_tensors=2)


def test_any_part_opens_the_whole_model(split):
    assert len(split) == 3
    for part in split:
        file = GgufFile(part)
        assert file.paths == [str(path) for path in split]
        assert file.get("a.count") == 5
        assert file.file_bytes == sum(path.stat().st_size for path in split)
        assert [(info.name, info.file) for info in file.tensors] == [(f"t{i}", i // 2) for i in range(5)]
        assert [file.tensor_data(f"t{i}").view(np.float32)[7] for i in range(5)] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("gone", range(3))
def test_a_missing_part_is_named(split, gone):
    split[gone].unlink()
    for part in split:
        if part != split[gone]:
            with pytest.raises(PyllmError, match=rf"{split[gone].name}: part {gone + 1} of 3 .* missing"):
                GgufFile(part)


def test_a_renamed_part_cannot_find_the_others(split):
    other = split[1].rename(split[1].with_name("other.gguf"))
    with pytest.raises(PyllmError, match=r"part 2 of 3 .* ending in -00002-of-00003.gguf"):
        GgufFile(other)


def test_exchanged_parts(split):
    split[1].write_bytes(split[2].read_bytes())
    with pytest.raises(PyllmError, match=r"00002-of-00003.gguf: split.no: expected 1, found 2"):
        GgufFile(split[0])


def test_a_part_of_another_model(split):
    part = split[2].read_bytes()
    for key, old, new, expected in [
        (b"split.count", 3, 4, "split.count: expected 3, found 4"),
        (
            b"split.tensors.count",
            5,
            6,
            "split.tensors.count: expected 5, which all parts together hold, found 6",
        ),
    ]:
        at = part.index(text(key)) + len(text(key)) + 4
        assert part[at] == old
        split[2].write_bytes(part[:at] + bytes([new]) + part[at + 1 :])
        with pytest.raises(PyllmError, match=expected):
            GgufFile(split[0])


def test_a_tensor_in_two_parts(split):
    split[1].write_bytes(split[1].read_bytes().replace(text(b"t2"), text(b"t0")))
    with pytest.raises(PyllmError, match=r"00002-of-00003.gguf: t0: expected each tensor once"):
        GgufFile(split[0])


@pytest.mark.parametrize(
    ("number", "count", "error"),
    [
        (0, -1, "split.count: expected 0 to 65535, found -1"),
        (0, 65536, "split.count: expected 0 to 65535, found 65536"),
        (3, 3, "split.no: expected 0 to 2 in a model of 3 parts, found 3"),
        (0, 60000, "part 1 of 60000"),
    ],
)
def test_split_numbers_out_of_range(opened, number, count, error):
    with pytest.raises(PyllmError, match=error):
        opened(
            build(
                [
                    entry(b"split.no", I32, struct.pack("<i", number)),
                    entry(b"split.count", I32, struct.pack("<i", count)),
                ]
            )
        )


def test_a_model_that_was_joined_again(opened):
    assert opened(build([entry(b"split.count", U16, b"\0\0")], [tensor()])).paths != []


# -- Bad files, by name --------------------------------------------------------------------------------------


def test_not_a_file(tmp_path):
    with pytest.raises(PyllmError, match=r"nowhere.gguf: no such file"):
        GgufFile(tmp_path / "nowhere.gguf")
    with pytest.raises(PyllmError, match="found a directory"):
        GgufFile(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(PyllmError, match="not a regular file"):
        GgufFile(tmp_path / "pipe")
    (tmp_path / "empty").touch()
    with pytest.raises(PyllmError, match="found an empty file"):
        GgufFile(tmp_path / "empty")
    with pytest.raises(PyllmError, match="zero byte"):
        GgufFile("a\0b")
    with pytest.raises(PyllmError, match="path is empty"):
        GgufFile("")


def test_a_file_name_that_is_not_utf8(tmp_path):
    path = os.fsencode(tmp_path) + b"/\xff.gguf"
    with pytest.raises(PyllmError, match=r"\\xff.gguf: no such file"):
        GgufFile(os.fsdecode(path))
    Path(os.fsdecode(path)).write_bytes(build([entry(b"a", U8, b"\1")]))
    assert GgufFile(os.fsdecode(path)).path == os.fsdecode(path)


@pytest.mark.parametrize("content", [b"G", b"GGU", b"\x80\x04\x95model", b"version https://git-lfs"])
def test_not_a_gguf(opened, content):
    with pytest.raises(PyllmError, match="not a GGUF file: expected it to begin with GGUF, found"):
        opened(content)


@pytest.mark.parametrize("version", [0, 1, 4, 2**31])
def test_unknown_version(opened, version):
    with pytest.raises(PyllmError, match=f"version: expected 2 or 3, found {version}"):
        opened(b"GGUF" + struct.pack("<IQQ", version, 0, 0))


def test_big_endian(tmp_path):
    write(tmp_path / "m.gguf", lambda writer: None, endianess=gguf.GGUFEndian.BIG)
    with pytest.raises(PyllmError, match="big-endian"):
        GgufFile(tmp_path / "m.gguf")


HUGE = 2**63
BAD = {
    "tensor count": (b"GGUF" + struct.pack("<IQQ", 3, HUGE, 0), "tensor count: expected at most 0"),
    "metadata count": (
        b"GGUF" + struct.pack("<IQQ", 3, 0, HUGE) + bytes(99),
        "metadata count: expected at most 7",
    ),
    "key length 0": (build([entry(b"", U8, b"\0")]), "metadata key 0 length: expected 1 to 65535, found 0"),
    "key length": (build([struct.pack("<Q", HUGE) + bytes(9)]), "metadata key 0 length: expected 1 to 65535"),
    "key length 65536": (build([entry(b"k" * 65536, U8, b"\0")]), "found 65536"),
    "key with a zero": (
        build([entry(b"a\0b", U8, b"\0")]),
        r'key 0: expected printable UTF-8, found "a\\x00b"',
    ),
    "key with an escape": (build([entry(b"\x1b[2J", U8, b"\0")]), r"\\x1b\[2J"),
    "key not UTF-8": (build([entry(b"\xc0\x80", U8, b"\0")]), r"\\xc0\\x80"),
    "key twice": (
        build([entry(b"a", U8, b"\0")] * 2),
        "a: expected each metadata key once, found it again as key 1",
    ),
    "value type": (build([entry(b"a", 13, bytes(9))]), "a: value type: expected 0 to 12, found 13"),
    "bool": (build([entry(b"a", BOOL, b"\2")]), "a: bool: expected 0 or 1, found 2"),
    "bool in an array": (build([entry(b"a", ARRAY, struct.pack("<IQ", BOOL, 2) + b"\1\xff")]), "found 255"),
    "string length": (
        build([entry(b"a", STRING, struct.pack("<Q", HUGE))]),
        f"a: expected {HUGE} bytes at offset",
    ),
    "array type": (
        build([entry(b"a", ARRAY, struct.pack("<IQ", 99, 1))]),
        "a: value type: expected 0 to 12, found 99",
    ),
    "array length": (
        build([entry(b"a", ARRAY, struct.pack("<IQ", F64, HUGE))]),
        "a: array length: expected at most",
    ),
    "array length in the file": (
        build([entry(b"a", ARRAY, struct.pack("<IQ", F64, 2**20))]),
        "a: expected 8388608 bytes",
    ),
    "strings length": (
        build([entry(b"a", ARRAY, struct.pack("<IQ", STRING, 2**20))]),
        "array length: expected at most",
    ),
    "nesting": (build([entry(b"a", ARRAY, struct.pack("<IQ", ARRAY, 1) * 6)]), "nested at most 4 deep"),
    "alignment 0": (
        build([entry(b"general.alignment", U32, bytes(4))]),
        "general.alignment: expected a multiple of 8, found 0",
    ),
    "alignment 12": (build([entry(b"general.alignment", U32, b"\x0c\0\0\0")]), "multiple of 8, found 12"),
    "alignment type": (build([entry(b"general.alignment", STRING, text(b"32"))]), "expected u32, found string"),
    "alignment beyond the file": (
        build([entry(b"general.alignment", U32, struct.pack("<I", 2**31))], [tensor()]),
        "data section of 0 bytes",
    ),
    "tensor name 0": (build(tensors=[tensor(b"")]), "tensor 0 name length: expected 1 to 64, found 0"),
    "tensor name 65": (build(tensors=[tensor(b"n" * 65)]), "tensor 0 name length: expected 1 to 64, found 65"),
    "tensor name": (
        build(tensors=[tensor(b"a\nb")]),
        r'tensor 0 name: expected printable UTF-8, found "a\\x0ab"',
    ),
    "tensor twice": (build(tensors=[tensor()] * 2), "t: expected each tensor once"),
    "no dimensions": (build(tensors=[tensor(shape=())]), "t: dimension count: expected 1 to 4, found 0"),
    "5 dimensions": (build(tensors=[tensor(shape=(1,) * 5)]), "t: dimension count: expected 1 to 4, found 5"),
    "dimension 0": (build(tensors=[tensor(shape=(8, 0))]), "t: dimension 1: expected at least 1, found 0"),
    "elements": (
        build(tensors=[tensor(shape=(2**32, 2**32))]),
        "t: dimension 1: expected a tensor of fewer than 2",
    ),
    "elements wrap": (build(tensors=[tensor(shape=(2**62, 4, 2**62, 4))]), "expected a tensor of fewer than 2"),
    "bytes": (build(tensors=[tensor(shape=(2**62,))]), f"t: expected {2**62} blocks of 4 bytes at offset 0"),
    "tensor type": (build(tensors=[tensor(kind=4)]), "t: type: expected a known tensor type, found number 4"),
    "tensor type 99": (build(tensors=[tensor(kind=99)]), "found number 99"),
    "offset": (
        build(tensors=[tensor(offset=4)], data=64),
        "t: offset: expected a multiple of the alignment 32, found 4",
    ),
    "offset beyond": (
        build(tensors=[tensor(offset=64)]),
        "t: expected 8 blocks of 4 bytes at offset 64 of the data section",
    ),
    "offset wraps": (build(tensors=[tensor(offset=2**64 - 32)]), f"at offset {2**64 - 32}"),
}


@pytest.mark.parametrize(("content", "error"), BAD.values(), ids=list(BAD))
def test_a_bad_header_is_named(opened, content, error):
    with pytest.raises(PyllmError, match=error) as raised:
        opened(content)
    assert "model.gguf: " in str(raised.value)
    assert "\n" not in str(raised.value)


def rich() -> bytes:
    """A small file with something of everything, its last byte belonging to a tensor."""
    array = struct.pack("<IQ", STRING, 2) + text(b"x") + text(b"yz")
    entries = [
        entry(b"general.architecture", STRING, text(b"llama")),
        entry(b"a", ARRAY, array),
        entry(b"b", ARRAY, struct.pack("<IQ4f", F32, 4, 1, 2, 3, 4)),
        entry(b"c", ARRAY, struct.pack("<IQ", ARRAY, 1) + struct.pack("<IQ2B", BOOL, 2, 0, 1)),
        entry(b"general.alignment", U32, struct.pack("<I", 32)),
    ]
    return build(entries, [tensor(b"one", (32, 2), 2), tensor(b"two", (8,), 0, 64)], data=96)


def test_truncation_at_any_byte(opened):
    content = rich()
    assert len(opened(content).tensors) == 2
    for length in range(len(content)):
        with pytest.raises(PyllmError):
            opened(content[:length])


def touch_everything(file: GgufFile) -> None:
    for key in file.keys():  # noqa: SIM118
        file.get(key)
    for info in file.tensors:
        assert file.tensor_data(info.name).sum() >= 0


def refused_or_usable(opened, content: bytes) -> None:
    """Opens `content` and reads all it has; a damaged file may only be refused in words."""
    try:
        touch_everything(opened(content))
    except PyllmError as error:
        message = str(error)
    else:
        return
    assert "model.gguf" in message


def test_every_byte_changed(opened):
    content = rich()
    for at in range(len(content) - 96):
        for value in (0, content[at] ^ 0x80, 255):
            refused_or_usable(opened, content[:at] + bytes([value]) + content[at + 1 :])


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_random_changes(opened, data):
    content = bytearray(rich())
    for at in data.draw(st.lists(st.integers(0, len(content) - 8), min_size=1, max_size=3)):
        value = data.draw(
            st.one_of(st.integers(0, 2**64 - 1), st.integers(0, 100), st.integers(2**64 - 100, 2**64 - 1))
        )
        width = data.draw(st.sampled_from([1, 2, 4, 8]))
        content[at : at + width] = struct.pack("<Q", value)[:width]
    refused_or_usable(opened, bytes(content))


HOSTILE = {
    # Headers that are consistent, and so large that reading them is the attack. Holes in a sparse file are
    # strings of length 0.
    "strings": ([entry(b"a", ARRAY, struct.pack("<IQ", STRING, 2**24))] * 1, 2**40),
    "many arrays": ([entry(b"%d" % i, ARRAY, struct.pack("<IQ", STRING, 2**24)) for i in range(9)], 2**40),
    "count": ([struct.pack("<Q", 1)], 2**40),
}


# VmHWM and not getrusage: that one starts from the parent's peak.
MEASURE = """
import re, sys, time
from pyllm._core import GgufFile
from pyllm.errors import PyllmError
def peak():
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
before, start = peak(), time.process_time()
try:
    GgufFile(sys.argv[1])
except PyllmError as error:
    print(error, file=sys.stderr)
    print(time.process_time() - start, peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
@pytest.mark.parametrize("name", list(HOSTILE))
def test_a_hostile_header_costs_neither_time_nor_memory(tmp_path, name):
    entries, size = HOSTILE[name]
    path = tmp_path / "sparse.gguf"
    with path.open("wb") as out:
        out.write(b"GGUF" + struct.pack("<IQQ", 3, 131_072, 65_536))
        for content in entries:
            out.write(content)
            out.seek(2**24 * 8, os.SEEK_CUR)
        out.truncate(size)
    ran = subprocess.run([sys.executable, "-c", MEASURE, path], capture_output=True, text=True, check=True)
    seconds, rss = map(float, ran.stdout.split())
    assert "sparse.gguf: " in ran.stderr
    assert seconds < 1
    assert rss < 64 * 2**20, rss


def test_many_keys_and_tensors_are_not_quadratic(opened):
    count = 60_000
    entries = [entry(b"key.%d" % i, U8, b"\0") for i in range(count)]
    tensors = [tensor(b"blk.%d" % i, (8,)) for i in range(count)]
    start = time.perf_counter()
    file = opened(build(entries, tensors))
    assert time.perf_counter() - start < 2
    assert file.tensor_data(f"blk.{count - 1}").size == 32
    assert file.get(f"key.{count - 1}") == 0
