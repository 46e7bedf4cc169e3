r"""Hand-written two-time problems: causal equations of correlations, responses and signals."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import sympy as sp

from dmft.checks import checked
from dmft.errors import BadParameter
from dmft.record import Shown

# A function of times in an equation: C(t, s), C(t, t), mu(t).
Key = Any


@checked
@dataclass(frozen=True, init=False, eq=False)
class TwoTime(Shown):
    r"""A causal problem in two times t >= s, written as SymPy equations.

    Families of functions are written as comprehensions, ``{C[a](t, s): ... for a in ...}``; of
    correlations of two components, X_ab(s, t) is X_ba(t, s). Signals alone are a system of ordinary
    differential equations. Averages over two Gaussian fields without closed form are those of
    `dmft.gaussian.tables.tabled.tabled_expectation`.

    Functions of two times are symmetric, X(t, s) = X(s, t), or `causal`: X(t, s) = 0 for s > t.
    Functions of one time are signals (constraint multipliers, energies, magnetisations). Memory is
    a `sympy.Integral` over one time u, from 0 or s to s or t, whose integrand is a sum of products
    A(t, u) * B(u, s): any functions of the pair (t, u), and any of (u, s) or (s, u).

    Scaling     the problem's own; t >= 0, and s runs over 0 <= s <= t
    Valid for   kernels that are smooth for u < s and for s < u < t; delta functions in time are
                written out as local terms
    Source      [cugliandolo_kurchan_1993] for the best-known one

    Parameters
    ----------
    rates : mapping
        ``{X(t, s): dX(t, s)/dt, m(t): dm/dt, X(t, t): dX(t, t)/dt}``; the last is the total
        derivative along the diagonal.
    values : mapping
        What is given rather than integrated in time: ``{X(t, t): 1, mu(t): ..., K(t, s): ...}``.
        The right-hand side may hold integrals of the function itself (Volterra, second kind); each
        row is iterated, so that what it takes from its own row must be small beside it.
    start : mapping
        ``{m(0): m0, X(0, 0): x0}`` for the signals and diagonals that have rates.
    causal : sequence of SymPy functions
        The two-time functions that vanish for s > t (responses); a causal function of two times
        has its value just after s, X(t, t), in `values`.
    name, source : str
        What it is called, and where it is from.

    Attributes
    ----------
    parameters : tuple of sympy.Symbol
        All other symbols: given to `dmft.solve` by name.

    Raises
    ------
    BadParameter
        At once, for what is not causal, has no equation, or is not of the form above.

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> t, s, u = sp.symbols("t s u")
    >>> C, R, mu = sp.symbols("C R mu", cls=sp.Function)
    >>> leaky = dmft.TwoTime(
    ...     rates={C(t, s): -mu(t) * C(t, s) + sp.Integral(C(t, u) * R(s, u), (u, 0, s)),
    ...            R(t, s): -mu(t) * R(t, s)},
    ...     values={C(t, t): 1, R(t, t): 1, mu(t): sp.Integral(C(t, u) * R(t, u), (u, 0, t))},
    ...     causal=[R])
    >>> run = dmft.solve(leaky, None, 2.0)
    >>> str(run.status), run.names
    ('ok', ('mu', 'C', 'R'))
    """

    family: ClassVar[str] = "two-time"

    rates: Mapping[Key, sp.Expr]
    values: Mapping[Key, sp.Expr]
    start: Mapping[Key, sp.Expr]
    causal: tuple[Any, ...]
    name: str
    source: str

    def __init__(
        self,
        rates: Mapping[Any, Any],
        values: Mapping[Any, Any] | None = None,
        start: Mapping[Any, Any] | None = None,
        causal: Iterable[Any] = (),
        name: str = "",
        source: str = "",
    ) -> None:
        object.__setattr__(self, "rates", _expressions(rates, "rates"))
        object.__setattr__(self, "values", _expressions(values or {}, "values"))
        object.__setattr__(self, "start", _expressions(start or {}, "start"))
        object.__setattr__(self, "causal", tuple(causal))
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "source", source)
        _check(self)

    @property
    def times(self) -> tuple[sp.Symbol, sp.Symbol]:
        """The symbols t and s of the equations."""
        for key in (*self.rates, *self.values):
            if len(key.args) == 2 and key.args[0] != key.args[1]:
                return key.args[0], key.args[1]
        for key in (*self.rates, *self.values):  # signals alone: ordinary differential equations
            if len(key.args) == 1:
                return key.args[0], sp.Symbol("s" if str(key.args[0]) != "s" else "s_1")
        raise BadParameter("a two-time problem needs an equation for a function of times")

    @property
    def pairs(self) -> tuple[Any, ...]:
        """Functions of two times, in the order of their equations."""
        return _functions(self, 2)

    @property
    def signals(self) -> tuple[Any, ...]:
        """Functions of one time, in the order of their equations."""
        return _functions(self, 1)

    @property
    def parameters(self) -> tuple[sp.Symbol, ...]:
        """Symbols that are neither times nor integrated over, by name."""
        free: set[sp.Symbol] = set()
        for group in (self.rates, self.values, self.start):
            for expr in group.values():
                free |= expr.free_symbols
        return tuple(sorted(free - set(self.times), key=str))

    def replace(self, values: Mapping[Any, Any]) -> TwoTime:
        """The same problem with numbers or expressions in place of parameters.

        Parameters
        ----------
        values : mapping
            By the name or symbol of a parameter; expressions may hold the time t of the equations
            (what should vary under an integral over u is a signal with a value, ``{T(t): ...}``).

        Raises
        ------
        BadParameter

        Examples
        --------
        >>> import sympy as sp, dmft
        >>> glass = dmft.literature.spherical_p_spin(3, sp.Symbol("T"))
        >>> glass.replace({"T": sp.exp(-sp.Symbol("t"))}).parameters
        ()
        """
        named, t = {y.name: y for y in self.parameters}, self.times[0]
        swap = {}
        for key, given in values.items():
            name = getattr(key, "name", key)
            if name not in named:
                raise BadParameter(f"{name!r} is no parameter; parameters are {sorted(named)}")
            expr = sp.sympify(given, strict=True)
            # A time of the same name is that of the equations, whatever its assumptions.
            swap[named[name]] = expr.xreplace({y: t for y in expr.free_symbols if y.name == t.name})
        rates, known, start = (
            {key: expr.xreplace(swap) for key, expr in group.items()}
            for group in (self.rates, self.values, self.start)
        )
        start = {key: expr.xreplace({t: sp.S.Zero}) for key, expr in start.items()}
        return TwoTime(rates, known, start, self.causal, self.name, self.source)

    @property
    def fingerprint(self) -> str:
        """Hash of the equations."""
        rows = [
            f"{kind}{sp.srepr(key)}{sp.srepr(expr)}"
            for kind, group in (("r", self.rates), ("v", self.values), ("s", self.start))
            for key, expr in group.items()
        ]
        text = "|".join([*rows, *(str(f) for f in self.causal)])
        return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()

    def evaluate(
        self,
        known: Mapping[str, Callable[..., float]],
        t: float,
        s: float = 0.0,
        *,
        nodes: int = 24,
        **parameters: float,
    ) -> dict[str, float]:
        """Right-hand sides at times (t, s), where functions of all earlier times are known.

        Equation    rates or values as the equations stand; integrals by Gauss and Legendre on
                    either side of s
        Shapes      by name: "C" at (t, s), "C_diagonal" at (t, t), signals at t
        Valid for   known functions that are smooth for u < s and for s < u < t

        Parameters
        ----------
        known : mapping from name to callable
            ``{"C": C(t, s), "mu": mu(t), ...}``, asked at the times of the equations; at t > s
            alone: what is symmetric or causal is made from there.
        t, s : float
        nodes : int
            Of each integral.
        **parameters
            Values of the problem's symbols.

        Raises
        ------
        BadParameter
            For functions or parameters without a value.

        Examples
        --------
        >>> import math, dmft
        >>> glass = dmft.literature.spherical_p_spin(2)
        >>> start = {"C": lambda t, s: 1.0, "R": lambda t, s: 1.0, "mu": lambda t: 0.0}
        >>> sorted(glass.evaluate({**start, "E": lambda t: 0.0}, 0.0))
        ['C', 'C_diagonal', 'E', 'R', 'R_diagonal', 'mu']
        """
        missing = [str(f) for f in (*self.pairs, *self.signals) if str(f) not in known]
        missing += [y.name for y in self.parameters if y.name not in parameters]
        if missing:
            raise BadParameter(f"no value for {missing[0]}: give each function and each parameter")
        given = {y: sp.Float(parameters[y.name]) for y in self.parameters}
        values = _Values(self, known, given, sp.Float(s), nodes)
        now = dict(zip(self.times, (sp.Float(t), sp.Float(s)), strict=True))
        found = {}
        for key, expr in (*self.rates.items(), *self.values.items()):
            single = len(key.args) == 2 and key.args[0] == key.args[1]
            found[f"{key.func}_diagonal" if single else str(key.func)] = float(values(expr, now))
        return found

    def latex(self) -> str:
        """Equations as a LaTeX `align` environment."""
        t, _ = self.times
        lines = []
        for key, expr in self.rates.items():
            left = sp.latex(key)
            total = len(key.args) == 1 or key.args[0] == key.args[1]
            front = rf"\frac{{\mathrm{{d}}}}{{\mathrm{{d}} {t}}}" if total else rf"\partial_{{{t}}}"
            lines.append(rf"{front} {left} &= {sp.latex(expr)}")
        lines += [f"{sp.latex(key)} &= {sp.latex(expr)}" for key, expr in self.values.items()]
        lines += [f"{sp.latex(key)} &= {sp.latex(expr)}" for key, expr in self.start.items()]
        body = " \\\\\n".join(lines)
        return f"\\begin{{align}}\n{body}\n\\end{{align}}"

    def _repr_latex_(self) -> str:
        return self.latex()

    def __str__(self) -> str:
        title = self.name or "two-time problem"
        rows = [f"  d/dt {key} = {expr}" for key, expr in self.rates.items()]
        rows += [f"  {key} = {expr}" for key, expr in (*self.values.items(), *self.start.items())]
        return "\n".join([title, *rows])

    def __repr__(self) -> str:
        title = self.name or "two-time problem"
        rates = ", ".join(str(key) for key in (*self.rates, *self.values))
        return f"TwoTime({title}: {rates})"


@dataclass(frozen=True)
class _Values:
    """Values of expressions at numeric times."""

    problem: TwoTime
    known: Mapping[str, Callable[..., float]]
    parameters: Mapping[sp.Symbol, sp.Expr]
    s: sp.Expr
    nodes: int

    def __call__(self, expr: sp.Expr, at: Mapping[sp.Symbol, sp.Expr]) -> sp.Expr:
        """Value of an expression where the times are `at`."""
        table: dict[sp.Expr, sp.Expr] = {}
        for total in expr.atoms(sp.Integral):
            table[total] = self.integral(total, at)
        plain = expr.xreplace(table)
        functions = plain.atoms(sp.core.function.AppliedUndef)
        plain = plain.xreplace({f: self.function(f, at) for f in functions})
        return plain.xreplace({**self.parameters, **at})

    def integral(self, total: sp.Integral, at: Mapping[sp.Symbol, sp.Expr]) -> sp.Expr:
        """Integral over one time; functions have kinks at s."""
        (symbol, low, high) = total.limits[0]
        ends = [y.xreplace(dict(at)) for y in (low, high)]
        ends[1:1] = [self.s] if ends[0] < self.s < ends[1] else []
        places, weights = np.polynomial.legendre.leggauss(self.nodes)
        result = sp.Float(0)
        for begin, end in pairwise(ends):
            half = (end - begin) / 2
            for place, weight in zip(places, weights, strict=True):
                here = {**at, symbol: begin + half * (1 + sp.Float(place))}
                result += half * weight * self(total.function, here)
        return result

    def function(self, applied: sp.Expr, at: Mapping[sp.Symbol, sp.Expr]) -> sp.Expr:
        """Value of a function at its times: symmetric, or zero before its cause."""
        times = [float(y.xreplace(dict(at))) for y in applied.args]
        if len(times) == 2 and times[0] < times[1]:
            if applied.func in self.problem.causal:
                return sp.Float(0)
            times.reverse()
        return sp.Float(self.known[str(applied.func)](*times))


def _expressions(given: Mapping[Any, Any], role: str) -> dict[Key, sp.Expr]:
    """Keys and values as SymPy expressions."""
    if not isinstance(given, Mapping):
        raise BadParameter(f"{role} must be a mapping like {{C(t, s): ...}}, got {given!r}")
    found = {}
    for key, expr in given.items():
        if not isinstance(key, sp.core.function.AppliedUndef) or len(key.args) not in (1, 2):
            raise BadParameter(
                f"{role} has the key {key!r}: keys are functions of times, C(t, s) or mu(t)"
            )
        try:
            found[key] = sp.sympify(expr, strict=True)
        except sp.SympifyError as error:
            raise BadParameter(
                f"the equation for {key} is {expr!r}: write it as a SymPy expression, not as text"
            ) from error
    return found


def _functions(problem: TwoTime, times: int) -> tuple[Any, ...]:
    keys = [k for k in (*problem.values, *problem.rates) if len(k.args) == times]
    order = [k for k in (*problem.rates, *problem.values) if len(k.args) == times]
    return tuple(dict.fromkeys(k.func for k in (order if times == 2 else keys)))


def _check(problem: TwoTime) -> None:
    """Refuse equations that are missing or given twice; integrals are checked when reduced."""
    t, s = problem.times
    names = [str(f) for f in (*problem.pairs, *problem.signals)]
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
    clash = [y.name for y in problem.parameters if y.name in names]
    if clash:
        raise BadParameter(f"{clash[0]!r} is both a parameter and a function; rename one")


def _check_pair(problem: TwoTime, f: Any, t: sp.Symbol, s: sp.Symbol) -> None:
    """A function of two times has one equation for X(t, s) and one for its diagonal."""
    known = {*problem.rates, *problem.values}
    if f(t, s) not in known:
        raise BadParameter(f"{f} has no equation for {f}({t}, {s})")
    if f(t, t) not in known:
        how = "its value just after s" if f in problem.causal else "its value or total rate"
        raise BadParameter(f"{f} has no equation for {f}({t}, {t}): {how}")
