r"""Hand-written two-time problems: causal equations of correlations, responses and signals."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import sympy as sp
from sympy.core.function import AppliedUndef

from dmft.equations.definitions import Definition
from dmft.equations.two_time.changes import IndicesInTime, Named, TwoTimeEquations, as_expression
from dmft.equations.two_time.normal_form import InTimes, normal_form
from dmft.equations.two_time.process_reference import ValuesAtTimes
from dmft.equations.views.latex import EquationPrinter
from dmft.errors import BadParameter
from dmft.record import Shown
from dmft.typeset.plain import plain_text
from dmft.validation import checked

# A function of times in an equation: C(t, s), C(t, t), mu(t).
Key = Any
Terms = dict[str, sp.Expr]

# Arguments of `solve`: no parameter of these names could be given to it.
TAKEN_BY_SOLVE = frozenset(
    {"system", "start", "t_max", "tol", "save_at", "max_step", "thin", "measure_error"}
    | {"checkpoint", "timeout", "max_steps", "method", "progress"}
)


@checked
@dataclass(frozen=True, init=False, eq=False)
class TwoTime(Shown, InTimes, TwoTimeEquations):
    r"""Causal system of equations in two times t >= s, written in SymPy.

    Families of functions are written as comprehensions, ``{C[a](t, s): ... for a in ...}``; of
    correlations of two components, X_ab(s, t) is X_ba(t, s). Signals alone are a system of ordinary
    differential equations. Averages over two Gaussian fields without closed form are computed by
    `dmft.gaussian.tables.tabled.tabled_expectation`.

    Functions of two times are symmetric, X(t, s) = X(s, t), or `causal`: X(t, s) = 0 for s > t.
    Functions of one time are signals (constraint multipliers, energies, magnetisations). Memory is
    a `sympy.Integral` over one time u, from 0 or s to s or t, whose integrand is a sum of products
    A(t, u) * B(u, s): any functions of the pair (t, u), and any of (u, s) or (s, u).

    Scaling     defined by the problem; t >= 0, and s runs over 0 <= s <= t
    Valid for   kernels that are smooth for u < s and for s < u < t; delta functions in time are
                written out as local terms
    Source      [cugliandolo_kurchan_1993] for the best-known example

    Parameters
    ----------
    rates : mapping
        ``{X(t, s): dX(t, s)/dt, m(t): dm/dt, X(t, t): dX(t, t)/dt}``; the last is the total
        derivative along the diagonal. A right-hand side is an expression, or a mapping of named
        terms, ``{"decay": ..., "memory": ...}``, for `without`, `replace` and `diff`.
    values : mapping
        Quantities defined by a formula instead of a rate:
        ``{X(t, t): 1, mu(t): ..., K(t, s): ...}``.
        The right-hand side may contain integrals of the function itself (Volterra, second kind).
        Each row is iterated, so the contribution of a row to itself must be small.
    start : mapping
        ``{m(0): m0, X(0, 0): x0}`` for the signals and diagonals that have rates.
    causal : sequence of SymPy functions
        The two-time functions that vanish for s > t (responses); a causal function of two times
        has its value just after s, X(t, t), in `values`.
    name, source : str
        Name and source.

    Attributes
    ----------
    named : mapping from function to its terms by name
        All equations; an expression is one term, "rate" or "value". `terms` has them by block:
        "X" of X(t, s), "X_diagonal" of X(t, t), "m" of m(t). If a function has a total rate on the
        diagonal, each mechanism is a term of both of its blocks.
    parameters : tuple of sympy.Symbol
        All other symbols. Their values are passed to `dmft.solve` by name.

    Raises
    ------
    BadParameter
        If an equation is missing. `dmft.solve` raises it for equations that are not causal or not
        of the form above.

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
    stepper: ClassVar[str] = "two-time"
    scaling = "two times"
    algorithm = ""

    named: Mapping[Key, Terms]
    derived: TwoTime | None

    def __init__(
        self,
        rates: Mapping[Any, Any],
        values: Mapping[Any, Any] | None = None,
        start: Mapping[Any, Any] | None = None,
        causal: Iterable[Any] = (),
        name: str = "",
        source: str = "",
    ) -> None:
        moved = named_terms(rates, "rates", "rate")
        known = named_terms(values or {}, "values", "value")
        begun = named_terms(start or {}, "start", "value")
        for key, group in (("rates", moved), ("values", known), ("start", begun)):
            sums = {f: sp.Add(*terms.values()) for f, terms in group.items()}
            object.__setattr__(self, key, sums)
        object.__setattr__(self, "named", {**moved, **known})
        object.__setattr__(self, "derived", None)
        object.__setattr__(self, "causal", tuple(causal))
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "source", source)
        check_problem(self)

    @property
    def _signature(self) -> str:
        return f"{self.causal} {sp.srepr(tuple(self.start.items()))}"

    # Terms and their changes --------------------------------------------------------------------

    @property
    def stored(self) -> tuple[Definition, ...]:
        """The equations in the order in which they were declared."""
        return tuple(
            Definition(key, tuple(terms.items()), "rate" if key in self.rates else "intermediate")
            for key, terms in self.named.items()
        )

    def _block_of(self, definition: Definition) -> str:
        return block_name(definition.target)

    @property
    def described(self) -> dict[str, str]:
        """Which equations are rates, which functions are causal, and the start."""
        return {
            "rates": ", ".join(map(str, self.rates)),
            "causal": ", ".join(map(str, self.causal)),
            "start": ", ".join(f"{key} = {expr}" for key, expr in self.start.items()),
        }

    @property
    def model(self) -> str:
        """Name."""
        return self.name

    @property
    def approximation(self) -> str:
        """How averages are computed, as text."""
        return "as the equations stand"

    @property
    def as_derived(self) -> TwoTime:
        """The problem before any change."""
        return self.derived or self

    @property
    def is_changed(self) -> bool:
        """Whether terms were added, removed or replaced."""
        return self.derived is not None

    @property
    def symbols(self) -> dict[str, Any]:
        """Symbols that a term may contain, by name: functions of times, and parameters."""
        functions = {str(f): f for f in (*self.pairs, *self.signals)}
        return {**functions, **{y.name: y for y in self.parameters}}

    @property
    def indices(self) -> IndicesInTime:
        """Times by name (of the equations, and one for integrals) and by block."""
        t, s = self.times
        inner = next(sp.Symbol(n) for n in ("u", "v", "w") if n not in (t.name, s.name))
        blocks = {block_name(key): tuple(dict.fromkeys(key.args)) for key in self.named}
        rows = (f"{block}({', '.join(map(str, own))})" for block, own in blocks.items())
        words = f"0 <= {s} <= {t} (times); {inner} (under integrals)\n" + ", ".join(rows)
        return IndicesInTime(blocks, (t, s, inner), words)

    def _value(self, name: str, given: object) -> sp.Expr:
        """Expressions may hold the time t: what varies under an integral over u is a signal."""
        expr, t = as_expression(f"the parameter {name}", given), self.times[0]
        # A time of the same name is that of the equations, whatever its assumptions.
        return expr.xreplace({y: t for y in expr.free_symbols if y.name == t.name})

    def _rebuilt(self, named: Named, swap: Mapping[sp.Basic, sp.Basic]) -> Self:
        """The same problem with other terms; what its solver could not take is refused now."""
        rates, values = (
            {key: named[block_name(key)] for key in self.named if key in group}
            for group in (self.rates, self.values)
        )
        zero = {self.times[0]: sp.S.Zero}
        begun = {key: expr.xreplace(swap).xreplace(zero) for key, expr in self.start.items()}
        found = type(self)(rates, values, begun, self.causal, self.name, self.source)
        normal_form(found)
        before = self.derived or self
        same = found.named == before.named and found.start == before.start
        object.__setattr__(found, "derived", None if same else before)
        return found

    def _checked(self, block: str, given: object) -> sp.Expr:
        """A user's expression in the functions and symbols of the equations."""
        known = self.symbols
        expr = as_expression(f"a term of {block}", given)
        scalars = {y.name: y for y in (*self.times, *self.parameters)}
        inner = {y.name for i in expr.atoms(sp.Integral) for y in i.variables}
        swap: dict[sp.Basic, sp.Basic] = {
            y: scalars[y.name]
            for y in expr.free_symbols
            if y.name in scalars and y.name not in inner
        }
        counts = {str(f): n for n, group in ((2, self.pairs), (1, self.signals)) for f in group}
        for f in expr.atoms(AppliedUndef):
            if counts.get(str(f.func)) != len(f.args):
                names = ", ".join(
                    [*(f"{y}(t, s)" for y in self.pairs), *(f"{y}(t)" for y in self.signals)]
                )
                raise BadParameter(
                    f"{f} in a term of {block} has no equation; there are equations for {names}"
                )
            swap[f] = known[str(f.func)](*(y.xreplace(swap) for y in f.args))
        return self._refuse_free(block, expr.xreplace(swap), self.times, ("time", "integrate"))

    # Numbers and print --------------------------------------------------------------------------

    def evaluate(
        self,
        known: Mapping[str, Callable[..., float]],
        t: float,
        s: float = 0.0,
        *,
        nodes: int = 24,
        **parameters: float,
    ) -> dict[str, float]:
        """Evaluate the right-hand sides at times (t, s) for known functions.

        Equation    rates or values of the equations; integrals by Gauss and Legendre on
                    either side of s
        Shapes      by name: "C" at (t, s), "C_diagonal" at (t, t), signals at t
        Valid for   known functions that are smooth for u < s and for s < u < t

        Parameters
        ----------
        known : mapping from name to callable
            Functions ``{"C": C(t, s), "mu": mu(t), ...}``. Functions of two times are called only
            at t >= s; their values at t < s follow from symmetry or causality.
        t, s : float
        nodes : int
            Number of nodes of each integral.
        **parameters
            Values of the problem's symbols.

        Returns
        -------
        dict of str to float
            Rate or value of each equation.

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
            raise BadParameter(f"no value for {missing[0]}: pass each function and each parameter")
        given = {y: sp.Float(parameters[y.name]) for y in self.parameters}
        values = ValuesAtTimes(self.causal, known, given, sp.Float(s), nodes)
        now = dict(zip(self.times, (sp.Float(t), sp.Float(s)), strict=True))
        every = (*self.rates.items(), *self.values.items())
        return {block_name(key): float(values(expr, now)) for key, expr in every}

    def _latex(self) -> str:
        """Return the equations as a LaTeX `align` environment, with a line for each named term."""
        t, lines = self.times[0], list[str]()
        for d in self.stored:
            partial = len(set(d.target.args)) == 2
            rate = (
                rf"\partial_{{{t}}}" if partial else rf"\frac{{\mathrm{{d}}}}{{\mathrm{{d}} {t}}}"
            )
            lines += self._lines(d, rate if d.role == "rate" else "")
        lines += [f"{sp.latex(key)} &= {sp.latex(expr)}" for key, expr in self.start.items()]
        body = " \\\\\n".join(lines)
        return f"\\begin{{align}}\n{body}\n\\end{{align}}"

    @property
    def _printer(self) -> EquationPrinter:
        return EquationPrinter({})

    def __str__(self) -> str:
        return f"{self.name or 'two-time problem'}\n{plain_text(self.latex())}"

    def __repr__(self) -> str:
        title = self.name or "two-time problem"
        rates = ", ".join(str(key) for key in (*self.rates, *self.values))
        return f"TwoTime({title}: {rates})"


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


def check_problem(problem: TwoTime) -> None:
    """Refuse equations that are missing or given twice; integrals are checked when reduced."""
    t, s = problem.times
    names = [str(f) for f in (*problem.pairs, *problem.signals)]
    names += [f"{f}_diagonal" for f in problem.pairs]
    for name in names:
        if not name.isidentifier() or names.count(name) > 1:
            raise BadParameter(f"the function name {name!r} is not an identifier or is used twice")
    for key in (*problem.rates, *problem.values):
        if key.args not in ((t, s), (t, t), (t,)):
            raise BadParameter(
                f"no equation can be given for {key}, only for X({t}, {s}), X({t}, {t}) and m({t})"
            )
        if key in problem.rates and key in problem.values:
            raise BadParameter(f"{key} has both a rate and a value; pass only one")
    for f in problem.pairs:
        _check_pair(problem, f, t, s)
    for key in problem.start:
        there = key.func(*[t] * len(key.args))
        if any(a != 0 for a in key.args) or there not in problem.rates:
            raise BadParameter(
                f"start has {key}: only signals and diagonals with a rate have one, m(0) or X(0, 0)"
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
