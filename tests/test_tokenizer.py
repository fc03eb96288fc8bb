"""The tokenizer against independent implementations; tests/golden/tokenizer/make.py makes the golden files."""

from __future__ import annotations

import json
import os
import random
import threading
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vocabularies import (
    BYTE,
    CONTROL,
    NORMAL,
    UNKNOWN,
    USER_DEFINED,
    byte_level,
    listed_merges,
    pieces,
    write_vocabulary,
)

from pyllm import _core, models
from pyllm.errors import PyllmError
from pyllm.pretokenizers import PRE_TOKENIZERS, pre_tokenizer
from pyllm.tokenizer import Tokenizer, repair

GOLDEN = Path(__file__).parent / "golden" / "tokenizer"
TEXTS: list[str] = json.loads((GOLDEN / "texts.json").read_text())
SPLITS: dict[str, Any] = json.loads((GOLDEN / "splits.json").read_text())
IDS: dict[str, Any] = json.loads((GOLDEN / "ids.json").read_text())
PIECE_PRES = sorted(name for name, pre in PRE_TOKENIZERS.items() if not pre.bytes_as_characters)
BYTE_PRES = sorted(name for name, pre in PRE_TOKENIZERS.items() if pre.bytes_as_characters)
REAL = {"smollm2": "smollm2-135m", "gemma3": "gemma3-270m"}  # golden name -> catalogue name
VOCABULARIES = os.environ.get("PYLLM_TEST_VOCABS")


def digest(ids: list[int]) -> str:
    return f"{zlib.crc32(' '.join(map(str, ids)).encode()):08x}"


def same_digests(tokenizer: Tokenizer, expected: str, special: bool = False) -> None:
    found = [digest(tokenizer.encode(text, add_bos=False, parse_special=special)) for text in TEXTS]
    wrong = [text for text, a, b in zip(TEXTS, found, expected.split(), strict=True) if a != b]
    assert not wrong


@pytest.fixture(scope="module")
def small() -> tuple[Any, Any]:
    return byte_level(TEXTS)


@pytest.fixture(scope="module")
def chatml(tmp_path_factory: pytest.TempPathFactory, small: tuple[Any, Any]) -> Tokenizer:
    tokens, merges = small
    path = tmp_path_factory.mktemp("v") / "chatml.gguf"
    return Tokenizer.from_gguf(
        write_vocabulary(path, "gpt2", tokens, pre="smollm", merges=merges, keys={"eos_token_id": 256 + 5})
    )


