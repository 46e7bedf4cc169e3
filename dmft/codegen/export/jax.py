"""A JAX file, jitted and differentiated: loops become axes, branches become choices.

The index of the outermost loop runs along the last axis, that of each loop inside along one more
in front: what an outer loop computed broadcasts inside as it stands.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence

from dmft.codegen.export import python
from dmft.codegen.export.library import PLAIN, Library, library, special, unknown
from dmft.codegen.export.program import INDENT, Program
from dmft.codegen.export.python import literal
from dmft.codegen.export.system import System, header
from dmft.errors import NotClosed

FUNCTIONS = {
    "math.erf": "erf", "math.erfc": "erfc", "math.asin": "jnp.arcsin", "asin": "jnp.arcsin",
    "math.acos": "jnp.arccos", "math.atan": "jnp.arctan", "math.atan2": "jnp.arctan2",
    "math.asinh": "jnp.arcsinh", "abs": "jnp.abs", "min": "jnp.minimum", "max": "jnp.maximum",
    "np.sign": "jnp.sign", "int": "int",
}  # fmt: skip
NUMBERS = {"math.pi", "math.inf", "math.nan"}
SIGNS: dict[type, str] = {ast.And: "&", ast.Or: "|"}


class Choices(ast.NodeTransformer):
    """Branches inside expressions become `jnp.where`; functions are those of `jax.numpy`."""

    def visit_IfExp(self, node: ast.IfExp) -> ast.expr:
        """A choice between two values, both computed."""
        parts = [self.visit(y) for y in (node.test, node.body, node.orelse)]
        return _call("jnp.where", parts)

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.expr:
        """Conditions on arrays."""
        sign = SIGNS[type(node.op)]
        parts = [f"({ast.unparse(self.visit(v))})" for v in node.values]
        return ast.parse(f" {sign} ".join(parts).strip(), mode="eval").body

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.expr:
        """Not, on arrays."""
        operand = self.visit(node.operand)
        return _call("jnp.logical_not", [operand]) if isinstance(node.op, ast.Not) else node

    def visit_Call(self, node: ast.Call) -> ast.expr:
        """Functions of the language."""
        name = ast.unparse(node.func)
        arguments = [self.visit(a) for a in node.args]
        new = FUNCTIONS.get(name, name.replace("math.", "jnp."))
        if name in ("min", "max") and len(arguments) > 2:
            raise NotClosed(f"{ast.unparse(node)} in JAX")
        return _call(new, arguments)

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        """Numbers of the module `math`."""
        return (
            node
            if ast.unparse(node) not in NUMBERS
            else ast.parse(ast.unparse(node).replace("math.", "jnp."), mode="eval").body
        )


def _call(name: str, arguments: list[ast.expr]) -> ast.expr:
    return ast.Call(ast.parse(name, mode="eval").body, arguments, [])


def text(node: ast.expr) -> str:
    """Text of an expression."""
    return ast.unparse(ast.fix_missing_locations(Choices().visit(node)))


# Programs ----------------------------------------------------------------------------------------


class Vectoriser:
    """Prints the loops of a program as operations on arrays."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.stored: set[str] = set()

    def lines(self) -> list[str]:
        """Lines of the whole program."""
        return self.program.lines(lambda statement: self.statement(statement, []), "#")

    def statement(self, node: ast.stmt, loops: list[tuple[str, str]]) -> list[str]:
        """Lines of a statement inside loops, each an index and its axis."""
        if isinstance(node, ast.For):
            return self.loop(node, loops)
        if isinstance(node, ast.AugAssign):
            return self.total(node, loops)
        assert isinstance(node, ast.Assign)
        target = node.targets[0]
        if isinstance(target, ast.Name):
            return [f"{target.id} = {text(node.value)}"]
        assert isinstance(target, ast.Subscript)
        place = ast.unparse(target.slice).strip("()")
        name = ast.unparse(target.value)
        value = text(node.value)
        axes = {**self.program.arrays, **self.program.outputs}[name]
        indices, names = place.split(", "), [index for index, _ in loops]
        if indices == names and list(axes) == [axis for _, axis in loops]:
            self.stored.add(name)
            return [f"{name} = jnp.broadcast_to({value}, ({', '.join(axes[::-1])},)).T"]
        if indices == names[::-1] and name in self.stored:
            return []  # the other half of a symmetric array, which is whole
        lines = [] if name in self.stored else [f"{name} = jnp.zeros(({', '.join(axes)},))"]
        self.stored.add(name)
        return [*lines, f"{name} = {name}.at[{place}].set({value})"]

    def loop(self, node: ast.For, loops: list[tuple[str, str]]) -> list[str]:
        """An index along a new axis in front."""
        assert isinstance(node.target, ast.Name)
        assert isinstance(node.iter, ast.Call)
        name, end = node.target.id, ast.unparse(node.iter.args[0])
        axis = dict(loops).get(end.removesuffix(" + 1"), end)  # half of a square
        inside = [*loops, (name, axis)]
        shape = ", None" * len(loops)
        lines = [f"{name} = jnp.arange({axis})" + (f"[:{shape}]" if shape else "")]
        for statement in node.body:
            if isinstance(statement, ast.Assign) and axis != end:
                # The other half is filled alike: the value is symmetric.
                lines += self.statement(statement, inside)
                continue
            if isinstance(statement, ast.AugAssign) and axis != end:
                half = ast.parse(f"{name} < {end}", mode="eval").body
                chosen = ast.IfExp(half, statement.value, ast.Constant(0.0))
                statement = ast.AugAssign(statement.target, statement.op, chosen)
            lines += self.statement(statement, inside)
        return lines

    def total(self, node: ast.AugAssign, loops: list[tuple[str, str]]) -> list[str]:
        """A sum over the innermost axis, or axes: those that its start does not have."""
        name = ast.unparse(node.target)
        sizes = ", ".join(axis for _, axis in reversed(loops))
        inner = self.inner(name, loops)
        axes = ", ".join(map(str, range(inner)))
        value = f"jnp.broadcast_to({text(node.value)}, ({sizes},))"
        return [f"{name} = {name} + jnp.sum({value}, axis=({axes},))"]

    def inner(self, name: str, loops: list[tuple[str, str]]) -> int:
        """Number of loops between the start of a sum and its terms."""
        depth = self.depths[name]
        return len(loops) - depth

    @property
    def depths(self) -> dict[str, int]:
        """Depth at which each name is first assigned."""
        found: dict[str, int] = {}

        def visit(body: Sequence[ast.stmt], depth: int) -> None:
            for statement in body:
                if isinstance(statement, ast.For):
                    visit(statement.body, depth + 1)
                elif isinstance(statement, ast.Assign) and isinstance(
                    statement.targets[0], ast.Name
                ):
                    found.setdefault(statement.targets[0].id, depth)

        visit(self.program.body, 0)
        return found


