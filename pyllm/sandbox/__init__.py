"""Jinja for chat templates out of downloaded files: no way out, and a budget on steps, text and depth.

Every loop turn, call, operator, filter, test, lookup and output spends from the budget, in proportion to its
work, so that a template which would run for ever or fill the memory ends with an error in about a second. The
template's own literals are `Marked`, see marked.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jinja2 import TemplateError
from jinja2.exceptions import SecurityError

from pyllm.errors import PyllmError
from pyllm.marked import joined
from pyllm.sandbox.budget import Budget, BudgetError
from pyllm.sandbox.environment import ChatEnvironment

MAX_SOURCE = 256 * 1024  # characters; the largest known templates have 30,000


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