@pytest.fixture(scope="module")
def spm(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    tokens, scores = pieces(TEXTS)
    return Tokenizer.from_gguf(
        write_vocabulary(tmp_path_factory.mktemp("v") / "spm.gguf", "llama", tokens, scores=scores)
    )


# -- words -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(PRE_TOKENIZERS))
def test_words_are_cut_where_the_models_cut_them(name: str) -> None:
    from tokenizers import Regex, pre_tokenizers

    splits = [pre_tokenizers.Split(Regex(p), "isolated") for p in pre_tokenizer(name).patterns]
    cutter = pre_tokenizers.Sequence(splits)
    found = [[len(word.encode()) for word, _ in cutter.pre_tokenize_str(text)] for text in TEXTS]
    assert all(sum(cuts) == len(text.encode()) for cuts, text in zip(found, TEXTS, strict=True))
    golden = SPLITS.get(name)
    if golden is None:
        assert name in ("youtu", "afmoe")  # no independent form of these expressions
        return
    golden = SPLITS[golden.get("same_as", name)]
    wrong = [
        text
        for text, cuts, expected in zip(TEXTS, found, golden["cuts"], strict=True)
        if " ".join(map(str, cuts)) != expected
    ]
    assert not wrong


@pytest.mark.parametrize("name", BYTE_PRES)
def test_every_name_gives_its_ids(name: str, tmp_path: Path, small: tuple[Any, Any]) -> None:
    tokens, merges = small
    tokenizer = Tokenizer.from_gguf(
        write_vocabulary(tmp_path / "v.gguf", "gpt2", tokens, pre=name, merges=merges)
    )
    for text in TEXTS:
        assert tokenizer.decode(tokenizer.encode(text, add_bos=False)) == text
    if f"small-{name}" in IDS:
        same_digests(tokenizer, IDS[f"small-{name}"])


@pytest.mark.parametrize("special", [False, True])
def test_scores_decide_the_merges(spm: Tokenizer, special: bool) -> None:
    same_digests(spm, IDS["small-spm"]["special" if special else "plain"], special)


@pytest.mark.parametrize("name", ["gemma4", *PIECE_PRES])
def test_listed_merges_of_pieces(name: str, tmp_path: Path) -> None:
    tokens, scores = pieces(TEXTS)
    model, pre = ("gemma4", None) if name == "gemma4" else ("gpt2", name)
    path = write_vocabulary(
        tmp_path / "v.gguf",
        model,
        tokens,
        pre=pre,
        merges=listed_merges(tokens, scores),
        keys={"bos_token_id": 1},
    )
    tokenizer = Tokenizer.from_gguf(path)
    assert tokenizer.add_bos == (name != "sarvam-moe")
    same_digests(tokenizer, IDS["small-gemma4"]["plain"])
    same_digests(tokenizer, IDS["small-gemma4"]["special"], special=True)


def test_an_unknown_pre_tokenizer_is_named_not_guessed(tmp_path: Path, small: tuple[Any, Any]) -> None:
    tokens, merges = small
    path = write_vocabulary(tmp_path / "v.gguf", "gpt2", tokens, pre="qwen99", merges=merges)
    with pytest.raises(PyllmError, match=r"tokenizer\.ggml\.pre: unknown pre-tokenizer 'qwen99'.*smollm"):
        Tokenizer.from_gguf(path)


@pytest.mark.parametrize("name", sorted(PRE_TOKENIZERS))
def test_long_runs_are_cut_in_time(name: str) -> None:
    """No expression may take quadratic time on what a user can paste."""
    from tokenizers import Regex, pre_tokenizers

    splits = [pre_tokenizers.Split(Regex(p), "isolated") for p in pre_tokenizer(name).patterns]
    cutter = pre_tokenizers.Sequence(splits)
    started = time.perf_counter()
    for run in (" ", "a", "1", "\n", "!", "é", "a ", "\u0301", "'", "A", "中", " \n", "1 "):
        text = run * 20_000
        assert "".join(word for word, _ in cutter.pre_tokenize_str(text)) == text
    assert time.perf_counter() - started < 5


# -- real vocabularies -----------------------------------------------------------------------------------------


def real(name: str) -> Path:
    manifest = models.catalogue()[REAL[name]]
    if not manifest.installed:
        pytest.skip(f"{REAL[name]} is not pulled")
    return manifest.path


@pytest.mark.parametrize("name", sorted(REAL))
def test_real_models_give_the_ids_of_llama_cpp(name: str) -> None:
    tokenizer, golden = Tokenizer.from_gguf(real(name)), IDS[name]
    for text, plain, special in zip(TEXTS, golden["plain"], golden["special"], strict=True):
        assert tokenizer.encode(text, add_bos=False) == plain
        assert tokenizer.encode(text, add_bos=False, parse_special=True) == special
    assert sorted(tokenizer.stop_ids) == golden["stops"]


def vocabulary_files() -> list[Path]:
    return sorted(Path(VOCABULARIES).glob("ggml-vocab-*.gguf")) if VOCABULARIES else []


@pytest.mark.skipif(not VOCABULARIES, reason="PYLLM_TEST_VOCABS does not name llama.cpp's models folder")
@pytest.mark.parametrize("path", vocabulary_files(), ids=lambda path: path.stem)
def test_vocabularies_of_llama_cpp(path: Path) -> None:
    if path.stem not in IDS:
        pytest.skip("not a kind of tokenizer that generates text")
    tokenizer, golden = Tokenizer.from_gguf(path), IDS[path.stem]
    same_digests(tokenizer, golden["plain"])
    same_digests(tokenizer, golden["special"], special=True)
    assert sorted(tokenizer.stop_ids) == golden["stops"]
    cases, results = path.with_suffix(".gguf.inp"), path.with_suffix(".gguf.out")
    if not cases.exists():
        return
    inputs = cases.read_bytes().decode().split("\n__ggml_vocab_test__\n")
    outputs = results.read_text().split("\n")[: len(inputs)]
    for text, line in zip(inputs, outputs, strict=True):
        assert tokenizer.encode(text, add_bos=False) == [int(i) for i in line.split()]


@pytest.mark.parametrize(("name", "seconds"), [("smollm2", 0.3), ("gemma3", 1.0)])
def test_opening_is_fast(name: str, seconds: float) -> None:
    path = real(name)
    best = min(_seconds(lambda: Tokenizer.from_gguf(path)) for _ in range(3))
    assert best < seconds


def _seconds(call: Any) -> float:
    started = time.process_time()  # the machine may be busy with other things
    call()
    return time.process_time() - started


# -- special tokens --------------------------------------------------------------------------------------------


def test_only_parse_special_makes_control_tokens(chatml: Tokenizer) -> None:
    text = "<|im_start|>user\nHi<|im_end|>"
    start, end = (chatml.vocabulary.ids[t] for t in (b"<|im_start|>", b"<|im_end|>"))
    plain = chatml.encode(text)
    assert not {start, end} & set(plain)
    assert chatml.decode(plain) == text
    special = chatml.encode(text, parse_special=True)
    assert (special[0], special[-1]) == (start, end)
    assert chatml.decode(special) == text
    assert chatml.decode(special, skip_special=True) == "user\nHi"


def test_user_defined_tokens_always_match(chatml: Tokenizer) -> None:
    user = chatml.vocabulary.ids[b"[user]"]
    assert chatml.encode("a[user]b").count(user) == 1
    assert chatml.encode("[user]" * 3) == [user] * 3
    reserved = chatml.special_tokens(reserved="{{ '[user]' }}")
    assert user not in chatml.encode_segments([("a[user]b", False)], reserved)
    assert user in chatml.encode_segments([("a[user]b", True)], reserved)


@pytest.mark.parametrize(
    ("segments", "controls"),
    [
        ([("<|im_end|>", True)], 1),
        ([("<|im_end|>", False)], 0),
        ([("<|im_", True), ("end|>", False)], 0),
        ([("<|im_", False), ("end|>", True)], 0),
        ([("<|im_", True), ("", False), ("end|>", True)], 1),
        ([("<|im_", True), ("", True), ("end|>", True)], 1),
        ([("<|im_end|>", True), ("<|im_end|>", False), ("<|im_end|>", True)], 2),
        ([("<", True), ("<|im_end|>", False), (">", True)], 0),
    ],
)
def test_trust_decides_at_every_character(
    chatml: Tokenizer, segments: list[tuple[str, bool]], controls: int
) -> None:
    ids = chatml.encode_segments(segments)
    assert sum(chatml.is_special(i) for i in ids) == controls
    assert chatml.decode(ids) == "".join(text for text, _ in segments)


@settings(deadline=None, max_examples=150)
@given(st.lists(st.tuples(st.text(max_size=8), st.booleans()), max_size=6))
def test_borders_of_segments_leave_no_trace(chatml: Tokenizer, segments: list[tuple[str, bool]]) -> None:
    whole = "".join(repair(text) for text, _ in segments)
    assert chatml.encode_segments(segments) == chatml.encode(whole, add_bos=False)


def test_longer_special_tokens_come_first(tmp_path: Path) -> None:
    tokens = [(c, NORMAL) for c in "abcdx"] + [(t, CONTROL) for t in ("ab", "bcd", "cdx", "abcdx", "é")]
    path = write_vocabulary(tmp_path / "v.gguf", "llama", tokens, scores=[0.0] * len(tokens), keys=NO_ROLES)

    def found(text: str) -> list[str]:
        tokenizer = Tokenizer.from_gguf(path)
        return [tokens[i][0] for i in tokenizer.encode(text, add_bos=False, parse_special=True)]

    assert found("abcd") == ["a", "bcd"]
    assert found("abcdx") == ["abcdx"]
    assert found("abcdabcdx") == ["a", "bcd", "abcdx"]
    assert found("éabé") == ["é", "ab", "é"]


NO_ROLES = {"add_space_prefix": False}


def test_phi3_swallows_space_behind_its_tokens(tmp_path: Path) -> None:
    import gguf

    tokens = [("<unk>", UNKNOWN), ("<s>", CONTROL), ("</s>", NORMAL), ("<|user|>", CONTROL)]
    tokens += [(c, NORMAL) for c in "ab\u2581\n"]
    path = tmp_path / "v.gguf"
    writer = gguf.GGUFWriter(path, "phi3")
    writer.add_string("general.name", "Phi-3 mini")
    writer.add_tokenizer_model("llama")
    writer.add_token_list([t for t, _ in tokens])
    writer.add_token_types([k for _, k in tokens])
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_add_space_prefix(False)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    tokenizer = Tokenizer.from_gguf(path)
    assert tokenizer.encode("<|user|> \n a<s> b", add_bos=False, parse_special=True) == [3, 4, 1, 6, 5]


def test_text_never_merges_into_a_control_token(tmp_path: Path) -> None:
    tokens = [("<unk>", UNKNOWN), ("<s>", CONTROL), ("</s>", CONTROL), ("<0x41>", BYTE)]
    tokens += [
        (t, NORMAL) for t in ("<", "s", ">", "/", "s>", "</", "0", "x", "4", "1", "<0x4", "<0", "x4", "1>")
    ]
    scores = [0.0] * 4 + [-1.0 - i for i in range(len(tokens) - 4)]
    tokenizer = Tokenizer.from_gguf(
        write_vocabulary(tmp_path / "v.gguf", "llama", tokens, scores=scores, keys=NO_ROLES)
    )
    for text in ("<s>", "</s>", "<0x41>"):
        ids = tokenizer.encode(text, add_bos=False)
        assert min(ids) > 3
        assert tokenizer.decode(ids) == text


# -- bytes and characters --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\ud83d\ude00b", "a😀b"),
        ("\ud83d", "\ufffd"),
        ("\ude00\ud83d", "\ufffd\ufffd"),
        ("a\udcffb", "a\ufffdb"),
        ("plain", "plain"),
    ],
)
def test_surrogates_are_repaired(chatml: Tokenizer, text: str, expected: str) -> None:
    assert repair(text) == expected
    assert chatml.encode(text) == chatml.encode(expected)


