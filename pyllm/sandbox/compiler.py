"""From a template to Python that asks the environment where Jinja's own would compute by itself."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError, nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.ext import Extension
from jinja2.parser import Parser

from pyllm.marked import Marked

if TYPE_CHECKING:
    from pyllm.sandbox.environment import ChatEnvironment


class Generator(CodeGenerator):
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


class Generation(Extension):
    """`{% generation %}`: marks the assistant's tokens for training; here only its content counts."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True)).set_lineno(line)


def weigh(tree: nodes.Template) -> None:
    """Makes every turn of a loop and every entry of a macro pay, as much as its body has parts."""
    for node in list(tree.find_all((nodes.For, nodes.Macro, nodes.CallBlock, nodes.EvalContextModifier))):
        if isinstance(node, nodes.EvalContextModifier) or (isinstance(node, nodes.For) and node.recursive):
            raise TemplateError(
                f"line {node.lineno}: autoescape and recursive loops are not for chat templates"
            )
        weight = nodes.Const(1 + sum(1 for _ in node.find_all(nodes.Node)) // 4)
        if isinstance(node, nodes.For):
            node.iter = nodes.Filter(node.iter, "_turns", [weight], [], None, None).set_lineno(node.lineno)
        elif isinstance(node, nodes.Macro | nodes.CallBlock):
            entry = nodes.Filter(nodes.Const(""), "_enter", [weight], [], None, None)
            node.body.insert(0, nodes.Output([entry]).set_lineno(node.lineno))
