"""What templates may call, and by what each is paid for."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

from pyllm.sandbox.budget import MAX_ITEMS

# Methods of values that templates may call: all that neither change a value nor reach beyond it.
TEXT_METHODS = frozenset((
    "capitalize", "casefold", "count", "endswith", "find", "format", "format_map", "index", "isalnum",
    "isalpha", "isascii", "isdecimal", "isdigit", "islower", "isnumeric", "isspace", "istitle", "isupper",
    "join", "lower", "lstrip", "partition", "removeprefix", "removesuffix", "replace", "rfind", "rindex",
    "rpartition", "rsplit", "rstrip", "split", "splitlines", "startswith", "strip", "swapcase", "title",
    "upper", "center", "ljust", "rjust", "zfill", "expandtabs",
))  # fmt: skip
METHODS: tuple[tuple[type, frozenset[str]], ...] = (
    (str, TEXT_METHODS),
    (dict, frozenset(("get", "items", "keys", "values", "copy"))),
    (list, frozenset(("index", "count", "copy"))),
    (tuple, frozenset(("index", "count"))),
    (set, frozenset(("union", "intersection", "difference", "issubset", "issuperset", "isdisjoint", "copy"))),
    (range, frozenset(("index", "count"))),
    (float, frozenset(("is_integer",))),
    (int, frozenset(("bit_length",))),
    (bytes, frozenset()),
    (type, frozenset()),
)
# Methods and filters that make an object or take a step for every few characters.
BY_CHARACTER = frozenset((
    "split", "rsplit", "splitlines", "title", "wordcount", "striptags", "list", "join", "sort", "unique",
    "batch", "slice", "min", "max",
))  # fmt: skip
# Filters and tests that look at their argument's items but not into them; all others pay for everything.
SHALLOW = frozenset((
    "default", "d", "length", "count", "first", "last", "list", "items", "attr", "map", "select", "reject",
    "selectattr", "rejectattr", "batch", "slice", "reverse", "safe", "string", "trim", "upper", "lower",
    "capitalize", "title", "abs", "int", "float", "round", "random", "defined", "undefined", "none",
    "boolean", "string", "number", "integer", "float", "mapping", "iterable", "sequence", "callable", "true",
    "false", "odd", "even", "divisibleby", "lower", "upper", "sameas", "filter", "test",
))  # fmt: skip
REMOVED_FILTERS = ("urlize", "xmlattr", "urlencode", "forceescape", "wordwrap")
# Arguments that decide how much a filter makes: by name, or by place behind the value.
SIZES: Mapping[str, tuple[int, str, int]] = {
    "center": (0, "width", 10_000),
    "batch": (0, "linecount", MAX_ITEMS),
    "slice": (0, "slices", 10_000),
    "round": (0, "precision", 100),
}
COMPARE: Mapping[str, Callable[[Any, Any], Any]] = {
    "eq": operator.eq,
    "ne": operator.ne,
    "gt": operator.gt,
    "gteq": operator.ge,
    "lt": operator.lt,
    "lteq": operator.le,
    "in": lambda item, items: item in items,
    "notin": lambda item, items: item not in items,
}