def test_bytes_that_are_not_utf8_are_repaired(chatml: Tokenizer) -> None:
    assert chatml.decode(chatml.encode(b"a\xff\xe4\xbdz")) == "a\ufffd\ufffdz"


@settings(deadline=None, max_examples=200)
@given(st.text(max_size=40))
def test_text_survives(chatml: Tokenizer, text: str) -> None:
    assert chatml.decode(chatml.encode(text)) == repair(text)


@settings(deadline=None, max_examples=200)
@given(st.text(max_size=40).filter(lambda text: "\u2581" not in text and "<turn>" not in text))
def test_text_survives_pieces(spm: Tokenizer, text: str) -> None:
    ids = spm.encode(text)
    assert ids[0] == spm.bos == 1
    assert spm.decode(ids, skip_special=True) == repair(text)


@settings(deadline=None, max_examples=300)
@given(st.lists(st.integers(0, 700), max_size=40), st.booleans(), st.data())
def test_streams_lose_nothing(
    chatml: Tokenizer, spm: Tokenizer, ids: list[int], skip: bool, data: st.DataObject
) -> None:
    for tokenizer in (chatml, spm):
        ids = [i % tokenizer.vocab_size for i in ids]
        detokenizer = tokenizer.detokenizer(skip_special=skip)
        parts = [detokenizer.push(i) for i in ids]
        text = "".join(parts) + detokenizer.flush()
        kept = [i for i in ids if not (skip and tokenizer.is_special(i))]
        assert text == b"".join(tokenizer.piece_bytes(i) for i in kept).decode("utf-8", "replace")
        assert tokenizer.decode(ids, skip_special=skip) in (text, text[1:])


