"""Texts that tell tokenizers apart: hand-written corners, and seeded mixtures of scripts, signs and spaces."""

# ruff: noqa: E501, RUF001

from __future__ import annotations

import random
import unicodedata

SCRIPTS = [
    (0x61, 0x7A), (0x41, 0x5A), (0x30, 0x39), (0x20, 0x7E), (0xC0, 0x24F), (0x370, 0x3FF), (0x400, 0x4FF),
    (0x531, 0x586), (0x5D0, 0x5EA), (0x620, 0x669), (0x6F0, 0x6F9), (0x904, 0x96F), (0x985, 0x9EF), (0xB85, 0xBBF),
    (0xE01, 0xE59), (0xE81, 0xEBD), (0x10A0, 0x10FF), (0x1100, 0x11FF), (0x1200, 0x137C), (0x13A0, 0x13F4),
    (0x1780, 0x17E9), (0x1E00, 0x1FFF), (0x2010, 0x205E), (0x2070, 0x209C), (0x20A0, 0x20BF), (0x20D0, 0x20F0),
    (0x2150, 0x218B), (0x2190, 0x23FF), (0x2460, 0x27BF), (0x3000, 0x303F), (0x3041, 0x30FF), (0x3105, 0x318E),
    (0x3400, 0x4DB5), (0x4E00, 0x9FA5), (0xA4D0, 0xA4FF), (0xAC00, 0xD7A3), (0xF900, 0xFA6D), (0xFE30, 0xFE4F),
    (0xFF01, 0xFFDC), (0x10400, 0x1044F), (0x1D400, 0x1D7FF), (0x1F300, 0x1F64F), (0x1F680, 0x1F6C5),
    (0x20000, 0x2A6D6), (0x300, 0x36F), (0xFE00, 0xFE0F), (0xE000, 0xE010), (0x1, 0x1F), (0x7F, 0x9F),
]  # fmt: skip
SPACES = [" ", " ", "  ", "   ", "\n", "\n\n", "\r\n", "\t", " \n", "\n ", "\u00a0", "\u3000", "\u2003", "\v", "\f",
          "\u0085", "\u2028", "\u1680", "\u200b", "\u200d", "\ufeff"]  # fmt: skip
SNIPPETS = [
    "'s", "'RE", "'ll", "'T", "\u2019s", "don't", "We'Ve", "123456789", "1,234.56", "0x1F", "٣٤٥٦", "½", "Ⅷ", "x²",
    "def f(x):\n    return x**2\n", "<|im_end|>", "<s>", "</s>", "<0x41>", "[INST]", "<eos>", "{% if %}", "://", "//",
    "#include <a.h>", "a_b", "CamelCaseWord", "ПриветМир", "ÉcoleÀ", "e\u0301", "नमस्ते", "👩\u200d👩\u200d👧", "🇩🇪", "👍🏽",
    "日本語テキスト", "한국어", "ไทยแลนด์", "العربية", "עברית", "\u2581", "\u2581\u2581", "Ġ", "Ċ", "\ufffd", "\u0000", "----", "====", "...", "…",
]  # fmt: skip

CORNERS = [
    "", " ", "  ", "   ", "\n", "\n\n", "\n\n\n", "\t", "\t\t \n", " \n \n", "a", " a", "a ", "  a  ", "\r\n\r\n x",
    "Hello world", " Hello world", "Hello  World ", "Hello, y'all! How are you 😁 ?我想在apple工作1314151天～",
    "I'm you're they'll we've he'd it's I'M YOU'RE THEY'LL", "1 12 123 1234 12345 123456 1234567", "3.14159e-10",
    "ⅠⅡⅢ ½¼ ²³ ①② ٠١٢ ०१२ 一二三", "don''t ''quote'' \"double\" `code`", "foo_bar.baz(qux)[0] -> {a: 1}; // ok\n",
    "if (x<=y && z!=w) { return !a||b; }\n\n\tfor(;;){}\n", "line\r\nline\rline\n", "trailing spaces   \n   leading",
    "mixed\u00a0nbsp\u3000ideographic\u2003em", "naïve café Ångström", "nai\u0308ve cafe\u0301", "Straße ǅungla ŒUVRE",
    "Добрый день, мир! ПРИВЕТ приветМир", "Καλημέρα κόσμε", "שלום עולם", "مرحبا بالعالم ١٢٣", "नमस्ते दुनिया १२३",
    "สวัสดีชาวโลก ๑๒๓", "こんにちは世界。カタカナ、ひらがな!", "안녕하세요 세계 ㄱㄴㄷ", "你好,世界!123 ABC。", "ქართული ენა", "Հայերեն լեզու",
    "🚀 👍🏽 👩\u200d👩\u200d👧\u200d👦 🇩🇪🇫🇷 ☺️", "\u200b\u200d\ufeff", "\u0000\u0001\u001f\u007f\u0080\u009f", "\ue000\uf8ff", "\ufffd\uffff",
    "𝕳𝖊𝖑𝖑𝖔 𝟙𝟚𝟛 𐐀𐐨 𠀀𠀁", "====----____~~~~", "!!!???...,,,;;;:::", "$100 €50 £20 ¥1000 +1 -2 *3 /4 ^5 |6 <7 =8",
    "<|im_start|>user\nHi<|im_end|>\n", "<s>[INST] x [/INST] y</s>", "<start_of_turn>user\nHi<end_of_turn>\n", "<bos><eos><pad><unk>",
    "\u2581under\u2581line\u2581\u2581", "ĠHello Ċ ĉ", "x" * 70, " " * 40 + "x", "\n" * 20, "0" * 25, "ab " * 30, "🙂" * 12, "é" * 15,
]  # fmt: skip


def random_text(rng: random.Random) -> str:
    """A few to some tens of runs, each of one script, one kind of space or one snippet."""
    parts: list[str] = []
    for _ in range(rng.randint(1, 14)):
        kind = rng.random()
        if kind < 0.25:
            parts.append(rng.choice(SPACES) * rng.choice([1, 1, 1, 2, 3, 7]))
        elif kind < 0.45:
            parts.append(rng.choice(SNIPPETS))
        elif kind < 0.65:
            low, high = rng.choice(SCRIPTS[:4])
            parts.append("".join(chr(rng.randint(low, high)) for _ in range(rng.randint(1, 12))))
        else:
            low, high = rng.choice(SCRIPTS)
            run = "".join(chr(rng.randint(low, high)) for _ in range(rng.randint(1, 6)))
            parts.append(
                "".join(c for c in run if unicodedata.category(c) != "Cn")
            )  # what is new differs by library
    return "".join(parts)


def texts(random_count: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    return CORNERS + [random_text(rng) for _ in range(random_count)]
