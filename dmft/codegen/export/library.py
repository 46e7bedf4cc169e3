"""Special functions that loops call, with all that they read, from the source of `dmft.special`.

Error functions in plain Python are for languages that have none.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np

from dmft.codegen.functions import SPECIAL
from dmft.emit.cache import load_array
from dmft.errors import NotClosed

# log(erfc(u) / t) + u^2 as a polynomial in y = 2 t - 1, t = 2 / (2 + u), from its Chebyshev series
# to degree 26 computed in 40 digits; what is left out is below 1e-16.
ERFC = (
    -0.6717940840566923,
    0.672643223977656,
    0.04734330684190443,
    -0.046895610231083025,
    -0.009872689366389959,
    0.008824938553738764,
    0.001758933557799016,
    -0.002345812444802156,
    -0.00014624686337800336,
    0.0006736782697069831,
    -9.37350311709817e-05,
    -0.00017429984933155644,
    7.14010141275703e-05,
    3.173310599377061e-05,
    -3.0187884551394243e-05,
    1.699233231227702e-07,
    8.562623420121286e-06,
    -3.007645434410669e-06,
    -1.27231190486887e-06,
    1.3267813608518889e-06,
    -1.6849800720653297e-07,
    -3.168341367694147e-07,
    1.5334345920908177e-07,
    3.972203547273795e-08,
    -3.9171820510271855e-08,
    -1.5867042924138042e-09,
    4.06088214696972e-09,
)
ANGLES = (
    "correlation_root", "correlation_angle", "inverse_correlation_root", "half_tangent",
    "four_signs", "four_signs_moment",
)  # fmt: skip
AVERAGES = ("field_average", "pair_average", "kinked_pair_average")
OTHERS = (
    "two_signs", "bivariate_normal_cdf", "root_ratio", "correlation", "token_value",
    "covariance_given",
)  # fmt: skip
# Files of the functions that are exported.
HOMES = {name: f"dmft.special.{SPECIAL[name]}" for name in (*OTHERS, *ANGLES, *AVERAGES)}
HOMES["asin"] = "dmft.special.elementary"
# Those that take numbers and return one, and whose loops depend on none of them.
PLAIN = tuple(name for name in HOMES if name not in (*AVERAGES, "four_signs", "four_signs_moment"))
# Modules whose names the functions use as they are.
OUTSIDE = ("math", "np")
IN_THE_LANGUAGE = {"abs", "min", "max", "int", "range"}
TABLE = "TABLE_"


@dataclass
class Library:
    """Functions in an order in which each stands behind those that it calls, and constants."""

    functions: dict[str, ast.FunctionDef] = field(default_factory=dict)
    constants: dict[str, Any] = field(default_factory=dict)


def library(calls: Iterable[str], home: Mapping[str, str] = HOMES) -> Library:
    """Collect what functions need: their names in the code, tables are ``TABLE_`` and their key."""
    found = Library()
    for name in sorted(calls):
        if name.startswith(TABLE):
            found.constants[name] = load_array(name.removeprefix(TABLE))
        elif name in home:
            _collect(home[name], name, found)
    return found


def special(calls: Iterable[str]) -> set[str]:
    """Functions of `dmft.special` and tables among the names that code calls."""
    outside = tuple(f"{module}." for module in OUTSIDE)
    return {name for name in calls if not name.startswith(outside)} - IN_THE_LANGUAGE


def unknown(calls: Iterable[str], known: Iterable[str], language: str) -> None:
    """Refuse functions that a language has not."""
    missing = sorted({c for c in calls if not c.startswith(TABLE)} - set(known))
    if missing:
        raise NotClosed(
            f"{', '.join(missing)} is not exported to {language}; supported are + * powers, "
            f"square roots, functions of the parameters and {', '.join(sorted(known))}"
            + ("" if language == "Python" else "; a .py file supports more")
        )


def _collect(home: str, name: str, found: Library) -> str:
    """Add a function of a file and what it reads; returns its name in the export."""
    stem = home.rpartition(".")[2]
    new = f"{stem}{name}" if name.startswith("_") else name
    if new in found.functions:
        return new
    module, tree = _parsed(home)
    node = next(s for s in tree.body if isinstance(s, ast.FunctionDef) and s.name == name)
    node = _Plain().visit(ast.parse(ast.unparse(node)).body[0])
    imported = {
        alias.asname or alias.name: statement.module or ""
        for statement in tree.body
        if isinstance(statement, ast.ImportFrom)
        and (statement.module or "").startswith("dmft.special")
        for alias in statement.names
    }
    local = {a.arg for a in node.args.args} | {
        y.id for y in ast.walk(node) if isinstance(y, ast.Name) and isinstance(y.ctx, ast.Store)
    }
    own = {s.name for s in tree.body if isinstance(s, ast.FunctionDef)}
    names: dict[str, str] = {}
    for inner in ast.walk(ast.Module(node.body, [])):
        if not isinstance(inner, ast.Name) or inner.id in local or inner.id in OUTSIDE:
            continue
        if inner.id in own:
            names[inner.id] = _collect(home, inner.id, found)
        elif inner.id in imported and inner.id.islower():
            names[inner.id] = _collect(imported[inner.id], inner.id, found)
        elif hasattr(module, inner.id):
            names[inner.id] = f"{stem.upper()}_{inner.id.lstrip('_')}"
            found.constants[names[inner.id]] = _plain(getattr(module, inner.id))
    found.functions[new] = _renamed(node, new, names)
    return new


class _Plain(ast.NodeTransformer):
    """Writes out what stands for one instruction in compiled code."""

    def visit_Call(self, node: ast.Call) -> ast.expr:
        """Fused products as products and sums, selections as choices."""
        self.generic_visit(node)
        name, given = ast.unparse(node.func), node.args
        if name == "fma":
            return ast.BinOp(ast.BinOp(given[0], ast.Mult(), given[1]), ast.Add(), given[2])
        if name == "select":
            return ast.IfExp(*given)
        return node


@cache
def _parsed(name: str) -> tuple[ModuleType, ast.Module]:
    module = importlib.import_module(name)
    return module, ast.parse(inspect.getsource(module))


def _renamed(node: ast.FunctionDef, new: str, names: Mapping[str, str]) -> ast.FunctionDef:
    """Copy of a function without decorators, under other names."""
    copy = ast.parse(ast.unparse(node)).body[0]
    assert isinstance(copy, ast.FunctionDef)
    copy.name, copy.decorator_list, copy.returns = new, [], copy.returns
    for inner in ast.walk(copy):
        if isinstance(inner, ast.Name):
            inner.id = names.get(inner.id, inner.id)
    doc = ast.get_docstring(copy)
    if doc is not None:  # the first sentence: examples are those of the library
        copy.body[0] = ast.Expr(ast.Constant(doc.partition("\n\n")[0]))
    return copy


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value
    if isinstance(value, tuple):
        return tuple(_plain(v) for v in value)
    if isinstance(value, bool | int | float) and not (
        isinstance(value, float) and math.isnan(value)
    ):
        return value
    raise NotClosed(f"a constant of type {type(value).__name__}")


ROOT_PI = math.sqrt(math.pi)
# Below, a power series has all digits of small values.
SMALL, TERMS = 0.5, 16


def erfc(x: float) -> float:
    """Complementary error function."""
    u = abs(x)
    t = 2.0 / (2.0 + u)
    y = 2.0 * t - 1.0
    s = 0.0
    for n in range(26, -1, -1):
        s = s * y + ERFC[n]
    tail = t * math.exp(s - u * u)
    return 2.0 - tail if x < 0.0 else tail


def erf(x: float) -> float:
    """Error function."""
    if not abs(x) < SMALL:
        return 1.0 - erfc(x)
    total, power = 0.0, 1.0
    for n in range(TERMS):
        total += power / (2 * n + 1)
        power *= -x * x / (n + 1)
    return 2.0 * x * total / ROOT_PI