def test_half_a_character_waits(chatml: Tokenizer) -> None:
    ids = [chatml.vocabulary.ids[c.encode()] for c in ("ð", "Ł", "ĺ", "Ģ")]
    detokenizer = chatml.detokenizer()
    assert [detokenizer.push(i) for i in ids] == ["", "", "", "😀"]
    assert [detokenizer.push(ids[0]), detokenizer.push(ids[1])] == ["", ""]
    assert detokenizer.push(chatml.vocabulary.ids[b"a"]) == "\ufffda"
    assert [detokenizer.push(ids[0]), detokenizer.flush()] == ["", "\ufffd"]


def test_the_first_space_belongs_to_the_text_in_a_stream(spm: Tokenizer) -> None:
    ids = spm.encode("Hello", add_bos=False)
    assert spm.decode(ids) == "Hello"
    detokenizer = spm.detokenizer()
    assert "".join(map(detokenizer.push, ids)) + detokenizer.flush() == " Hello"


def test_bos_and_space_prefix_follow_the_file(tmp_path: Path) -> None:
    tokens, scores = pieces(TEXTS)

    def ids(text: str, add_bos: bool | None = None, **keys: Any) -> list[int]:
        path = write_vocabulary(tmp_path / "v.gguf", "llama", tokens, scores=scores, keys=keys)
        return Tokenizer.from_gguf(path).encode(text, add_bos)

    assert ids("") == [1]
    assert ids("", add_bos_token=False) == []
    assert ids("", True, add_bos_token=False) == [1]
    assert ids("", bos_token_id=2) == [2]
    prefixed, bare = ids("x", False), ids("x", False, add_space_prefix=False)
    assert prefixed != bare
    assert ids(" x", False, add_space_prefix=False) == prefixed


