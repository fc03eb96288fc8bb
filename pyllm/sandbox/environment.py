"""The Jinja environment of chat templates: whatever one computes passes through here and is paid for."""

from __future__ import annotations

import re
import threading
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedFormatter
from jinja2.utils import Namespace
from markupsafe import Markup

from pyllm.marked import Marked, joined, percent_format
from pyllm.sandbox.budget import (
    MAX_DEPTH,
    MAX_ITEMS,
    TEXT_PER_STEP,
    Budget,
    BudgetError,
    bits,
    check_bits,
)
from pyllm.sandbox.compiler import Generation, Generator, weigh
from pyllm.sandbox.filters import install
from pyllm.sandbox.rules import BY_CHARACTER, COMPARE, METHODS


class ChatEnvironment(ImmutableSandboxedEnvironment):
    """Compiles one template. Rendering holds `lock`, because the budget belongs to one rendering at a time."""

    code_generator_class = Generator
    intercepted_binops = frozenset(("+", "*", "/", "//", "%", "**"))

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,
            extensions=[Generation, "jinja2.ext.loopcontrols"],
        )
        self.literals: list[Marked] = []
        self.budget = Budget()
        self.lock = threading.Lock()
        self.finalize = self.text_of
        install(self)
        self.globals.pop("lipsum", None)
        self.globals.update(
            namespace=_Namespace,
            range=_range,
            raise_exception=_raise_exception,
            strftime_now=_strftime_now,
        )
        self._callable_types = tuple(v for v in self.globals.values() if isinstance(v, type) and v is not dict)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        weigh(tree)
        tree.set_environment(self)
        return tree

    # -- what the compiled template asks for

    def concat(self, parts: Iterable[str]) -> str:
        parts = list(parts)
        self.budget.text(sum(map(len, parts)))
        return joined(parts)

    def tilde(self, values: Sequence[Any]) -> str:
        return self.concat([self.text_of(value) for value in values])

    def make_tuple(self, values: tuple[Any, ...]) -> tuple[Any, ...]:
        self.budget.tree(values)  # hashing one looks at everything inside, each time
        return values

    def compare(self, name: str, left: Any, right: Any) -> Any:
        if name in ("in", "notin"):
            self.budget.tree(right) if not isinstance(right, Mapping) else self.budget.spend()
        elif isinstance(left, str) and isinstance(right, str):
            self.budget.spend(1 + min(len(left), len(right)) // TEXT_PER_STEP)
        else:
            self.budget.tree(left)
            self.budget.tree(right)
        return COMPARE[name](left, right)

    def cut(self, value: Any, start: Any, stop: Any, step: Any) -> Any:
        self.budget.work(value)
        return value[slice(start, stop, step)]

    def getattr(self, obj: Any, attribute: str) -> Any:
        self.budget.spend()
        return super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        self.budget.spend()
        return super().getitem(obj, argument)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        budget = self.budget
        budget.spend()
        if operator == "+":
            if isinstance(left, str) and isinstance(right, str):
                budget.text(len(left) + len(right))
                if isinstance(left, Markup) or isinstance(right, Markup):  # HTML escapes, as with Jinja alone
                    left, right = (str.__str__(v) if isinstance(v, Marked) else v for v in (left, right))
            elif isinstance(left, list | tuple) and isinstance(right, list | tuple):
                budget.items(len(left) + len(right))
        elif operator == "*":
            for value, times in ((left, right), (right, left)):
                if isinstance(value, str) and isinstance(times, int):
                    budget.text(len(value) * max(times, 0))
                elif isinstance(value, list | tuple) and isinstance(times, int):
                    budget.items(len(value) * max(times, 0))
            check_bits(bits(left) + bits(right))
        elif operator == "**":
            if isinstance(left, int) and isinstance(right, int):
                check_bits(max(right, 0) * bits(left))
        elif operator == "%" and isinstance(left, str):
            return self.percent(left, right)
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        budget = __self.budget
        budget.spend(3)
        owner = getattr(__obj, "__self__", None)
        if isinstance(__obj, type):
            if __obj is not dict and __obj not in __self._callable_types:
                raise SecurityError(f"{__obj.__name__} is not for chat templates")
            budget.tree([args, kwargs])
        elif owner is not None and not isinstance(__obj, types.FunctionType):
            __self._check_method(owner, __obj.__name__, (*args, *kwargs.values()))
        budget.depth += 1
        if budget.depth > MAX_DEPTH:
            raise BudgetError(f"the chat template calls macros more than {MAX_DEPTH} deep")
        try:
            result = super().call(__context, __obj, *args, **kwargs)
        finally:
            budget.depth -= 1
        if not isinstance(__obj, Macro):
            budget.work(result)
        return result

    def _check_method(self, owner: Any, name: str, args: tuple[Any, ...]) -> None:
        kind, allowed = next((entry for entry in METHODS if isinstance(owner, entry[0])), (None, frozenset()))
        if kind is None:  # an object of Jinja's own: loop.changed(x) looks into x
            self.budget.tree(args)
            return
        if name not in allowed:
            raise SecurityError(f"{kind.__name__}.{name} is not for chat templates")
        budget = self.budget
        if kind is not str:
            if name in ("index", "count"):
                budget.tree(owner)
            budget.work(owner)
            return
        sizes = [len(arg) for arg in args if isinstance(arg, str)]
        budget.spend((len(owner) + sum(sizes)) // TEXT_PER_STEP)
        if name in BY_CHARACTER:
            budget.spend(len(owner) // 4)
        elif name in ("center", "ljust", "rjust", "zfill", "expandtabs"):
            width = max((arg for arg in args if isinstance(arg, int)), default=0)
            budget.text(len(owner) + width * (1 + owner.count("\t") if name == "expandtabs" else 1))
        elif name == "replace" and len(sizes) >= 2:
            self.budget.replaced(owner, args[0], args[1])
        elif name == "join" and args:
            if not isinstance(args[0], list | tuple | str):
                raise SecurityError("str.join takes a list in chat templates")
            budget.text(sum(len(i) for i in args[0] if isinstance(i, str)) + len(owner) * len(args[0]))

    # -- values to text

    def text_of(self, value: Any) -> str:
        if isinstance(value, str):
            self.budget.text(len(value))
            return str.__str__(value) if isinstance(value, Markup) else value
        if isinstance(value, list | tuple | dict | set):
            self.budget.tree(value)
        else:
            self.budget.spend()
        text = str(value)
        self.budget.text(len(text))
        return text

    def percent(self, pattern: str, values: Any) -> str:
        if re.search(r"%[^a-zA-Z%]*(\*|\d{4})", pattern):
            raise SecurityError("a width of more than three digits in a format")
        self.budget.text(len(pattern))
        self.budget.tree(values)
        text = percent_format(pattern, values)
        self.budget.text(len(text))
        return text

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """`str.format` of the template's: checked, and with marks."""
        owner = getattr(value, "__self__", None)
        name = getattr(value, "__name__", "")
        if not isinstance(owner, str) or name not in ("format", "format_map") or isinstance(value, type):
            return None

        def formatted(*args: Any, **kwargs: Any) -> str:
            if name == "format_map":
                kwargs, args = dict(*args), ()
            self.budget.tree([args, kwargs])
            return self.concat(_Formatter(self).parts(owner, args, kwargs))

        return formatted


class _Formatter(SandboxedFormatter):
    def __init__(self, environment: ChatEnvironment) -> None:
        super().__init__(environment)
        self._environment = environment

    def parts(self, pattern: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterator[str]:
        trusted = isinstance(pattern, Marked) and all(pattern.marks)
        count = 0
        for literal, field, spec, conversion in self.parse(str.__str__(pattern)):
            if literal:
                yield Marked(literal) if trusted else literal
            if field is None:
                continue
            if not field or field[0] in ".[":
                field, count = f"{count}{field}", count + 1
            value, _ = self.get_field(field, args, kwargs)
            if conversion:
                value = self.convert_field(value, conversion)
            if not spec:
                yield self._environment.text_of(value)
                continue
            if "{" in spec or re.search(r"\d{4}", spec):
                raise SecurityError("a nested format, or a width of more than three digits")
            yield self.format_field(value, spec)


class _Namespace(Namespace):
    """One that can be printed at no cost, even when it holds itself."""

    def __repr__(self) -> str:
        return "<namespace>"


def _range(*args: int) -> range:
    made = range(*args)
    if len(made) > MAX_ITEMS:
        raise BudgetError(f"the chat template makes a range of more than {MAX_ITEMS} items")
    return made


def _raise_exception(message: Any) -> None:
    raise TemplateError(str(message))


def _strftime_now(pattern: str) -> str:
    if len(pattern) > 200 or re.search(r"%[^a-zA-Z%]*\d\d", pattern):
        raise SecurityError("strftime_now: this format is too long")
    return datetime.now().strftime(pattern)