# Special functions -------------------------------------------------------------------------------


class Branches:
    """Prints a function without branches: what is returned first is chosen, all is computed."""

    def __init__(self) -> None:
        self.known: set[str] = set()
        self.results: list[tuple[str, str]] = []
        self.count = 0

    def function(self, node: ast.FunctionDef) -> list[str]:
        """Lines of a function."""
        self.known = {a.arg for a in node.args.args}
        lines = [f"def {node.name}({', '.join(a.arg for a in node.args.args)}):"]
        lines += [INDENT + line for line in self.block(node.body, None)]
        value = self.results[-1][1]
        for mask, result in reversed(self.results[:-1]):
            value = f"jnp.where({mask}, {result}, {value})"
        return [*lines, f"{INDENT}return {value}", "", ""]

    def block(self, body: Sequence[ast.stmt], mask: str | None) -> list[str]:
        """Lines of statements that count where the mask is true."""
        return [line for statement in body for line in self.statement(statement, mask)]

    def statement(self, node: ast.stmt, mask: str | None) -> list[str]:
        """Lines of one statement."""
        if isinstance(node, ast.Expr):
            return [ast.unparse(node)]
        if isinstance(node, ast.For | ast.While):
            head = ast.unparse(node).partition("\n")[0]
            return [head, *(INDENT + line for line in self.block(node.body, mask))]
        if isinstance(node, ast.If):
            return self.branch(node, mask)
        if isinstance(node, ast.Return):
            assert node.value is not None
            self.count += 1
            self.results.append((mask or "True", f"result_{self.count}"))
            return [f"result_{self.count} = {text(node.value)}"]
        if isinstance(node, ast.AugAssign):
            value = ast.BinOp(_load(node.target), node.op, node.value)
            return self.store([node.target], value, mask)
        assert isinstance(node, ast.Assign)
        return self.store(node.targets, node.value, mask)

    def store(self, targets: list[ast.expr], value: ast.expr, mask: str | None) -> list[str]:
        """An assignment, under a mask where there is one and the name has a value."""
        target = ast.unparse(targets[0]).strip("()")
        if len(targets) > 1:
            raise NotClosed(f"{target} = ... in JAX")
        new = text(value)
        if mask and target in self.known:
            return [f"{target} = jnp.where({mask}, {new}, {target})"]
        self.known |= set(target.split(", "))
        return [f"{target} = {new}"]

    def branch(self, node: ast.If, mask: str | None) -> list[str]:
        """Both branches, each under its mask."""
        self.count += 1
        name = f"case_{self.count}"
        test = text(node.test)
        lines = [f"{name} = {f'{mask} & ({test})' if mask else test}"]
        lines += self.block(node.body, name)
        if node.orelse:
            lines.append(f"other_{name} = {f'{mask} & ' if mask else ''}jnp.logical_not({name})")
            lines += self.block(node.orelse, f"other_{name}")
        return lines


