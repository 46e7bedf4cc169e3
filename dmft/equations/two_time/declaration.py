"""What a two-time problem is declared with: equations as named terms, checked at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import sympy as sp
from sympy.core.function import AppliedUndef

from dmft.errors import BadParameter

if TYPE_CHECKING:
    from dmft.equations.two_time.problem import TwoTime

# A function of times in an equation: C(t, s), C(t, t), mu(t).
Key = Any
Terms = dict[str, sp.Expr]

# Arguments of `solve`: no parameter of these names could be given to it.
TAKEN_BY_SOLVE = frozenset(
    {"system", "start", "t_max", "tol", "save_at", "max_step", "thin", "measure_error"}
    | {"checkpoint", "timeout", "max_steps", "method", "progress"}
)


def block_name(key: Key) -> str:
    """Name of what an equation moves: C of C(t, s), C_diagonal of C(t, t), mu of mu(t)."""
    single = len(key.args) == 2 and key.args[0] == key.args[1]
    return f"{key.func}_diagonal" if single else str(key.func)


def named_terms(given: Mapping[Any, Any], role: str, name: str) -> dict[Key, Terms]:
    """Terms of each equation by name; an expression is one term, called `name`."""
    if not isinstance(given, Mapping):
        raise BadParameter(f"{role} must be a mapping like {{C(t, s): ...}}, got {given!r}")
    found = {}
    for key, whole in given.items():
        if not isinstance(key, AppliedUndef) or len(key.args) not in (1, 2):
            raise BadParameter(
                f"{role} has the key {key!r}: keys are functions of times, C(t, s) or mu(t)"
            )
        terms = whole if isinstance(whole, Mapping) else {name: whole}
        for term in terms:
            if not (isinstance(term, str) and term.isidentifier()):
                raise BadParameter(f"{key} has a term called {term!r}: names of terms are one word")
        found[key] = {term: _expression(key, expr) for term, expr in terms.items()}
    return found


def _expression(key: Key, given: Any) -> sp.Expr:
    try:
        return sp.sympify(given, strict=True)
    except sp.SympifyError as error:
        raise BadParameter(
            f"the equation for {key} is {given!r}: write it as a SymPy expression, not as text"
        ) from error


def functions_of(problem: TwoTime, times: int) -> tuple[Any, ...]:
    """Functions of one or of two times, in the order of their equations."""
    keys = [k for k in (*problem.values, *problem.rates) if len(k.args) == times]
    order = [k for k in (*problem.rates, *problem.values) if len(k.args) == times]
    return tuple(dict.fromkeys(k.func for k in (order if times == 2 else keys)))


def check_problem(problem: TwoTime) -> None:
    """Refuse equations that are missing or given twice; integrals are checked when reduced."""
    t, s = problem.times
    names = [str(f) for f in (*problem.pairs, *problem.signals)]
    names += [f"{f}_diagonal" for f in problem.pairs]
    for name in names:
        if not name.isidentifier() or names.count(name) > 1:
            raise BadParameter(f"the function name {name!r} is no identifier, or used twice")
    for key in (*problem.rates, *problem.values):
        if key.args not in ((t, s), (t, t), (t,)):
            raise BadParameter(
                f"an equation for {key}: equations are for X({t}, {s}), X({t}, {t}) and m({t})"
            )
        if key in problem.rates and key in problem.values:
            raise BadParameter(f"{key} has both a rate and a value; give one")
    for f in problem.pairs:
        _check_pair(problem, f, t, s)
    for key in problem.start:
        there = key.func(*[t] * len(key.args))
        if any(a != 0 for a in key.args) or there not in problem.rates:
            raise BadParameter(
                f"start has {key}: only signals and diagonals with a rate start, as m(0) or X(0, 0)"
            )
    for f in problem.causal:
        if f not in problem.pairs:
            raise BadParameter(f"{f} is declared causal, but has no equation for {f}({t}, {s})")
    for key in problem.rates:
        if len(key.args) == 1 or key.args[0] == key.args[1]:
            zero = key.func(*[sp.S.Zero] * len(key.args))
            if zero not in problem.start:
                raise BadParameter(f"{key} has a rate, so start must give {zero}")
    for y in problem.parameters:
        if y.name in names:
            raise BadParameter(f"{y.name!r} is both a parameter and a function; rename one")
        if y.name in TAKEN_BY_SOLVE:
            raise BadParameter(
                f"the parameter {y.name!r} has the name of an argument of dmft.solve; rename it, "
                f"as {y.name}_0"
            )


def _check_pair(problem: TwoTime, f: Any, t: sp.Symbol, s: sp.Symbol) -> None:
    """A function of two times has one equation for X(t, s) and one for its diagonal."""
    known = {*problem.rates, *problem.values}
    if f(t, s) not in known:
        raise BadParameter(f"{f} has no equation for {f}({t}, {s})")
    if f(t, t) not in known:
        how = "its value just after s" if f in problem.causal else "its value or total rate"
        raise BadParameter(f"{f} has no equation for {f}({t}, {t}): {how}")
