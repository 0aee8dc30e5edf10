"""Chat templates in Jinja's immutable sandbox, with a budget for source, time, memory and output.

A chat template is a program that arrives with a model, so it is untrusted. The dialect is the one that the field uses
(transformers: trimmed blocks, `break` and `continue`, `raise_exception`, `strftime_now`, `tojson` without HTML escapes,
`{% generation %}`); whatever chat templates do not need is left out, and what remains is bounded:

1. The syntax tree is rewritten before it is compiled: loops, `~`, slices, list and dict literals, and comparisons go
   through `text/budget.py`. Inheritance, includes, recursive loops and `**` are refused.
2. Only the filters, tests, functions and methods of `text/allowed.py`, and the template's own macros, can be called.
3. Nothing is computed while compiling: the optimizer is off, and a `finalize` that needs the context keeps Jinja from
   folding constant output, so a bomb made of constants meets the budget too.
4. Every refusal and every error inside a template is a `UserError` that names the template.

Source: https://jinja.palletsprojects.com/en/stable/sandbox/ ("The sandbox alone is not a solution").
Proved by tests/unit/text/test_jinja.py.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ClassVar

from jinja2 import nodes, pass_context
from jinja2.exceptions import TemplateError, TemplateSyntaxError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context, Macro, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from ..core.errors import UserError
from . import allowed, budget
from .budget import Each, Refused, current

MAX_SOURCE_BYTES = 64 << 10
MAX_LOOPS = 8  # loops inside loops


# -- rewriting the syntax tree ---------------------------------------------------------------------------------------

_REFUSED_NODES = {
    nodes.Extends: "inheritance",
    nodes.Block: "inheritance",
    nodes.Include: "includes",
    nodes.Import: "imports",
    nodes.FromImport: "imports",
    nodes.ScopedEvalContextModifier: "autoescape blocks",
    nodes.EvalContextModifier: "autoescape blocks",
    nodes.Pow: "the operator '**'",
}


def _is_constant(node: nodes.Node) -> bool:
    if isinstance(node, nodes.Const):
        return True
    return isinstance(node, (nodes.List, nodes.Tuple)) and all(
        isinstance(item, nodes.Const) for item in node.items
    )


def _through(name: str, node: nodes.Expr, *args: nodes.Expr) -> nodes.Filter:
    return nodes.Filter(node, name, list(args), [], None, None, lineno=node.lineno)


class _Guard(NodeTransformer):
    """Sends every operation that could grow or run long through the budget."""

    def __init__(self) -> None:
        self.loops = 0

    def visit(self, node: nodes.Node, *args: Any, **kwargs: Any) -> Any:
        refused = _REFUSED_NODES.get(type(node))
        if refused is not None:
            raise Refused(f"it uses {refused} (line {node.lineno})")
        return super().visit(node, *args, **kwargs)

    def visit_For(self, node: nodes.For) -> nodes.For:
        if node.recursive:
            raise Refused(f"it uses a recursive loop (line {node.lineno})")
        self.loops += 1
        if self.loops > MAX_LOOPS:
            raise Refused(f"it nests more than {MAX_LOOPS} loops (line {node.lineno})")
        # A long body without any other operation must cost more than a short one.
        cost = 10 + sum(1 for part in node.body for _ in part.find_all(nodes.Node))
        self.generic_visit(node)
        node.iter = _through("_each", node.iter, nodes.Const(cost, lineno=node.lineno))
        self.loops -= 1
        return node

    def visit_NSRef(self, node: nodes.NSRef) -> nodes.NSRef:
        if node.attr.startswith("_"):
            raise Refused(
                f"it sets a namespace attribute that begins with an underscore (line {node.lineno})"
            )
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Expr:
        self.generic_visit(node)
        return _through("_concat", nodes.List(node.nodes, lineno=node.lineno))

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Expr:
        self.generic_visit(node)
        if not isinstance(node.arg, nodes.Slice):
            return node
        nothing = nodes.Const(None, lineno=node.lineno)
        ends = (node.arg.start, node.arg.stop, node.arg.step)
        return _through("_slice", node.node, *(nothing if end is None else end for end in ends))

    def _literal(self, node: nodes.List | nodes.Tuple | nodes.Dict) -> nodes.Expr:
        constant = _is_constant(node)
        self.generic_visit(node)
        stored = isinstance(node, nodes.Tuple) and node.ctx != "load"
        return node if constant or stored else _through("_keep", node)

    visit_List = visit_Tuple = visit_Dict = _literal

    def visit_Compare(self, node: nodes.Compare) -> nodes.Compare:
        operands: list[nodes.Node] = [node.expr, *(operand.expr for operand in node.ops)]
        # Against a constant the cost is that of the constant, except for a search through a long text.
        cheap = sum(not _is_constant(operand) for operand in operands) <= 1
        searches = any(operand.op in ("in", "notin") for operand in node.ops)
        self.generic_visit(node)
        if searches or not cheap:
            node.expr = _through("_keep", node.expr)
            for operand in node.ops:
                operand.expr = _through("_keep", operand.expr)
        return node


# -- the environment -------------------------------------------------------------------------------------------------


class _Generation(Extension):
    """`{% generation %} ... {% endgeneration %}` marks what an assistant wrote; the text passes through unchanged."""

    tags: ClassVar = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


@pass_context
def _finalize(_: Context, value: Any) -> str:
    return budget.text(value)


def _concat(parts: list[Any]) -> str:
    return budget.joined(budget.text(part) for part in parts)


def _keep(value: Any) -> Any:
    purse = current()
    purse.spend(2 + purse.weigh(value) // 256)
    return value


class _Environment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset(("+", "-", "*", "/", "//", "%", "**"))

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,
            autoescape=False,
            finalize=_finalize,
            cache_size=0,
            extensions=[_Generation, loopcontrols],
        )
        self.globals = dict(allowed.GLOBALS)
        self.filters = allowed.chosen_filters() | {"_each": Each, "_keep": _keep, "_concat": _concat}
        self.tests = allowed.chosen_tests()

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        return _Guard().visit(super()._parse(source, name, filename))

    def concat(self, parts: Any) -> str:  # type: ignore[override]
        return budget.joined(parts)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        return budget.operate(operator, left, right)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        purse = current()
        # Inside a loop or block, compiled templates hand their variables on under these two names.
        named = {name: value for name, value in kwargs.items() if name not in ("_loop_vars", "_block_vars")}
        for value in (*args, *named.values()):
            purse.spend(10 + purse.weigh(value) // 256)
        purse.spend(10)
        if allowed.may_call(__obj):
            return allowed.call_method(__obj, args, named)
        if any(__obj is function for function in allowed.GLOBALS.values()):
            made = __obj(*args, **named)
            return purse.keep(made) if isinstance(made, dict) else made
        if isinstance(__obj, (Macro, Undefined)):
            return __context.call(__obj, *args, **kwargs)
        raise Refused(
            f"it calls '{getattr(__obj, '__name__', type(__obj).__name__)}', which templates may not call"
        )


@functools.lru_cache(maxsize=1)
def _environment() -> _Environment:
    return _Environment()


class Template:
    """One compiled chat template.

    Args:
        source: the text of the template, at most 64 KB.
        name: how messages call it, usually its path.

    Raises:
        UserError: the source is too long, has a syntax error, or uses something that is refused.
    """

    def __init__(self, source: str, name: str) -> None:
        self.source = source
        self.name = name
        size = len(source.encode("utf-8", "surrogatepass"))
        if size > MAX_SOURCE_BYTES:
            raise UserError(
                f"the chat template is {size:,} bytes long; {MAX_SOURCE_BYTES:,} are allowed",
                where=name,
                why="a template is a small program, and a very long one is a way to exhaust the reader",
            )
        with budget.rendering():
            self._compiled = self._run(lambda: _environment().from_string(source))

    def render(self, **variables: Any) -> str:
        """The text that the template makes of `variables` (plain values only).

        Raises:
            UserError: the template raised an error, was refused, or ran over its budget.
        """
        with budget.rendering():
            return self._run(
                lambda: _environment().concat(
                    self._compiled.root_render_func(self._compiled.new_context(variables))
                )
            )

    def _run(self, action: Callable[[], Any]) -> Any:
        """`action()`, with whatever goes wrong inside the template turned into a `UserError`."""
        try:
            return action()
        except Refused as error:
            raise UserError(
                f"the chat template was refused: {error.message}",
                where=self.name,
                why="a template comes with a model and is not trusted; its work and its size are bounded",
                fix="use another template (chatml, plain) or simplify this one",
            ) from None
        except TemplateSyntaxError as error:
            raise UserError(
                f"the chat template cannot be read: {error.message}",
                where=f"{self.name}, line {error.lineno}",
            ) from None
        except TemplateError as error:
            raise UserError(
                f"the chat template refused the conversation: {error.message}", where=self.name
            ) from None
        except (RecursionError, MemoryError):
            raise UserError(
                "the chat template was refused: it is nested too deeply", where=self.name
            ) from None
        except Exception as error:  # the template is a foreign program: any exception in it is its mistake
            raise UserError(
                f"the chat template failed: {type(error).__name__}: {str(error)[:300]}", where=self.name
            ) from None
