r"""Scalings: which terms survive as d grows, and the plane of exponents (theory/one_pass B.3).

The drift has the weight 1, the quadratic term gamma/(p n_b). What has the largest power of d stays;
where that is the quadratic term, time is counted in t' = t gamma/(p n_b), in which its weight is 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import sympy as sp

from dmft.equations import symbols as x
from dmft.equations.definitions import Definition, live
from dmft.equations.equations import Equations
from dmft.equations.update.optimiser import clock_in_words, step_size
from dmft.equations.update.program import check_linear, depends_on_length
from dmft.equations.update.rates import definitions
from dmft.errors import BadParameter, NotClosed
from dmft.model import SGD, GradientFlow, Model, Scaling, check_identity, check_isotropic
from dmft.model.algorithm import refuse
from dmft.record import InLatex, Short
from dmft.typeset.plain import in_letters
from dmft.validation import checked

if TYPE_CHECKING:
    from dmft.model import Scaling

TIME_UNITS = {
    "high-dimensional": "t = steps * gamma / (p d); gamma, p, k of order one as d -> infinity",
    "gradient-flow": "t = steps * gamma / (p d) as gamma / p -> 0",
    "mean-field": "t = steps * gamma / (p d) as gamma / p -> 0 and p -> infinity",
    "wide-high-dimensional": "t = steps * gamma / (p d) as p -> infinity at fixed gamma / p",
    "noise-dominated": "t' = steps * (gamma / p)^2 / (n_b d), that is t' = t gamma / (p n_b), as "
    "gamma / (p n_b) -> infinity and (gamma / p)^2 / (n_b d) -> 0",
}
QUADRATIC = ("sgd_noise", "label_noise")
# Terms that follow from the others, whatever their weight.
FOLLOWING = ("free", "sphere")
FLOWS = ("gradient-flow", "mean-field")
# Limits in which one sample moves its own fields by a finite amount.
DISPLACED_LIMITS = ("high-dimensional", "gradient-flow")


def region_of(algorithm: SGD | GradientFlow, scaling: str | Scaling | None) -> str:
    """Name of the limit that a scaling declares for an algorithm."""
    if scaling is None:
        return "gradient-flow" if algorithm.is_flow else "high-dimensional"
    name = scaling if isinstance(scaling, str) else scaling.region
    if name not in TIME_UNITS:
        raise BadParameter(
            f"scaling {scaling!r} is unknown; choose one of {list(TIME_UNITS)} or declare powers "
            "of d with dmft.Scaling(learning_rate=..., width=..., batch_size=...)"
        )
    if algorithm.is_flow and name not in FLOWS:
        raise BadParameter(
            f"scaling {name!r} does not fit GradientFlow, which has no steps and no noise; choose "
            f"one of {list(FLOWS)}, or SGD"
        )
    return name


def check_repeated(
    model: Model, algorithm: SGD, region: str, dim: int | sp.Expr | None, fluctuations: bool
) -> None:
    """Refuse limits for which there is no derivation where a sample moves its own fields."""
    if not depends_on_length(model, algorithm):
        return
    # Each sample is displaced along its own gradient, whatever the batch: that is a map.
    if dim is not None and not fluctuations and algorithm.rule.passes > 1:
        raise BadParameter(
            f"maps of large batches are not derived with {described(algorithm)}: passes over "
            "one batch of the order of d are correlated and require two-time equations. Leave "
            "dim out for the ode of small batches, pass fluctuations=True, or use "
            'dmft.simulate(..., method="weights")'
        )
    once = algorithm.rule.passes > 1
    if region not in DISPLACED_LIMITS[: 1 if once else 2]:
        why = "as gamma vanishes all passes have the same fields, as plain SGD" if once else ""
        raise BadParameter(
            f"scaling {region!r} is not derived with {described(algorithm)}"
            + (f" ({why})" if why and region == "gradient-flow" else "")
            + "; leave scaling out"
        )


def described(algorithm: SGD) -> str:
    """Which update an algorithm has, in a message."""
    return repr(algorithm) if algorithm.repeat is None else f"repeat = {algorithm.repeat}"


def time_unit(name: str, scaling: str | Scaling | None) -> str:
    """The unit of t as text, with the powers of d that were declared."""
    text = TIME_UNITS[name]
    if not (scaling is None or isinstance(scaling, str)):
        text += f"; under {scaling} a step is of order d^({scaling.step_power})"
    return text


def limit(
    model: Model,
    algorithm: SGD | GradientFlow,
    scaling: str | Scaling | None,
    dim: sp.Expr | None = None,
) -> Equations:
    """Equations of motion of one scaling; `dim` only for the mean field, whose cosines it gives."""
    name = region_of(algorithm, scaling)
    if not algorithm.is_flow and not isinstance(algorithm.batch_size, int):
        raise BadParameter(
            f"batch_size = {algorithm.batch_size} grows with the dimension: pass dim=..., which "
            "gives the map of such steps"
        )
    unit = clock_in_words(algorithm, time_unit(name, scaling))
    if name not in ("high-dimensional", "gradient-flow"):
        refuse(algorithm, "noise")
    if name in ("mean-field", "wide-high-dimensional"):
        check_linear(algorithm, "wide limits")
        check_identity(model, "wide limits are derived")
    # Loaded where they are asked for: an ode has no use for wide limits.
    if name == "mean-field":
        from dmft.equations.restrict.wide import wide_definitions

        found = wide_definitions(model, algorithm, finite=dim is not None)
    elif name == "wide-high-dimensional":
        from dmft.equations.restrict.aligned import aligned_definitions

        found = aligned_definitions(model, algorithm)
    elif name == "noise-dominated":
        assert not algorithm.is_flow
        check_isotropic(model, "the noise-dominated scaling is derived")
        found = definitions(model, algorithm, True)
        found = noise_dominated(found, step_size(algorithm) / (x.p * algorithm.batch_size))
    else:
        found = definitions(model, algorithm, name not in FLOWS)
    equations = Equations(
        kind="ode",
        definitions=live(found),
        model=model,
        algorithm=algorithm,
        scaling=name,
        time_unit=unit,
        dim=dim,
    )
    if name == "mean-field" and equations.averages:
        raise NotClosed(
            "the wide reduction needs averages with closed forms or tables of one and two fields; "
            f"this average has neither: {equations.averages[0]}"
        )
    _ = equations.parameters  # refuses clashing symbols before anything is computed
    return equations


def noise_dominated(found: Sequence[Definition], weight: sp.Expr) -> list[Definition]:
    """Keep the quadratic terms, divided by their weight, and what a constraint makes of them."""
    result = []
    for d in found:
        moves = d.role == "rate" or {name for name, _ in d.terms} & {*QUADRATIC}
        if not moves:
            result.append(d)
            continue
        terms = [
            (name, e / weight if name in QUADRATIC else e)
            for name, e in d.terms
            if name in (*QUADRATIC, *FOLLOWING)
        ]
        result.append(Definition(d.target, tuple(terms), d.role))
    return result


TITLES = {
    "gradient-flow": "gradient flow",
    "mean-field": "mean field",
    "high-dimensional": "high-dimensional",
    "noise-dominated": "noise dominated",
    "map": "map of large batches",
    "no ode": "no differential equation",
}


@dataclass(frozen=True)
class Region:
    """Region of the plane, with its equations or the reason why there are none.

    Attributes
    ----------
    name : str
        "gradient-flow", "mean-field", "high-dimensional", "noise-dominated", "map" or "no ode".
    lower, upper : sympy.Expr
        Bounds of kappa + delta; equal ones are a line.
    wide : bool or None
        True for delta > 0, False for delta = 0, None for both.
    equations : Equations or None
        Equations of the limit.
    reason : str
        Reason why there are no equations.

    Examples
    --------
    >>> import dmft
    >>> plane = dmft.regimes(dmft.literature.phase_retrieval(1))
    >>> region = plane["mean-field"]
    >>> region.title, region.condition
    ('mean field', 'kappa + delta > 0, delta > 0')
    """

    name: str
    lower: sp.Expr
    upper: sp.Expr
    wide: bool | None
    equations: Equations | None
    reason: str = ""

    @property
    def title(self) -> str:
        """Name as text."""
        return TITLES[self.name]

    @property
    def condition(self) -> str:
        """Condition on the exponents, as text."""
        width = {True: ", delta > 0", False: ", delta = 0", None: ""}[self.wide]
        return _between(self.lower, "kappa + delta", self.upper, "≤", str) + width

    @property
    def condition_latex(self) -> str:
        r"""Condition on the exponents, as LaTeX."""
        width = {True: r",\ \delta > 0", False: r",\ \delta = 0", None: ""}[self.wide]
        return _between(self.lower, r"\kappa + \delta", self.upper, r"\le", sp.latex) + width

    def holds(self, kappa: sp.Expr, delta: sp.Expr) -> bool:
        """Whether a point of the plane belongs to the region.

        Parameters
        ----------
        kappa, delta : sympy.Expr
            Powers of d, gamma ~ d^-kappa and p ~ d^delta.

        Returns
        -------
        bool

        Examples
        --------
        >>> import dmft
        >>> plane = dmft.regimes(dmft.literature.phase_retrieval(1))
        >>> import sympy as sp
        >>> plane["mean-field"].holds(sp.Integer(1), sp.Rational(1, 2))
        True
        """
        total = kappa + delta
        if self.wide is not None and self.wide != bool(delta > 0):
            return False
        if self.lower == self.upper:
            return bool(total == self.lower)
        closed = self.name == "no ode" and total == self.upper
        return bool(self.lower < total < self.upper) or closed


def _between(
    low: sp.Expr, name: str, high: sp.Expr, at_most: str, number: Callable[[sp.Expr], str]
) -> str:
    if low == high:
        return f"{name} = {number(low)}"
    if low == -sp.oo:
        return f"{name} {at_most} {number(high)}"
    if high == sp.oo:
        return f"{name} > {number(low)}"
    return f"{number(low)} < {name} < {number(high)}"


@dataclass(frozen=True, repr=False)
class Regimes(InLatex, Short):
    """Regions of the plane (kappa, delta) with their limiting equations.

    Attributes
    ----------
    model : Model
    algorithm : SGD
    batch_power : sympy.Rational
        mu of n_b ~ d^mu.
    regions : tuple of Region
        Regions in order of decreasing kappa; ``regimes[name]`` returns one.

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> square = dmft.Committee(sp.Symbol("z", real=True)**2, width=1)
    >>> plane = dmft.regimes(dmft.Model(square, square))
    >>> [region.name for region in plane]
    ['gradient-flow', 'mean-field', 'high-dimensional', 'noise-dominated', 'no ode']
    >>> plane["noise-dominated"].condition
    '-1/2 < kappa + delta < 0'
    """

    model: Model
    algorithm: SGD
    batch_power: sp.Rational
    regions: tuple[Region, ...]

    def __iter__(self) -> Iterator[Region]:
        return iter(self.regions)

    def __getitem__(self, name: str) -> Region:
        for region in self.regions:
            if region.name == name:
                return region
        raise KeyError(f"no region {name!r}; available: {[r.name for r in self.regions]}")

    def at(self, scaling: Scaling) -> Region:
        """Return the region of the given powers of d.

        Parameters
        ----------
        scaling : Scaling
            Powers of d of learning rate, width and batch.

        Returns
        -------
        Region

        Raises
        ------
        BadParameter
            If the batch size has a different power of d.

        Examples
        --------
        >>> import dmft
        >>> plane = dmft.regimes(dmft.literature.phase_retrieval(1))
        >>> plane.at(dmft.Scaling(learning_rate=-0.5, width=1)).title
        'mean field'
        """
        if scaling.batch_size != self.batch_power:
            raise BadParameter(
                f"{scaling} has batches ~ d^({scaling.batch_size}), this plane "
                f"d^({self.batch_power}); use regimes(model, batch_size={scaling.batch_size})"
            )
        for region in self.regions:
            if region.holds(scaling.kappa, scaling.width):
                return region
        raise BadParameter(f"{scaling} lies in no region")  # pragma: no cover - they cover it

    @property
    def powers(self) -> str:
        """Powers of d, as text."""
        batch = "" if self.batch_power == 0 else f", n_b = n_0 d^({self.batch_power})"
        return f"gamma = gamma_0 d^(-kappa), p = p_0 d^delta{batch}"

    def _in_words(self) -> str:
        return f"{', '.join(region.name for region in self.regions)}; {self.powers}"

    def __str__(self) -> str:
        parts = [in_letters(f"Limits of one-pass SGD as d -> infinity with {self.powers}")]
        for region in self.regions:
            parts.append(f"\n{region.title}: {in_letters(region.condition)}")
            parts.append(str(region.equations) if region.equations else f"  {region.reason}")
        return "\n".join(parts)

    def latex(self) -> str:
        """LaTeX: a paragraph for each region, with its condition and its equations."""
        batch = "" if self.batch_power == 0 else rf",\ n_b = n_0 d^{{{sp.latex(self.batch_power)}}}"
        head = rf"$\gamma = \gamma_0 d^{{-\kappa}},\ p = p_0 d^{{\delta}}{batch}$, $d \to \infty$:"
        parts = [head]
        for region in self.regions:
            parts.append(rf"\paragraph{{{region.title}: ${region.condition_latex}$}}")
            equations = region.equations
            parts.append(equations.latex() if equations else _plain(region.reason))
        return "\n\n".join(parts)


def _plain(text: str) -> str:
    """Text of a reason, its few special characters escaped."""
    for sign in "_^":
        text = text.replace(sign, rf"\{sign}{{}}" if sign == "^" else r"\_")
    return text


@checked
def regimes(model: Model, algorithm: SGD | None = None, *, batch_size: object = 0) -> Regimes:
    r"""Determine the limits of one-pass SGD for gamma ~ d^-kappa and p ~ d^delta.

    Equation    the terms of `derive` that survive in each region
    Shapes      Q (p, p), M (p, k); M (p, k), Q_perp (p,) in the mean field
    Scaling     gamma = gamma_0 d^-kappa, p = p_0 d^delta, n_b = n_0 d^batch_size, d -> infinity
    Valid for   fixed k; delta >= 0
    Source      theory/one_pass B.3 [veiga_2022]; derivations/regimes.py

    Parameters
    ----------
    model : Model
    algorithm : SGD, optional
        Its loss and constraint are used; by default squared loss without
        constraint.
    batch_size : number
        Power mu >= 0 of d in the batch size.

    Returns
    -------
    Regimes
        Regions. `print` shows the equations of each region, `.latex()` typesets them, and
        `dmft.plot` draws the plane.

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> z = sp.Symbol("z", real=True)
    >>> erf = dmft.Committee(sp.erf(z / sp.sqrt(2)), width=4)
    >>> plane = dmft.regimes(dmft.Model(erf, erf))
    >>> plane.at(dmft.Scaling(learning_rate=-0.5, width=1)).title
    'mean field'
    >>> sorted(plane["high-dimensional"].equations.terms["Q"])
    ['interaction', 'label_noise', 'learning', 'sgd_noise']
    """
    if model.reads_sequences:
        raise BadParameter("regimes are computed for committees; sequence models have one limit")
    check_identity(model, "regimes are computed")
    algorithm = algorithm or SGD(learning_rate=sp.Symbol("gamma", positive=True))
    mu = Scaling(batch_size=batch_size).batch_size
    if mu < 1:
        drift, end = -mu, -(1 + mu) / 2
    else:
        drift = end = -sp.S.One
    found = [
        _region("gradient-flow", drift, sp.oo, False, model, algorithm),
        _region("mean-field", drift, sp.oo, True, model, algorithm),
    ]
    if mu < 1:
        found.append(_region("high-dimensional", drift, drift, None, model, algorithm))
        found.append(_region("noise-dominated", end, drift, None, model, algorithm))
        step = "the quadratic term moves the overlaps by a finite amount in a step"
    else:
        reason = "discrete map of steps eta = gamma/d: derive(model, SGD(...), dim=...)"
        found.append(Region("map", drift, drift, None, None, reason))
        step = "a step moves the overlaps by more than a finite amount"
    found.append(Region("no ode", -sp.oo, end, None, None, step))
    return Regimes(model, algorithm, mu, tuple(found))


def _region(
    name: str, lower: sp.Expr, upper: sp.Expr, wide: bool | None, model: Model, algorithm: SGD
) -> Region:
    assert name in TIME_UNITS
    try:
        return Region(name, lower, upper, wide, limit(model, algorithm, name))
    except NotClosed as error:
        return Region(name, lower, upper, wide, None, f"not available: {error}")