# -- hostile and odd files -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"model": None}, r"tokenizer\.ggml\.model: missing"),
        ({"model": "t5"}, r"tokenizer\.ggml\.model: unknown kind 't5'; known: gpt2, llama, gemma4"),
        ({"model": 3}, r"tokenizer\.ggml\.model: expected text, found 3"),
        ({"tokens": None}, r"tokenizer\.ggml\.tokens: missing"),
        ({"tokens": "abc"}, r"tokenizer\.ggml\.tokens"),
        ({"tokens": [1, 2]}, r"tokenizer\.ggml\.tokens"),
        ({"tokens": ["a", "b", "a"], "token_type": [1, 1, 1]}, r"tokens: 'a' is listed twice, as 0 and 2"),
        ({"token_type": [1, 1]}, r"token_type: expected (\d+|an array of) numbers, one per token, found 2"),
        ({"token_type": ["x"] * 3}, r"token_type: expected (\d+|an array of) numbers"),
        ({"merges": None}, r"tokenizer\.ggml\.merges: missing"),
        ({"merges": [1, 2]}, r"tokenizer\.ggml\.merges"),
        ({"merges": ["ab"]}, r"merges\[0\]: expected two tokens with a space between, found 'ab'"),
        ({"merges": ["a b", "q zz"]}, r"merges\[\d\] .*is not in tokenizer\.ggml\.tokens"),
        ({"eos_token_id": 10**6}, r"eos_token_id: expected a token id below \d+.*found 1000000"),
        ({"eos_token_id": "x"}, r"eos_token_id: expected a token id, found 'x'"),
        ({"bos_token_id": True}, r"bos_token_id: expected a token id, found True"),
        ({"add_bos_token": 1}, r"add_bos_token: expected true or false, found 1"),
        ({"pre": 5}, r"tokenizer\.ggml\.pre: expected text, found 5"),
    ],
)
def test_bad_metadata_of_byte_level(
    tmp_path: Path, small: tuple[Any, Any], keys: dict[str, Any], message: str
) -> None:
    tokens, merges = small
    path = write_vocabulary(tmp_path / "v.gguf", "gpt2", tokens, pre="gpt-2", merges=merges, keys=keys)
    with pytest.raises(PyllmError, match=message):
        Tokenizer.from_gguf(path)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"scores": None}, r"tokenizer\.ggml\.scores: missing"),
        ({"scores": [0.5]}, r"scores: expected (\d+|an array of) numbers, one per token, found 1"),
        ({"scores": ["a"]}, r"scores: expected (\d+|an array of) numbers"),
    ],
)
def test_bad_metadata_of_pieces(tmp_path: Path, keys: dict[str, Any], message: str) -> None:
    tokens, scores = pieces(["ab"])
    path = write_vocabulary(tmp_path / "v.gguf", "llama", tokens, scores=scores, keys=keys)
    with pytest.raises(PyllmError, match=message):
        Tokenizer.from_gguf(path)


