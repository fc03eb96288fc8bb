"""Markdown as it streams, to lines of a terminal. Text stays text: no boxes, no padding, so it copies cleanly.

Blocks before the last one are finished: they are rendered once more and never again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from markdown_it import MarkdownIt
from markdown_it.tree import SyntaxTreeNode
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from pyllm.chat.screen import BLANK, Line
from pyllm.chat.tables import table
from pyllm.terminal import printable

if TYPE_CHECKING:
    from rich.style import StyleType

_STYLES = {"strong": "bold", "em": "italic", "s": "strike", "link": "underline"}
_BULLETS = "•◦▪"
_TAB = 4


class Markdown:
    """An answer's text, in pieces."""

    def __init__(self, colours: bool) -> None:
        self._parser = MarkdownIt("commonmark").enable(["table", "strikethrough"])
        self._console = Console(
            force_terminal=colours, color_system="auto" if colours else None, legacy_windows=False, width=80
        )
        self._text = ""  # that is not finished
        self._first = True

    def feed(self, text: str) -> None:
        """More of it."""
        self._text += text

    def lines(self, width: int, ended: bool = False) -> tuple[list[Line], list[Line]]:
        """(finished, tail): the lines that are certain now and were not before, and those that may change."""
        nodes = SyntaxTreeNode(self._parser.parse(self._text)).children
        if not nodes:
            return [], []
        finished = list(nodes) if ended else list(nodes[:-1])
        done = [line for node in finished for line in self._block(node, width)]
        tail = []
        if not ended:
            last = nodes[-1]
            first = self._first
            tail = self._block(last, width)
            self._first = first
            start = last.map[0] if last.map else 0
            self._text = "".join(self._text.splitlines(keepends=True)[start:]) if finished else self._text
        else:
            self._text = ""
        return done, tail

    def _block(self, node: SyntaxTreeNode, width: int) -> list[Line]:
        lines = [self._line(text) for text in blocks([node], width)]
        if not self._first and lines:
            lines.insert(0, BLANK)
        self._first = self._first and not lines
        return lines

    def _line(self, text: Text) -> Line:
        return styled(text, self._console)


def styled(text: Text, console: Console) -> Line:
    """A line of text in the terminal's colours."""
    parts = []
    for segment in text.render(console, end=""):
        style = segment.style
        plain = segment.text
        parts.append(style.render(plain, color_system=console._color_system) if style else plain)
    return Line("".join(parts), cell_len(text.plain.expandtabs(8)))


def blocks(nodes: Sequence[SyntaxTreeNode], width: int, tight: bool = False, depth: int = 0) -> list[Text]:
    """Lines of blocks; between them a blank one, unless `tight`."""
    lines: list[Text] = []
    for node in nodes:
        more = list(_block(node, max(width, 8), depth))
        if lines and more and not tight:
            lines.append(Text())
        lines += more
    return lines


def _block(node: SyntaxTreeNode, width: int, depth: int) -> Iterator[Text]:
    kind = node.type
    if kind == "heading":
        style = "bold underline" if node.tag == "h1" else "bold" if node.tag == "h2" else "bold italic"
        for line in wrapped(inline(node, style), width):
            yield line
    elif kind == "paragraph":
        yield from wrapped(inline(node), width)
    elif kind in ("fence", "code_block"):
        yield from _code(node)
    elif kind in ("bullet_list", "ordered_list"):
        yield from _list(node, width, depth)
    elif kind == "blockquote":
        for line in blocks(node.children, width - 2, depth=depth):
            yield Text("▌ ", "dim") + line if line.plain else Text("▌", "dim")
    elif kind == "hr":
        yield Text("─" * min(width - 1, 40), "dim")
    elif kind == "table":
        cells = [[inline(cell) for cell in row.children] for part in node.children for row in part.children]
        aligns = [str(cell.attrs.get("style", "")).removeprefix("text-align:") for cell in _header(node)]
        yield from table(cells, aligns, width)
    elif node.content:  # HTML: as it was written
        yield from wrapped(Text(printable(node.content.rstrip("\n"))), width)
    else:
        yield from blocks(node.children, width, depth=depth)


def _header(node: SyntaxTreeNode) -> Sequence[SyntaxTreeNode]:
    return node.children[0].children[0].children


def _list(node: SyntaxTreeNode, width: int, depth: int) -> Iterator[Text]:
    number = int(node.attrs.get("start", 1)) if node.type == "ordered_list" else None
    tight = all(child.hidden for item in node.children for child in item.children if child.type == "paragraph")
    for i, item in enumerate(node.children):
        marker = f"{number + i}. " if number is not None else _BULLETS[depth % len(_BULLETS)] + " "
        if i and not tight:
            yield Text()
        inner = blocks(item.children, width - len(marker), tight, depth + (number is None)) or [Text()]
        for j, line in enumerate(inner):
            yield (
                (Text(marker, "bold") if j == 0 else Text(" " * len(marker))) + line
                if line.plain or j == 0
                else line
            )


def _code(node: SyntaxTreeNode) -> Iterator[Text]:
    # Not wrapped here: the terminal's own wrapping copies as one line.
    language = node.info.split()[0] if node.info.strip() else ""
    code = printable(node.content.rstrip("\n"))
    if node.type == "fence":
        yield Text(f"```{printable(language)}", "dim")
    yield from highlighted(code, language)
    if node.type == "fence":
        yield Text("```", "dim")


def highlighted(code: str, language: str) -> list[Text]:
    """The lines of code in colours; unknown languages as they are."""
    if language:
        from rich.syntax import Syntax

        text = Syntax("", language, theme="ansi_dark", background_color="default").highlight(code)
        text.rstrip()
        if text.plain.rstrip() == code.rstrip():
            return list(text.split("\n", allow_blank=True))
    return [Text(line) for line in code.split("\n")]


def inline(node: SyntaxTreeNode, style: StyleType = "") -> Text:
    """The text within a block."""
    text = Text(style=style)
    for child in node.children:
        _inline(child, text, [])
    return text


def _inline(node: SyntaxTreeNode, text: Text, styles: list[str]) -> None:
    kind = node.type
    if kind in ("softbreak", "hardbreak"):
        text.append("\n")  # models mean the line breaks that they write
    elif kind == "code_inline":
        text.append(printable(node.content), " ".join([*styles, "cyan"]))
    elif kind in ("text", "html_inline", "text_special"):
        text.append(printable(node.content), " ".join(styles) or None)
    elif kind == "image":
        text.append(printable(node.content or "image"), " ".join([*styles, "italic"]))
        text.append(f" ({printable(str(node.attrs.get('src', '')))})", "dim")
    else:
        for child in node.children:
            _inline(child, text, [*styles, _STYLES[kind]] if kind in _STYLES else styles)
        if (
            kind == "link"
            and (url := printable(str(node.attrs.get("href", ""))))
            and not text.plain.endswith(url)
        ):
            text.append(f" ({url})", "dim")


def wrapped(text: Text, width: int) -> list[Text]:
    """Lines of at most width - 1 columns: the last stays free, terminals differ in what they do there."""
    lines = []
    for line in text.split("\n", allow_blank=True):
        line.expand_tabs(_TAB)
        lines += list(line.wrap(_WRAPPER, max(1, width - 1), overflow="fold")) if line.plain else [line]
    for line in lines:
        line.rstrip()
    return lines


_WRAPPER = Console(width=80, file=None, legacy_windows=False, color_system=None)
