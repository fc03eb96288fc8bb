"""Markdown on a terminal: what a stream shows in the end does not depend on how it was cut or painted."""

from __future__ import annotations

import random
import re

import pyte
import pytest
from rich.cells import cell_len

from pyllm.chat.columns import side_by_side
from pyllm.chat.markdown import Markdown
from pyllm.chat.screen import Screen

TEXT = """# A *title* &amp; more

First paragraph with **bold**, `code` and a [link](https://example.org/a) in it, long enough to wrap.
A second line of it.

1. one
2. two
   - nested 日本語
   - more

   a paragraph in the item
3. three

> quoted
> lines

```c
int main() { return 0; }  /* 123456789 123456789 123456789 123456789 123456789 123456789 123456789 */
```

| left | right | middle |
|:-----|------:|:------:|
| a | 1 | عربي |
| a long cell that needs to be wrapped in a narrow terminal | 22 | 👍🏽 |

***

    indented code

<b>html</b> and &#0; and &#27;[31m end
"""


def plain(line):
    return re.sub(r"\x1b\[[0-9;]*m", "", line.text)


def whole(text, width):
    markdown = Markdown(colours=True)
    markdown.feed(text)
    return [plain(line) for line in markdown.lines(width, ended=True)[0]]


@pytest.mark.parametrize("width", [24, 80])
@pytest.mark.parametrize("seed", range(4))
def test_a_stream_gives_what_the_whole_gives(width, seed):
    rng = random.Random(seed)
    markdown, lines, at = Markdown(colours=True), [], 0
    while at < len(TEXT):
        size = rng.randint(1, 12)
        markdown.feed(TEXT[at : at + size])
        at += size
        lines += markdown.lines(width)[0]
    lines += markdown.lines(width, ended=True)[0]
    assert [plain(line) for line in lines] == whole(TEXT, width)


@pytest.mark.parametrize("width", [24, 40, 80])
def test_lines_fit_and_have_no_padding(width):
    lines = whole(TEXT, width)
    for line in lines:
        assert line == line.rstrip()
        assert cell_len(line) < width or line.startswith("int main")  # code is wrapped by the terminal alone
    assert "    return" not in lines
    assert "int main() { return 0; }  /* " + "123456789 " * 7 + "*/" in lines


def test_nothing_in_an_answer_controls_the_terminal():
    lines = whole(
        "\x1b]0;t\x07 `\x1b[1m` [a](\x1b[2J)\n\n```\x1b[3m\n\x9b4m\n```\n\n&#27;[5m &#x9b;6m \u202e", 80
    )
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", "".join(lines))


def paint(text, size, columns, rows):
    """The screen and its history after a stream in pieces of `size`."""
    screen = pyte.HistoryScreen(columns, rows, history=10_000)
    stream = pyte.Stream(screen)
    return screen, stream, [text[at : at + size] for at in range(0, len(text), size)]


@pytest.mark.parametrize(("columns", "rows"), [(80, 40), (80, 6), (30, 10)])
def test_painting_ends_as_if_all_had_been_printed_at_once(monkeypatch, capsys, columns, rows):
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("LINES", str(rows))
    text = TEXT.replace("👍🏽", "ok")  # pyte counts emoji in its own way
    terminal, stream, pieces = paint(text, 9, columns, rows)
    markdown, screen = Markdown(colours=True), Screen()
    for piece in pieces:
        markdown.feed(piece)
        screen.paint(*markdown.lines(columns))
    screen.end(markdown.lines(columns, ended=True)[0])
    stream.feed(re.sub(r"\x1b\[\?2026[hl]", "", capsys.readouterr().out))
    above = ["".join(line[x].data for x in range(columns)).rstrip() for line in terminal.history.top]
    shown = [*above, *(line.rstrip() for line in terminal.display)]
    expected = []
    for line in whole(text, columns):
        expected += [line[at : at + columns].rstrip() for at in range(0, max(1, len(line)), columns)]
    if rows == 40:
        assert shown[: len(expected)] == expected
    else:  # lines of a table that had left through the top keep the widths they had
        words = " ".join(expected).split()
        assert [word for word in " ".join(shown).split() if "─" not in word] == [
            w for w in words if "─" not in w
        ]


def test_columns_stand_side_by_side_or_one_below_the_other():
    wide = list(side_by_side(["one two", "日本"], 80))
    assert wide == [f"{'── 1 ──':<38} │ ── 2 ──", f"{'one two':<38} │ 日本"]
    assert list(side_by_side(["one", "two"], 30)) == ["── 1 ──", "one", "── 2 ──", "two"]