@pytest.mark.parametrize("merges", [["a b", "ab c"], ["a b", "a\n b"], ["ab"], ["a "], ["<s> a"]])
def test_bad_merges_of_pieces(tmp_path: Path, merges: list[str]) -> None:
    tokens = [(t, NORMAL) for t in ("a", "b", "ab")]
    path = write_vocabulary(tmp_path / "v.gguf", "gemma4", tokens, merges=merges)
    with pytest.raises(PyllmError, match=r"tokenizer\.ggml\.merges\[\d\]"):
        Tokenizer.from_gguf(path)


def test_scores_that_are_no_numbers(tmp_path: Path) -> None:
    tokens = [(t, NORMAL) for t in ("a", "b", "ab", "ba", "aba")]
    scores = [float("nan"), float("inf"), float("nan"), float("-inf"), float("inf")]
    path = write_vocabulary(tmp_path / "v.gguf", "llama", tokens, scores=scores, keys=NO_ROLES)
    tokenizer = Tokenizer.from_gguf(path)
    assert tokenizer.decode(tokenizer.encode("abab" * 10, add_bos=False)) == "abab" * 10


def test_tokens_that_are_not_utf8_are_tolerated(tmp_path: Path) -> None:
    tokens = [
        ("a", NORMAL),
        ("b", NORMAL),
        ("ab", NORMAL),
        (b"\xff\xfe", NORMAL),
        (b"\xe4", CONTROL),
        ("", NORMAL),
    ]
    tokens += [("", NORMAL), ("\u4e2d", NORMAL), ("<0xZZ>", BYTE)]
    tokenizer = Tokenizer.from_gguf(
        write_vocabulary(tmp_path / "v.gguf", "gpt2", tokens, pre="gpt-2", merges=["a b"])
    )
    assert tokenizer.encode("ab\u4e2d\xe4", parse_special=True) == [2]
    assert [tokenizer.piece(i) for i in range(3, 9)] == ["��", "�", "[EMPTY_5]", "[EMPTY_6]", "中", "<0xZZ>"]


@pytest.mark.parametrize("token", [-1, 10**9, 2**40])
def test_ids_outside_of_the_vocabulary(chatml: Tokenizer, token: int) -> None:
    for call in (lambda: chatml.piece(token), lambda: chatml.decode([token])):
        with pytest.raises(
            PyllmError, match=rf"token id {token}: the vocabulary has {chatml.vocab_size} tokens"
        ):
            call()


def test_a_model_without_bos(chatml: Tokenizer) -> None:
    assert chatml.bos is None
    assert chatml.encode("") == []
    with pytest.raises(PyllmError, match="add_bos"):
        chatml.encode("", add_bos=True)


def test_control_tokens_by_name(tmp_path: Path) -> None:
    """Turn markers that a converter left as ordinary tokens are control tokens nevertheless."""
    names = ["<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|fim_pad|>", "<|file_sep|>", "</s>", "<|fim_prefix|>"]
    tokens = [("a", NORMAL)] + [(name, NORMAL) for name in names]
    path = write_vocabulary(tmp_path / "v.gguf", "gemma4", [*tokens, ("aa", NORMAL)], merges=["a a"])
    tokenizer = Tokenizer.from_gguf(path)
    assert tokenizer.stop_ids == {1, 2, 3, 4, 5, 6}
    assert tokenizer.eot == 2
    assert tokenizer.eom == 3
    assert tokenizer.encode("a<|im_end|>", parse_special=True) == [0, 1]
    assert all(tokenizer.is_special(i) for i in range(1, 8))


@pytest.mark.parametrize(
    ("names", "stops"),
    [
        (["<|return|>", "<|call|>", "<|end|>"], {"<|return|>", "<|call|>"}),
        (["<|flush|>", "<|calls|>", "<|end|>"], {"<|flush|>", "<|calls|>"}),
        (["<|end|>", "<|endoftext|>"], {"<|end|>", "<|endoftext|>"}),
        (["<|tool_response>", "</s>", "<turn|>"], {"<|tool_response>", "<turn|>"}),
        (["</s>", "<end_of_turn>"], {"</s>", "<end_of_turn>"}),
    ],
)
def test_what_ends_a_turn(tmp_path: Path, names: list[str], stops: set[str]) -> None:
    tokens = [("a", NORMAL), ("aa", NORMAL)] + [(name, USER_DEFINED) for name in names]
    path = write_vocabulary(tmp_path / "v.gguf", "gemma4", tokens, merges=["a a"])
    tokenizer = Tokenizer.from_gguf(path)
    assert {tokenizer.piece(i) for i in tokenizer.stop_ids} == stops


