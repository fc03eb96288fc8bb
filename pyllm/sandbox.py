"""Jinja for chat templates out of downloaded files: no way out, and a budget on steps, text and depth.

Every loop turn, call, operator, filter, test, lookup and output spends from the budget, in proportion to its
work, so that a template which would run for ever or fill the memory ends with an error in about a second. The
template's own literals are `Marked`, see marked.py.
"""

from __future__ import annotations

import functools
import json
import operator
import re
import threading
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Context, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedFormatter
from jinja2.utils import Namespace
from markupsafe import Markup

from pyllm.errors import PyllmError
from pyllm.marked import Marked, joined, percent_format

MAX_SOURCE = 256 * 1024  # characters; the largest known templates have 30,000
MAX_TEXT = 16 * 1024 * 1024  # characters of any one text, and of the output, beyond what came in
MAX_ITEMS = 100_000  # of a range, and of a list that an operator makes
MAX_DEPTH = 100  # macros within macros
MAX_BITS = 4096  # of an integer
STEPS = 1_000_000
_TEXT_PER_STEP = 64  # characters that are copied or compared in the time of one step


class BudgetError(Exception):
    """The template wants more than it may use."""


class Budget:
    """What one rendering may still use. `given` characters came in as values: moving those about is free."""

    def __init__(self, given: int = 0) -> None:
        self.left = STEPS + given
        self.most_text = MAX_TEXT + 4 * given
        self.depth = 0

    def spend(self, steps: int = 1) -> None:
        self.left -= steps
        if self.left < 0:
            raise BudgetError("the chat template runs too long (does it loop without end?)")

    def text(self, length: int) -> None:
        """Pays for a text that is about to be made."""
        if length > self.most_text:
            raise BudgetError(f"the chat template makes a text of more than {self.most_text} characters")
        self.spend(1 + length // _TEXT_PER_STEP)

    def items(self, count: int) -> None:
        """Pays for a list that is about to be made."""
        if count > MAX_ITEMS:
            raise BudgetError(f"the chat template makes a list of more than {MAX_ITEMS} items")
        self.spend(1 + count)

    def tree(self, value: Any) -> None:
        """Pays for everything inside a value: a few nested lists can hold a million others."""
        stack = [value]
        while stack:
            value = stack.pop()
            if isinstance(value, str):
                self.spend(1 + len(value) // _TEXT_PER_STEP)
                continue
            self.spend()
            if isinstance(value, Mapping):
                self.spend(len(value))
                stack.extend(value)
                stack.extend(value.values())
            elif isinstance(value, list | tuple | set | frozenset):
                self.spend(len(value))
                stack.extend(value)

    def work(self, value: Any) -> None:
        """Pays for looking at every item of a value, not into them."""
        if isinstance(value, str):
            self.spend(1 + len(value) // _TEXT_PER_STEP)
        elif isinstance(value, list | tuple | Mapping | set):
            self.spend(1 + len(value))
        else:
            self.spend()


class _Counted:
    """An iterable that pays for each item."""

    def __init__(self, items: Iterable[Any], budget: Budget, weight: int) -> None:
        self._items, self._budget, self._weight = items, budget, weight

    def __iter__(self) -> Iterator[Any]:
        for item in self._items:
            self._budget.spend(self._weight)
            yield item

    def __len__(self) -> int:
        length = len(self._items)  # type: ignore[arg-type]  # TypeError is the answer where there is none
        self._budget.spend()
        return length


class _CountedStream:
    """As _Counted, for what has no length."""

    def __init__(self, items: Iterator[Any], budget: Budget) -> None:
        self._items, self._budget = items, budget

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        self._budget.spend()
        return next(self._items)

    def __repr__(self) -> str:
        return "<generator>"


class _Namespace(Namespace):
    """One that can be printed at no cost, even when it holds itself."""

    def __repr__(self) -> str:
        return "<namespace>"


class _Generator(CodeGenerator):
    """Writes Python that asks the environment where Jinja's own would compute by itself."""

    environment: ChatEnvironment

    def _literal(self, text: str) -> str:
        literals = self.environment.literals
        literals.append(Marked(text))
        return f"environment.literals[{len(literals) - 1}]"

    def _output_const_repr(self, group: Iterable[Any]) -> str:
        return self._literal("".join(group))

    def _output_child_to_const(self, node: nodes.Expr, frame: Frame, finalize: Any) -> str:
        if not isinstance(node, nodes.TemplateData):
            raise nodes.Impossible()
        return node.data

    def visit_Const(self, node: nodes.Const, frame: Frame) -> None:  # noqa: N802
        if isinstance(node.value, str):
            self.write(self._literal(node.value))
        else:
            super().visit_Const(node, frame)

    def visit_TemplateData(self, node: nodes.TemplateData, frame: Frame) -> None:  # noqa: N802
        self.write(self._literal(node.data))

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:  # noqa: N802
        self._ask("tilde", node.nodes, frame)

    def visit_Tuple(self, node: nodes.Tuple, frame: Frame) -> None:  # noqa: N802
        if node.ctx == "load":
            self._ask("make_tuple", node.items, frame)
        else:
            super().visit_Tuple(node, frame)

    def visit_Compare(self, node: nodes.Compare, frame: Frame) -> None:  # noqa: N802
        left = node.expr
        self.write("(")
        for i, operand in enumerate(node.ops):
            self.write(" and " if i else "")
            self.write(f"environment.compare({operand.op!r}, ")
            self.visit(left, frame)
            self.write(", ")
            self.visit(operand.expr, frame)
            self.write(")")
            left = operand.expr
        self.write(")")

    def visit_Getitem(self, node: nodes.Getitem, frame: Frame) -> None:  # noqa: N802
        if not isinstance(node.arg, nodes.Slice):
            super().visit_Getitem(node, frame)
            return
        self.write("environment.cut(")
        self.visit(node.node, frame)
        for part in (node.arg.start, node.arg.stop, node.arg.step):
            self.write(", ")
            if part is None:
                self.write("None")
            else:
                self.visit(part, frame)
        self.write(")")

    def _ask(self, method: str, arguments: Iterable[nodes.Node], frame: Frame) -> None:
        self.write(f"environment.{method}((")
        for argument in arguments:
            self.visit(argument, frame)
            self.write(", ")
        self.write("))")


class _Generation(Extension):
    """`{% generation %}`: marks the assistant's tokens for training; here only its content counts."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True)).set_lineno(line)


# Methods of values that templates may call: all that neither change a value nor reach beyond it.
_TEXT_METHODS = frozenset((
    "capitalize", "casefold", "count", "endswith", "find", "format", "format_map", "index", "isalnum",
    "isalpha", "isascii", "isdecimal", "isdigit", "islower", "isnumeric", "isspace", "istitle", "isupper",
    "join", "lower", "lstrip", "partition", "removeprefix", "removesuffix", "replace", "rfind", "rindex",
    "rpartition", "rsplit", "rstrip", "split", "splitlines", "startswith", "strip", "swapcase", "title",
    "upper", "center", "ljust", "rjust", "zfill", "expandtabs",
))  # fmt: skip
_METHODS: tuple[tuple[type, frozenset[str]], ...] = (
    (str, _TEXT_METHODS),
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
_BY_CHARACTER = frozenset((
    "split", "rsplit", "splitlines", "title", "wordcount", "striptags", "list", "join", "sort", "unique",
    "batch", "slice", "min", "max",
))  # fmt: skip
# Filters and tests that look at their argument's items but not into them; all others pay for everything.
_SHALLOW = frozenset((
    "default", "d", "length", "count", "first", "last", "list", "items", "attr", "map", "select", "reject",
    "selectattr", "rejectattr", "batch", "slice", "reverse", "safe", "string", "trim", "upper", "lower",
    "capitalize", "title", "abs", "int", "float", "round", "random", "defined", "undefined", "none",
    "boolean", "string", "number", "integer", "float", "mapping", "iterable", "sequence", "callable", "true",
    "false", "odd", "even", "divisibleby", "lower", "upper", "sameas", "filter", "test",
))  # fmt: skip
_REMOVED_FILTERS = ("urlize", "xmlattr", "urlencode", "forceescape", "wordwrap")
# Arguments that decide how much a filter makes: by name, or by place behind the value.
_SIZES: Mapping[str, tuple[int, str, int]] = {
    "center": (0, "width", 10_000),
    "batch": (0, "linecount", MAX_ITEMS),
    "slice": (0, "slices", 10_000),
    "round": (0, "precision", 100),
}
_COMPARE: Mapping[str, Callable[[Any, Any], Any]] = {
    "eq": operator.eq,
    "ne": operator.ne,
    "gt": operator.gt,
    "gteq": operator.ge,
    "lt": operator.lt,
    "lteq": operator.le,
    "in": lambda item, items: item in items,
    "notin": lambda item, items: item not in items,
}


class ChatEnvironment(ImmutableSandboxedEnvironment):
    """Compiles one template. Rendering holds `lock`, because the budget belongs to one rendering at a time."""

    code_generator_class = _Generator
    intercepted_binops = frozenset(("+", "*", "/", "//", "%", "**"))

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,
            extensions=[_Generation, "jinja2.ext.loopcontrols"],
        )
        self.literals: list[Marked] = []
        self.budget = Budget()
        self.lock = threading.Lock()
        self.finalize = self._finalize
        self.filters.update(
            {"join": self._join, "format": self._format_filter, "tojson": self._tojson, "sum": self._sum}
        )
        self.filters["replace"] = self._replace
        self.filters.update({"safe": _safe, "indent": self._indent, "string": self._string})
        for name in _REMOVED_FILTERS:
            self.filters.pop(name, None)
        for table in (self.filters, self.tests):
            for name, function in list(table.items()):
                table[name] = self._charged(name, function)
        self.filters["_turns"] = self._turns
        self.filters["_enter"] = self._enter
        self.globals.pop("lipsum", None)
        self.globals.update(
            namespace=_Namespace,
            range=self._range,
            raise_exception=_raise_exception,
            strftime_now=_strftime_now,
        )
        self._callable_types = tuple(v for v in self.globals.values() if isinstance(v, type) and v is not dict)

    # -- compiling

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        for node in list(tree.find_all((nodes.For, nodes.Macro, nodes.CallBlock, nodes.EvalContextModifier))):
            if isinstance(node, nodes.EvalContextModifier) or (isinstance(node, nodes.For) and node.recursive):
                raise TemplateError(
                    f"line {node.lineno}: autoescape and recursive loops are not for chat templates"
                )
            # A turn costs as much as its body has parts.
            weight = nodes.Const(1 + sum(1 for _ in node.find_all(nodes.Node)) // 4)
            if isinstance(node, nodes.For):
                node.iter = nodes.Filter(node.iter, "_turns", [weight], [], None, None).set_lineno(node.lineno)
            elif isinstance(node, nodes.Macro | nodes.CallBlock):
                entry = nodes.Filter(nodes.Const(""), "_enter", [weight], [], None, None)
                node.body.insert(0, nodes.Output([entry]).set_lineno(node.lineno))
        tree.set_environment(self)
        return tree

    def _turns(self, items: Any, weight: int) -> Any:
        return _Counted(items, self.budget, weight)

    def _enter(self, nothing: str, weight: int) -> str:
        self.budget.spend(weight)
        return nothing

    # -- what the compiled template asks for

    def concat(self, parts: Iterable[str]) -> str:
        parts = list(parts)
        self.budget.text(sum(map(len, parts)))
        return joined(parts)

    def tilde(self, values: Sequence[Any]) -> str:
        return self.concat([self._finalize(value) for value in values])

    def make_tuple(self, values: tuple[Any, ...]) -> tuple[Any, ...]:
        self.budget.tree(values)  # hashing one looks at everything inside, each time
        return values

    def compare(self, name: str, left: Any, right: Any) -> Any:
        if name in ("in", "notin"):
            self.budget.tree(right) if not isinstance(right, Mapping) else self.budget.spend()
        elif isinstance(left, str) and isinstance(right, str):
            self.budget.spend(1 + min(len(left), len(right)) // _TEXT_PER_STEP)
        else:
            self.budget.tree(left)
            self.budget.tree(right)
        return _COMPARE[name](left, right)

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
            _small(_bits(left) + _bits(right))
        elif operator == "**":
            if isinstance(left, int) and isinstance(right, int):
                _small(max(right, 0) * _bits(left))
        elif operator == "%" and isinstance(left, str):
            return self._percent(left, right)
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
        kind, allowed = next((entry for entry in _METHODS if isinstance(owner, entry[0])), (None, frozenset()))
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
        budget.spend((len(owner) + sum(sizes)) // _TEXT_PER_STEP)
        if name in _BY_CHARACTER:
            budget.spend(len(owner) // 4)
        elif name in ("center", "ljust", "rjust", "zfill", "expandtabs"):
            width = max((arg for arg in args if isinstance(arg, int)), default=0)
            budget.text(len(owner) + width * (1 + owner.count("\t") if name == "expandtabs" else 1))
        elif name == "replace" and len(sizes) >= 2:
            self._replaced(owner, args[0], args[1])
        elif name == "join" and args:
            if not isinstance(args[0], list | tuple | str):
                raise SecurityError("str.join takes a list in chat templates")
            budget.text(sum(len(i) for i in args[0] if isinstance(i, str)) + len(owner) * len(args[0]))

    def _replaced(self, text: str, old: str, new: str) -> None:
        """Pays for text.replace(old, new)."""
        found = text.count(old) if old else len(text) + 1
        self.budget.text(len(text) + found * len(new))
        self.budget.spend(found // 4)

    # -- values to text

    def _finalize(self, value: Any) -> str:
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

    def _percent(self, pattern: str, values: Any) -> str:
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

    # -- filters and globals

    def _charged(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, paying for what it is given and what it makes."""
        skipped = 1 if hasattr(function, "jinja_pass_arg") else 0
        shallow = name in _SHALLOW

        @functools.wraps(function)
        def charged(*args: Any, **kwargs: Any) -> Any:
            budget = self.budget
            for value in (*args[skipped:], *kwargs.values()):
                budget.work(value) if shallow else budget.tree(value)
                if name in _BY_CHARACTER and isinstance(value, str):
                    budget.spend(len(value))
            if name in _SIZES:
                place, key, most = _SIZES[name]
                size = kwargs.get(key, args[skipped + 1 + place] if len(args) > skipped + 1 + place else 0)
                if isinstance(size, int) and not -most <= size <= most:
                    raise SecurityError(f"{name}: {key} {size} is more than {most}")
            result = function(*args, **kwargs)
            if isinstance(result, str):
                budget.text(len(result))
            elif hasattr(result, "__next__"):
                return _CountedStream(result, budget)
            else:
                budget.work(result)
            return result

        return charged

    def _range(self, *args: int) -> range:
        made = range(*args)
        if len(made) > MAX_ITEMS:
            raise BudgetError(f"the chat template makes a range of more than {MAX_ITEMS} items")
        return made

    def _join(self, value: Iterable[Any], d: str = "", attribute: str | None = None) -> str:
        items = list(value)
        if attribute is not None:
            items = [self.getitem(item, attribute) for item in items]
        separator = self._finalize(d)
        self.budget.spend(len(items))
        texts = [self._finalize(item) for item in items]
        self.budget.text(sum(map(len, texts)) + len(separator) * len(texts))
        return joined(texts, separator)

    def _format_filter(self, value: str, *args: Any, **kwargs: Any) -> str:
        if args and kwargs:
            raise TypeError("format: either positional or keyword arguments, not both")
        return self._percent(self._finalize(value), kwargs or args)

    def _replace(self, s: str, old: str, new: str, count: int | None = None) -> str:
        s, old, new = self._finalize(s), self._finalize(old), self._finalize(new)
        self._replaced(s, old, new)
        return s.replace(old, new, -1 if count is None else count)

    def _string(self, value: Any) -> str:
        return self._finalize(value)

    def _indent(self, value: str, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
        margin = width if isinstance(width, str) else " " * min(width, 1000)
        self.budget.spend(len(value))
        lines = value.splitlines() + ([""] if value.endswith("\n") else [])
        self.budget.text(len(value) + len(lines) * len(margin))
        return joined(
            [margin + line if (i or first) and (line or blank) else line for i, line in enumerate(lines)], "\n"
        )

    def _sum(self, iterable: Iterable[Any], attribute: str | int | None = None, start: Any = 0) -> Any:
        total = start
        for item in iterable:
            value = item if attribute is None else self.getitem(item, attribute)
            if not isinstance(value, int | float) or not isinstance(total, int | float):
                raise SecurityError("sum: adds numbers in chat templates")
            self.budget.spend()
            total += value
        return total

    def _tojson(
        self,
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
                yield self._environment._finalize(value)
                continue
            if "{" in spec or re.search(r"\d{4}", spec):
                raise SecurityError("a nested format, or a width of more than three digits")
            yield self.format_field(value, spec)


def _bits(value: Any) -> int:
    return value.bit_length() if isinstance(value, int) else 0


def _small(bits: int) -> None:
    if bits > MAX_BITS:
        raise BudgetError("the chat template computes an integer of more than a thousand digits")


def _safe(value: Any) -> Any:
    return value if isinstance(value, Marked) else Markup(value)


def _raise_exception(message: Any) -> None:
    raise TemplateError(str(message))


def _strftime_now(pattern: str) -> str:
    if len(pattern) > 200 or re.search(r"%[^a-zA-Z%]*\d\d", pattern):
        raise SecurityError("strftime_now: this format is too long")
    return datetime.now().strftime(pattern)


class CompiledTemplate:
    """A template, ready to render from any thread."""

    def __init__(self, source: str) -> None:
        """Raises PyllmError when the source is no template."""
        if len(source) > MAX_SOURCE:
            raise PyllmError(f"chat template: {len(source)} characters are more than {MAX_SOURCE}")
        self._environment = ChatEnvironment()
        try:
            self._template = self._environment.from_string(source)
        except Exception as error:
            raise PyllmError(f"chat template: {_said(error)}") from None

    def render(self, values: Mapping[str, Any], given: int) -> str:
        """The output, with marks. given: characters in `values`. Raises PyllmError for whatever goes wrong."""
        environment = self._environment
        with environment.lock:
            environment.budget = budget = Budget(given)
            parts, length = [], 0
            try:
                context = self._template.new_context(dict(values))
                for part in self._template.root_render_func(context):
                    length += len(part)
                    budget.text(0 if length <= budget.most_text else length)
                    parts.append(part)
            except BudgetError as error:
                raise PyllmError(f"{error}; it was stopped") from None
            except Exception as error:
                raise PyllmError(f"chat template: {_said(error)}") from None
            return joined(parts)


def _said(error: Exception) -> str:
    line = getattr(error, "lineno", None)
    text = (str(error).strip() or type(error).__name__).replace("'Marked'", "'str'")
    if isinstance(error, RecursionError | SyntaxError) and not isinstance(error, TemplateError):
        text = "it is nested too deeply"
    if isinstance(error, MemoryError):
        text = "not enough memory"
    if isinstance(error, SecurityError):
        text = f"not allowed: {text}"
    return f"line {line}: {text[:500]}" if isinstance(line, int) else text[:500]
