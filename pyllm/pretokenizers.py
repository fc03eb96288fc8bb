"""How text is cut into words before byte-pair merging, by the value of `tokenizer.ggml.pre`.

A pre-tokenizer is a list of regular expressions, applied one after another: each cuts every piece left by the
ones before into its matches and the gaps between them. The expressions are those of the models' own tokenizers.
Where a GGUF name stands for several models (llama-bpe: Llama 3 and many others) they share one entry.
"""

from __future__ import annotations

from dataclasses import dataclass

from pyllm.errors import PyllmError


@dataclass(frozen=True)
class PreTokenizer:
    """The splitting expressions of one family and the defaults that its GGUF name implies."""

    patterns: tuple[str, ...]
    ignore_merges: bool = False  # a whole word that is a token is taken as it is, whatever the merges say
    add_bos: bool = False  # when the file does not say
    bytes_as_characters: bool = True  # GPT-2's printable stand-ins for bytes; False: plain, spaces as U+2581


_CONTRACTION = "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def _words(digits: str, *, contraction: str = _CONTRACTION, mark: str = "") -> str:
    """The expression that Llama 3 and Qwen 2 share: a word may take one leading non-letter, a run of
    punctuation may take the newlines behind it."""
    letter = rf"[\p{{L}}{mark}]" if mark else r"\p{L}"
    return (
        rf"{contraction}|[^\r\n\p{{L}}\p{{N}}]?{letter}+|{digits}| ?[^\s\p{{L}}{mark}\p{{N}}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    )


def _cased_words(digits: str, contraction: str, *, without: str = "", tail: str = "/") -> str:
    """The expression that GPT-4o introduced: a word changes where lower case is followed by upper case."""
    upper = rf"[\p{{Lu}}\p{{Lt}}\p{{Lm}}\p{{Lo}}\p{{M}}{without}]"
    lower = rf"[\p{{Ll}}\p{{Lm}}\p{{Lo}}\p{{M}}{without}]"
    end = rf"{contraction}?" if contraction else ""
    return (
        rf"[^\r\n\p{{L}}\p{{N}}]?{upper}*{lower}+{end}|[^\r\n\p{{L}}\p{{N}}]?{upper}+{lower}*{end}"
        rf"|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n{tail}]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )


_ASCII_PUNCTUATION = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]"""
# One ASCII sign with the letters behind it, or a word with its marks, or a run of signs.
_SIGN_WORDS = (
    _ASCII_PUNCTUATION + r"[A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_IDEOGRAPHS_AND_KANA = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
# Digits in threes, counted from the right: 1234567 is 1, 234, 567. In two steps, because looking for the end of
# the number from every group would take quadratic time.
_THREES = (r"\p{N}+", r"\A\p{N}{1,2}(?=(?:\p{N}{3})*\z)|\p{N}{3}")

# Cased alphabets (Latin, Greek, Cyrillic, Armenian, Georgian, Cherokee, Deseret) as DeepSeek LLM lists them.
_CASED_LETTERS = (
    "[A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373"
    "\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481"
    "\u048a-\u052f\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b"
    "\u1d6b-\u1d77\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b"
    "\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb"
    "\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128"
    "\u212a-\u212d\u212f-\u2134\u2139\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4"
    "\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf"
    "\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a\U00010400-\U0001044f\U000104b0-\U000104d3"
    "\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2\U000118a0-\U000118df"
    "\U0001e900-\U0001e943]+"
)
# Spaces such as U+3000 stay outside of these ranges: they belong to the word behind them, or to nothing.
_CJK = r"[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff&&[^\s]]+"

_LLAMA3 = _words(r"\p{N}{1,3}")
_QWEN2 = _words(r"\p{N}")
_BLOOM = " ?[^(\\s|.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c)]+"
_DIGITS_GPT2 = PreTokenizer((r"\p{N}", _GPT2))
_NEWLINES = r"[^\n]+|[\n]+"
_DEEPSEEK3 = PreTokenizer((r"\p{N}{1,3}", _IDEOGRAPHS_AND_KANA, _SIGN_WORDS))

_FAMILIES: tuple[tuple[str, PreTokenizer], ...] = (
    (
        "default",
        PreTokenizer((r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]")),
    ),
    (
        "gpt-2 phi-2 jina-es jina-de gigachat jina-v2-es jina-v2-de a.x-4.0 mellum modern-bert jina-v1-en "
        "jina-v2-code roberta-bpe exaone4 mpt olmo jais trillion granite-docling",
        PreTokenizer((_GPT2,)),
    ),
    ("starcoder refact command-r smollm codeshell exaone minerva-7b mellum2", _DIGITS_GPT2),
    (
        "llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano",
        PreTokenizer((_LLAMA3,), ignore_merges=True, add_bos=True),
    ),
    ("dbrx smaug-bpe chatglm-bpe", PreTokenizer((_LLAMA3,))),
    ("glm4 glm5", PreTokenizer((_LLAMA3,), ignore_merges=True)),
    (
        "minicpm5",
        PreTokenizer((r"\p{N}{1,3}", _words(r"\p{N}+")), ignore_merges=True),
    ),
    (
        "qwen2 deepseek-r1-qwen kormo f2llmv2 stablelm2 megrez hunyuan solar-open grok-2",
        PreTokenizer((_QWEN2,)),
    ),
    ("qwen35", PreTokenizer((_words(r"\p{N}", mark=r"\p{M}"),))),
    ("ufakzeka", PreTokenizer((_QWEN2.removeprefix(_CONTRACTION + "|"),))),
    ("laguna", PreTokenizer((_NEWLINES, _QWEN2))),
    (
        "seed-coder",
        PreTokenizer(
            (
                _CONTRACTION + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+"
                r"|\s+(?!\S)|\s+",
            )
        ),
    ),
    (
        "bailingmoe bailingmoe2 llada-moe",
        PreTokenizer(
            (
                r"'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
                r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
            )
        ),
    ),
    (
        "exaone-moe",
        PreTokenizer(
            (
                _CONTRACTION + r"|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}"
                r"| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+",
            )
        ),
    ),
    (
        "jais-2",
        PreTokenizer(
            (
                _CONTRACTION + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
                r"|\s{512}(?!\S)|\s{256}(?!\S)|\s{128}(?!\S)|\s{64}(?!\S)|\s{32}(?!\S)|\s{16}(?!\S)|\s{8}(?!\S)"
                r"|\s{4}(?!\S)|\s{1,2}(?!\S)|\s{1}",
            )
        ),
    ),
    (
        "tekken",
        PreTokenizer((_cased_words(r"\p{N}", ""),), ignore_merges=True, add_bos=True),
    ),
    (
        "gpt-4o llama4 kanana2 talkie minimax-m2",
        PreTokenizer((_cased_words(r"\p{N}{1,3}", _CONTRACTION),)),
    ),
    (
        "granite-embed-multi-97m",
        PreTokenizer((_cased_words(r"\p{N}{1,3}", _CONTRACTION),), ignore_merges=True),
    ),
    (
        "tiny_aya cohere2moe",
        PreTokenizer((*_THREES, _cased_words(r"\p{N}{1,3}", _CONTRACTION))),
    ),
    (
        "kimi-k2",
        PreTokenizer(
            (r"\p{Han}+|" + _cased_words(r"\p{N}{1,3}", _CONTRACTION, without=r"&&[^\p{Han}]", tail=""),)
        ),
    ),
    (
        "youtu",
        PreTokenizer(
            (
                "[\uac00-\ud7a3\u3131-\u318e]+|[\uff01\u2026\u201c\u201d\u2018\u2019\u2014\uff1a\uff1b\uff0c\u3001-\u303f\ufe30-\ufe4f]+|[\u3105-\u312f]+|"
                + _IDEOGRAPHS_AND_KANA,
                _cased_words(r"\p{N}", _CONTRACTION),
            ),
            ignore_merges=True,
        ),
    ),
    (
        "deepseek-llm",
        PreTokenizer(
            (
                "[\r\n]",
                r"\s?" + _CASED_LETTERS,
                "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3001-\u3002]+",
                r"\s+$",
                _CJK,
                r"\p{N}+",
            )
        ),
    ),
    ("deepseek-coder", PreTokenizer(("[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _CJK, r"\p{N}"))),
    ("deepseek-v3 hunyuan-dense joyai-llm hy_v4", _DEEPSEEK3),
    (
        "spark2_5",
        PreTokenizer(
            (
                r"\p{N}{1,3}",
                _IDEOGRAPHS_AND_KANA,
                _ASCII_PUNCTUATION + r"[A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+|[\r\n]"
                r"|\s+(?!\S)|\s+",
                r"\p{N}",
            )
        ),
    ),
    (
        "afmoe",
        PreTokenizer(
            (
                *_THREES,
                "[\u4e00-\u9fff\u3400-\u4dbf\u8c48-\ufaff\u3040-\u309f\u30a0-\u30ff\uff65-\uff9f\u2f00-\u2fdf"
                "\u0e40-\u0e7f\u0e80-\u0eff\u1780-\u17ff\u1000-\u109f\uaa60-\uaa7f\ua9e0-\ua9ff\uac00-\ud7af\u1100-\u11ff]+",
                _SIGN_WORDS,
            )
        ),
    ),
    ("falcon", PreTokenizer((r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, "[0-9][0-9][0-9]"))),
    ("poro-chat bloom gpt3-finnish", PreTokenizer((_BLOOM,))),
    ("viking", PreTokenizer((_BLOOM, r"\p{N}"))),
    (
        "chameleon",
        PreTokenizer(
            (
                "<sentinel:[0-9]+>",
                "IMGIMG[A-I]{1,4}Z",
                r"[\t\n]|    |  ",
                r"\p{N}",
                r"[\p{P}!-/:-@\[-`{-~]",
                _GPT2,
            ),
            add_bos=True,
        ),
    ),
    (
        "gemma4 granite-embed-multi-311m",
        PreTokenizer((_NEWLINES,), add_bos=True, bytes_as_characters=False),
    ),
    ("sarvam-moe", PreTokenizer((_NEWLINES,), bytes_as_characters=False)),
)

PRE_TOKENIZERS: dict[str, PreTokenizer] = {name: pre for names, pre in _FAMILIES for name in names.split()}


def pre_tokenizer(name: str) -> PreTokenizer:
    """The pre-tokenizer of `tokenizer.ggml.pre`; PyllmError when the name is unknown, never a guess."""
    found = PRE_TOKENIZERS.get(name)
    if found is None:
        known = ", ".join(sorted(PRE_TOKENIZERS))
        raise PyllmError(
            f"tokenizer.ggml.pre: unknown pre-tokenizer {name!r}; splitting text by guess would give "
            f"wrong tokens. Known: {known}"
        )
    return found