def test_many_threads_may_encode(chatml: Tokenizer, spm: Tokenizer) -> None:
    expected = {id(t): [t.encode(text) for text in TEXTS] for t in (chatml, spm)}
    wrong: list[int] = []

    def work(tokenizer: Tokenizer) -> None:
        for _ in range(3):
            if [tokenizer.encode(text) for text in TEXTS] != expected[id(tokenizer)]:
                wrong.append(1)

    threads = [threading.Thread(target=work, args=(t,)) for t in (chatml, spm) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_long_text_of_one_piece(spm: Tokenizer) -> None:
    rng = np.random.default_rng(0)
    text = "".join(rng.choice(list("ab \n<é"), 60_000))
    started = time.perf_counter()
    assert spm.decode(spm.encode(text), skip_special=True) == text
    assert time.perf_counter() - started < 5


def test_bytes_without_a_token_keep_their_neighbours_apart(tmp_path: Path) -> None:
    tokens = [(t, NORMAL) for t in ("a", "b", "ab")]
    path = write_vocabulary(tmp_path / "v.gguf", "gpt2", tokens, pre="gpt-2", merges=["a b"])
    assert Tokenizer.from_gguf(path).encode("abcaxbaéb") == [2, 0, 1, 0, 1]


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_words_merge_as_in_the_library(seed: int, whole: bool) -> None:
    from tokenizers import Tokenizer as Library
    from tokenizers.models import BPE

    source = random.Random(seed)
    tokens, merges = list("abcd"), []
    while len(merges) < 80:
        left, right = source.choice(tokens), source.choice(tokens)
        if left + right not in tokens and len(left + right) < 12:
            merges.append((left, right))
            tokens.append(left + right)
    source.shuffle(merges)
    model = BPE({token: i for i, token in enumerate(tokens)}, merges, ignore_merges=whole)
    lines = [f"{left} {right}".encode() for left, right in merges]
    every = bytes([1]) * len(tokens)
    ours = _core.PieceTokenizer.from_merges([t.encode() for t in tokens], lines, every, [-1] * 256, -1)
    words = ["".join(source.choices("abcd", k=source.randrange(1, 30))) for _ in range(500)] + tokens
    for word in words:
        assert ours.encode_words([(word, None)], whole) == Library(model).encode(word).ids
    together = [i for word in words for i in ours.encode_words([(word, None)], whole)]
    assert ours.encode_words([(word, None) for word in words], whole) == together


def test_control_tokens_never_come_out_of_words(tmp_path: Path) -> None:
    tokens = [("a", NORMAL), ("b", NORMAL), ("ab", CONTROL), ("abb", NORMAL), ("bb", NORMAL)]
    for pre in ("gpt-2", "llama-bpe"):  # the second takes whole words
        path = write_vocabulary(tmp_path / "v.gguf", "gpt2", tokens, pre=pre, merges=["a b", "ab b", "b b"])
        tokenizer = Tokenizer.from_gguf(path)
        assert tokenizer.encode("ab", add_bos=False) == [0, 1]
        assert tokenizer.encode("abab", add_bos=False) == [0, 1, 0, 1]
        assert tokenizer.encode("xabb", add_bos=False) == [0, 4]


@pytest.mark.parametrize("words", [["a"], [()], [(1, 2)], [("\ud800", 0)]], ids=str)
def test_things_that_are_no_words(words: Any) -> None:
    ours = _core.PieceTokenizer.from_merges([b"a"], [], b"\1", [-1] * 256, -1)
    with pytest.raises((PyllmError, TypeError, UnicodeEncodeError)):
        ours.encode_words(words, False)
    with pytest.raises(PyllmError, match="usable: expected 1 flags, found 0"):
        _core.PieceTokenizer.from_merges([b"a"], [], b"", [-1] * 256, -1)
