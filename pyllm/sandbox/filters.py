"""Filters of chat templates: our own where Jinja's would lose the marks or work without end; all are paid."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from jinja2.exceptions import SecurityError
from markupsafe import Markup

from pyllm.marked import Marked, joined
from pyllm.sandbox.budget import Counted, CountedStream
from pyllm.sandbox.rules import BY_CHARACTER, REMOVED_FILTERS, SHALLOW, SIZES

if TYPE_CHECKING:
    from pyllm.sandbox.environment import ChatEnvironment


def install(environment: ChatEnvironment) -> None:
    """Gives the environment its filters and tests; each pays for what it is given and what it makes."""
    own = _Filters(environment)
    environment.filters.update(
        join=own.join,
        format=own.format,
        tojson=_tojson,
        sum=own.sum,
        replace=own.replace,
        safe=_safe,
        indent=own.indent,
        string=environment.text_of,
    )
    for name in REMOVED_FILTERS:
        environment.filters.pop(name, None)
    for table in (environment.filters, environment.tests):
        for name, function in list(table.items()):
            table[name] = _charged(environment, name, function)
    environment.filters.update(_turns=own.turns, _enter=own.enter)  # see compiler.weigh


def _charged(environment: ChatEnvironment, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, paying for what it is given and what it makes."""
    skipped = 1 if hasattr(function, "jinja_pass_arg") else 0
    shallow = name in SHALLOW

    @functools.wraps(function)
    def charged(*args: Any, **kwargs: Any) -> Any:
        budget = environment.budget
        for value in (*args[skipped:], *kwargs.values()):
            budget.work(value) if shallow else budget.tree(value)
            if name in BY_CHARACTER and isinstance(value, str):
                budget.spend(len(value))
        if name in SIZES:
            place, key, most = SIZES[name]
            size = kwargs.get(key, args[skipped + 1 + place] if len(args) > skipped + 1 + place else 0)
            if isinstance(size, int) and not -most <= size <= most:
                raise SecurityError(f"{name}: {key} {size} is more than {most}")
        result = function(*args, **kwargs)
        if isinstance(result, str):
            budget.text(len(result))
        elif hasattr(result, "__next__"):
            return CountedStream(result, budget)
        else:
            budget.work(result)
        return result

    return charged


class _Filters:
    def __init__(self, environment: ChatEnvironment) -> None:
        self._environment = environment

    def turns(self, items: Any, weight: int) -> Any:
        return Counted(items, self._environment.budget, weight)

    def enter(self, nothing: str, weight: int) -> str:
        self._environment.budget.spend(weight)
        return nothing

    def join(self, value: Iterable[Any], d: str = "", attribute: str | None = None) -> str:
        items = list(value)
        if attribute is not None:
            items = [self._environment.getitem(item, attribute) for item in items]
        separator = self._environment.text_of(d)
        self._environment.budget.spend(len(items))
        texts = [self._environment.text_of(item) for item in items]
        self._environment.budget.text(sum(map(len, texts)) + len(separator) * len(texts))
        return joined(texts, separator)

    def format(self, value: str, *args: Any, **kwargs: Any) -> str:
        if args and kwargs:
            raise TypeError("format: either positional or keyword arguments, not both")
        return self._environment.percent(self._environment.text_of(value), kwargs or args)

    def replace(self, s: str, old: str, new: str, count: int | None = None) -> str:
        s, old, new = map(self._environment.text_of, (s, old, new))
        self._environment.budget.replaced(s, old, new)
        return s.replace(old, new, -1 if count is None else count)

    def indent(self, value: str, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
        margin = width if isinstance(width, str) else " " * min(width, 1000)
        self._environment.budget.spend(len(value))
        lines = value.splitlines() + ([""] if value.endswith("\n") else [])
        self._environment.budget.text(len(value) + len(lines) * len(margin))
        return joined(
            [margin + line if (i or first) and (line or blank) else line for i, line in enumerate(lines)], "\n"
        )

    def sum(self, iterable: Iterable[Any], attribute: str | int | None = None, start: Any = 0) -> Any:
        total = start
        for item in iterable:
            value = item if attribute is None else self._environment.getitem(item, attribute)
            if not isinstance(value, int | float) or not isinstance(total, int | float):
                raise SecurityError("sum: adds numbers in chat templates")
            self._environment.budget.spend()
            total += value
        return total


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as the models were trained on: no HTML escapes, characters as they are."""
    if (isinstance(indent, int) and indent > 100) or (isinstance(indent, str) and len(indent) > 100):
        raise SecurityError(f"tojson: indent {indent!r:.20} is more than 100")
    if separators is not None and any(len(separator) > 100 for separator in separators):
        raise SecurityError("tojson: separators of more than 100 characters")
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _safe(value: Any) -> Any:
    return value if isinstance(value, Marked) else Markup(value)
