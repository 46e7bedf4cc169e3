"""Steps of the sites of a random network, from the definitions of their equations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import sympy as sp
from sympy.core.function import AppliedUndef

from dmft.arrays import Array
from dmft.equations.array_functions import FUNCTIONS
from dmft.equations.averages.expectation import Expectation
from dmft.equations.two_time.network import NU, Functions, NetworkEquations
from dmft.errors import BadParameter, NotClosed
from dmft.gaussian.derivative import derivative
from dmft.gaussian.expectation import Gaussian
from dmft.gaussian.nodes.grid import array_function
from dmft.gaussian.pair_series import kinks_of
from dmft.model import FIELD
from dmft.model.random_network import S, T, exact_zero
from dmft.solvers.two_time.network_closed import LinearSite
from dmft.solvers.two_time.network_sweep import SiteProblem

X, H, XI, NOW = sp.symbols("x_ h_ xi_ nu_", real=True)


class Lowered:
    """Definitions of a network at values of its parameters, as functions of arrays."""

    def __init__(
        self, equations: NetworkEquations, values: Mapping[sp.Symbol, float], dt: float
    ) -> None:
        self.equations, self.network, self.dt = equations, equations.model, dt
        self.values = {y: exact_zero(sp.Float(v)) for y, v in values.items()}
        self.sites = self.network.site_symbols
        self.every = [equations.functions(a) for a in range(self.network.populations)]

    def problem(self) -> SiteProblem:
        """All of them."""
        count = range(len(self.every))
        held = None
        if self.network.multiplier is not None:
            _, expr, value = self.network.multiplier
            at = self._at(expr).xreplace({self.network.state: X})
            held = array_function([X, *self.sites], at), float(self._at(value))
        outputs = [self._output(f) for f in self.every]
        return SiteProblem(
            step=[self._step(f) for f in self.every],
            output=[self._valued(outputs[a]) for a in count],
            field=[self._field(f) for f in self.every],
            kernel=[self._kernel(f) for f in self.every],
            proportional=[self._is_proportional(f) for f in self.every],
            covariance=[self._covariance(f) for f in self.every],
            loadings=self._loadings(),
            noisy=[self.equations.block(f.state).has(f.white) for f in self.every],
            coupled=[float(self.equations.block(f.field).coeff(f.eta(T))) for f in self.every],
            held=held,
            shares=self.network.shares,
            dt=self.dt,
            same_output=all(y == X for y in outputs),
        )

    def _at(self, expr: sp.Expr) -> sp.Expr:
        return expr.xreplace(self.values)

    def _output(self, f: Functions) -> sp.Expr:
        """Output in X: that of the averages, which a change of one of them must keep."""
        return self._at(f.output).xreplace({f.state(T): X})

    def _valued(self, output: sp.Expr) -> Callable[..., Any]:
        call = array_function([X, *self.sites], sp.Tuple(output, _slope(output, X)))
        return lambda x, sites: _quiet(call, x, *sites)

    def next_state(self, f: Functions) -> sp.Expr:
        """State after a step as an expression in X, H, XI and the multiplier."""
        rate = self._at(self.equations.block(f.state))
        swap = {f.state(T): X, f.field(T): H, f.white(T): XI, NU(T): NOW}
        expr = rate.xreplace(swap)
        foreign = expr.atoms(AppliedUndef)
        if foreign:
            raise BadParameter(
                f"the rate of {f.state} contains {next(iter(foreign))}: a site depends only on its "
                "own state and field; averages belong to its field"
            )
        if self.network.kind == "map":
            return expr
        white = expr.coeff(XI)
        drift = sp.expand(expr - white * XI) if white != 0 else expr
        noise = sp.sqrt(self.dt) * white * XI
        if not self.network.positive:
            return X + self.dt * drift + noise
        inflow = drift.subs(X, 0)
        growth = sp.expand((drift - inflow) / X)
        if growth.subs(X, 0).has(sp.zoo, sp.nan, sp.oo):
            raise BadParameter(f"positive states need a rate x rho(x, h) + lambda, got {drift}")
        return X * sp.exp(self.dt * growth) + self.dt * inflow

    def _step(self, f: Functions) -> Callable[..., Any]:
        new = self.next_state(f)
        rows = sp.Tuple(new, _slope(new, X), _slope(new, H))
        call = array_function([X, H, XI, T, NOW, *self.sites], rows)

        def step(x: Array, h: Array, xi: Array | None, t: float, sites: Array, nu: float) -> Any:
            return _quiet(call, x, h, 0.0 if xi is None else xi, t, nu, *sites)

        return step

    def _field(self, f: Functions) -> Callable[..., Any]:
        """Terms of the field beside its Gaussian part and its memory."""
        expr = self._at(self.equations.block(f.field)).expand()
        kept = [y for y in sp.Add.make_args(expr) if not y.has(f.eta, sp.Integral, sp.Sum)]
        means = sp.symbols(f"M_:{len(self.every)}", real=True)
        loads = sp.symbols(f"kappa_:{len(self.network.low_rank)}", real=True)
        swap: dict[Any, Any] = {g.mean(T): y for g, y in zip(self.every, means, strict=True)}
        swap |= {sp.Function(f"kappa_{r + 1}", real=True)(T): y for r, y in enumerate(loads)}
        own = sp.Add(*kept).xreplace(swap)
        if own.atoms(AppliedUndef):
            raise BadParameter(
                f"the field of a site contains {next(iter(own.atoms(AppliedUndef)))}, which is not "
                "an average, input, Gaussian part or memory"
            )
        call = array_function([T, *means, *loads, *self.sites], own)
        return lambda t, m, kappa, sites: _quiet(call, t, *m, *kappa, *sites)

    def _memory(self, f: Functions) -> sp.Expr:
        """Kernel of the memory terms of a field; zero without any."""
        expr = self._at(self.equations.block(f.field)).expand()
        terms = [y for y in sp.Add.make_args(expr) if y.has(sp.Integral, sp.Sum)]
        if not terms:
            return sp.S.Zero
        earlier = self._at(f.output).xreplace({T: S})
        total = sp.S.Zero
        for term in terms:
            inside = next(iter(term.atoms(sp.Integral, sp.Sum)))
            total += (term / inside) * inside.function / earlier
        total = sp.cancel(total) if total.has(1 / earlier) else sp.simplify(total)
        if any(total.has(g.state) for g in self.every):
            raise BadParameter(
                f"a memory of {f.field} is an integral of a kernel times the output "
                f"{earlier}, got {sp.Add(*terms)}"
            )
        return total

    def _is_proportional(self, f: Functions) -> bool:
        """Whether the kernel of the memory is a sum of constants times responses."""
        kernel = self._memory(f)
        rates = {g.resp(T, S): sp.diff(kernel, g.resp(T, S)) for g in self.every}
        rest = sp.expand(kernel - sp.Add(*(rate * y for y, rate in rates.items())))
        return bool(rest == 0 and not any(rate.has(T, S) for rate in rates.values()))

    def _kernel(self, f: Functions) -> Callable[..., Any] | None:
        """Weights of earlier outputs in the field, from its memory terms."""
        total = self._memory(f)
        if total == 0:
            return None
        call = self._of_kernels(total)
        share = 1.0 if self.network.kind == "map" else self.dt
        return lambda corr, resp, t, s: share * call(corr, resp / share, t, s)

    def _covariance(self, f: Functions) -> Callable[..., Any]:
        expr = self._at(self.equations.block(f.sigma))
        call = self._of_kernels(expr)

        def row(corr: Array, t: float, s: Array) -> Any:
            return call(corr, np.zeros_like(corr), t, s)

        return row

    def _of_kernels(self, expr: sp.Expr) -> Callable[..., Any]:
        """An expression in the averages at (t, s), as a function of rows (P, k)."""
        count = len(self.every)
        corr, resp = (sp.symbols(f"{n}_:{count}", real=True) for n in ("C", "R"))
        swap: dict[Any, Any] = {f.corr(T, S): y for f, y in zip(self.every, corr, strict=True)}
        swap |= {f.resp(T, S): y for f, y in zip(self.every, resp, strict=True)}
        inside = expr.xreplace(swap).replace(sp.KroneckerDelta, _equal)
        if inside.atoms(AppliedUndef):
            raise BadParameter(
                f"{next(iter(inside.atoms(AppliedUndef)))} in {expr}: covariances and memories "
                "contain only C(t, s) and R(t, s)"
            )
        call = array_function([T, S, *corr, *resp], inside)

        def row(c: Array, r: Array, t: float, s: Array) -> Array:
            found = np.asarray(_quiet(call, t, s, *c, *r), dtype=np.float64)
            return np.broadcast_to(found, s.shape)

        return row

    def _loadings(self) -> list[Callable[..., Any]]:
        """Overlaps with the low-rank part, as their definitions say."""
        found = []
        for r in range(len(self.network.low_rank)):
            function = sp.Function(f"kappa_{r + 1}", real=True)
            terms = []
            for term in sp.Add.make_args(self._at(self.equations.block(function))):
                average = next(iter(term.atoms(Expectation)))
                a = next(n for n, f in enumerate(self.every) if average.integrand.has(f.state))
                f = self.every[a]
                loading = sp.cancel(average.integrand / f.output)
                terms.append((a, float(term / average), array_function(list(self.sites), loading)))
            found.append(_loading(terms))
        return found


def _equal(one: sp.Expr, two: sp.Expr) -> sp.Expr:
    """A Kronecker delta of arrays, which NumPy has no function for."""
    return sp.Piecewise((1, sp.Eq(one, two)), (0, True))


def _slope(expr: sp.Expr, by: sp.Symbol) -> sp.Expr:
    """Derivative; nan where jumps leave delta functions, which the mean over paths misses."""
    slope = sp.diff(expr, by)
    if slope.has(sp.DiracDelta):
        slope = derivative(expr.xreplace({by: FIELD})).xreplace({FIELD: by})
    return sp.nan if slope.has(sp.DiracDelta) else slope


def _loading(terms: list[tuple[int, float, Callable[..., Any]]]) -> Callable[..., Any]:
    def value(outputs: Array, sites: Any) -> float:
        return float(sum(w * np.mean(n(*sites[a]) * outputs[a]) for a, w, n in terms))

    return value


def _quiet(call: Callable[..., Any], *arguments: Any) -> Any:
    with np.errstate(all="ignore"):
        return call(*arguments)


def build_network(
    equations: NetworkEquations, values: Mapping[sp.Symbol, float], dt: float
) -> SiteProblem:
    """Functions of arrays for a sweep with the step `dt`."""
    return Lowered(equations, values, dt).problem()


def gaussian_sites(
    equations: NetworkEquations, values: Mapping[sp.Symbol, float], dt: float, normal: bool
) -> list[LinearSite] | None:
    """Sites whose process is Gaussian (`normal`: so is their start); None where one is not."""
    lowered = Lowered(equations, values, dt)
    network = equations.model
    held = None if network.multiplier is None else network.multiplier[1]
    several = held is not None and network.populations > 1
    if network.site_symbols or network.low_rank or several:
        return None
    if held is not None and not held.is_polynomial(network.state):
        return None
    found = []
    for f in lowered.every:
        new = sp.expand(lowered.next_state(f))
        by = [sp.diff(new, y) for y in (X, H, XI)]
        if any(y.has(X, H, XI) for y in by):
            return None
        output = lowered._output(f)
        slope = sp.diff(output, X)
        is_linear = not slope.has(X)
        remembers = lowered._kernel(f) is not None
        if not (is_linear or (normal and not remembers)):
            return None
        rest = new - sum(d * y for d, y in zip(by, (X, H, XI), strict=True))
        rows = [array_function([T, NOW], sp.expand(y)) for y in (by[0], by[1], rest, by[2] ** 2)]
        by_state, by_field, constant, noise = (_number(call) for call in rows)
        pair = None if is_linear else _pair(output)
        known = float(slope) if is_linear else None
        kinks = kinks_of(output, X)
        found.append(LinearSite(by_state, by_field, constant, noise, known, pair, kinks))
    return found


def _number(call: Callable[..., Any]) -> Callable[[float, float], float]:
    return lambda t, nu: float(call(t, nu))


def _pair(output: sp.Expr) -> Callable[..., Any] | None:
    """E phi(x_k) phi(x_l), l = 0..k, of centred fields where it has a closed form."""
    x, y = sp.symbols("x y", real=True)
    v, w = sp.symbols("v w", positive=True)
    c = sp.Symbol("c", real=True)
    at_x, at_y = output.xreplace({X: x}), output.xreplace({X: y})
    try:
        expr = Gaussian([x, y], cov=[[v, c], [c, w]]).expect(at_x * at_y)
        square = array_function([v], Gaussian([x], cov=[[v]]).expect(at_x**2), FUNCTIONS)
    except NotClosed:
        return None
    call = array_function([v, w, c], expr, FUNCTIONS)

    def row(variance: float, others: Array, covariances: Array) -> Array:
        # Rounding can make correlations larger than one, and closed forms have cusps there.
        bound = (1.0 - 1e-15) * np.sqrt(variance * others)
        inside = np.clip(covariances, -bound, bound)
        found = np.broadcast_to(_quiet(call, variance, others, inside), others.shape).copy()
        found[-1] = square(variance)
        return found

    return row