def _load(node: ast.expr) -> ast.expr:
    return ast.parse(ast.unparse(node), mode="eval").body


def functions(found: Library) -> list[str]:
    """Lines of constants and special functions."""
    lines = [f"{name} = {literal(value)}" for name, value in found.constants.items()]
    lines += ["", ""] * bool(lines)
    for node in found.functions.values():
        if node.name != "asin":
            lines += Branches().function(node)
    return lines


IMPORTS = """
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import erf, erfc

jax.config.update("jax_enable_x64", True)

"""

JACOBIAN = '''

def packed(rates):
    """Blocks as one vector, row by row."""
    return jnp.concatenate([jnp.ravel(rates[name]) for name in ({names})])


def jacobian({signature}):
    """Derivatives of the packed rates by the packed state {state}, row by row.

    Q_jl and Q_lj are two entries of the state, as `rhs` reads them.
    """
    blocks = {{{blocks}}}
    shapes = [jnp.shape(block) for block in blocks.values()]
    ends = [int(n) for n in np.cumsum([np.prod(shape, dtype=int) for shape in shapes])]
    state = jnp.concatenate([jnp.ravel(block) for block in blocks.values()])

    def of_packed(vector):
        parts = jnp.split(vector, ends[:-1])
        given = {{
            name: part.reshape(shape)
            for name, part, shape in zip(blocks, parts, shapes, strict=True)
        }}
        return packed(rhs(t, **given{passed}))

    return jax.jacfwd(of_packed)(state)
'''


def jax_text(system: System) -> str:
    """Text of the file."""
    calls = special(system.calls())
    unknown(calls, PLAIN, "JAX")
    lines = ['"""' + "\n".join(python.escaped(header(system))).strip(), '"""', IMPORTS]
    lines += functions(library(calls - {"asin"}))
    lines += core("_rates", "Rates.", system, system.rates)
    lines += core("_observe", "Observables.", system, system.observables)
    text = "\n".join(lines).rstrip() + "\n"
    text += python.NUMBERS.format(parameters=python.table(system.defaults))
    text += python.wrappers(system, "jnp", called)
    return text + jacobian(system) + python.checks(system)


def core(name: str, summary: str, system: System, program: Program) -> list[str]:
    """A program as a function that returns its outputs."""
    arguments = ", ".join([*system.widths, *system.arrays, *system.names.values()])
    static = ", static_argnums=(0, 1)" * bool(system.widths)
    lines = ["", f"@partial(jax.jit{static})", f"def {name}({arguments}):"]
    lines.append(f'{INDENT}"""{summary}"""')
    if program.needs_all_fields:
        lines.append(f"{INDENT}N = p + k")
    lines += [INDENT + line if line else "" for line in Vectoriser(program).lines()]
    found = f"{', '.join(program.outputs)}," if program.outputs else "()"
    return [*lines, f"{INDENT}return {found}", ""]


def called(system: System, name: str, program: Program) -> list[str]:
    """Line that computes the outputs."""
    names = [*system.widths, *system.arrays, *(["*par"] if system.names else [])]
    front = f"{', '.join(program.outputs)}, = " if program.outputs else ""
    return [f"{front}{name}({', '.join(names)})"]


def jacobian(system: System) -> str:
    """The function `jacobian`."""
    signature = python.signature(system, time=True)
    state = [b.name for b in system.state]
    others = [b.name for b in system.constants]
    blocks = ", ".join(f'"{n}": jnp.asarray({n}, dtype=float)' for n in state)
    passed = "".join(f", {n}={n}" for n in others) + (", **parameters" * bool(system.names))
    if "readout" in state:  # a state that has to be given
        signature = signature.replace("readout=None, t", "readout, t")
    return JACOBIAN.format(
        names="".join(f'"{n}", ' for n in state).strip(), signature=signature,
        state=", ".join(state), blocks=blocks, passed=passed,
    )  # fmt: skip
