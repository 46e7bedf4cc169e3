"""`spectral`: overlap of the top eigenvector of preprocessed labels with the teacher."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import sympy as sp
from scipy.optimize import brentq

from dmft.arrays import Array
from dmft.errors import BadParameter
from dmft.gaussian.channels.channel import Channel
from dmft.gaussian.channels.declared import label_of
from dmft.gaussian.channels.panels import quiet
from dmft.gaussian.channels.pieces import stripped
from dmft.gaussian.nodes.kinks import break_points
from dmft.model import Model
from dmft.model.loss import LABEL
from dmft.record import Archived
from dmft.validation import as_positive, checked, shown

# The optimal preprocessing is unbounded where E[h^2 | y] vanishes: eigenvectors do not feel more.
FLOOR = -1e3
# Kinks of the preprocessing are sought within these standard deviations.
FARTHEST = 9.0
# Nodes of panels; two rules give the error. Averages below this vanish.
ORDERS, ZERO = (24, 32), 1e-12
# Eigenvalues are sought on this number of levels between these multiples of the scale of the
# preprocessing above its largest value.
LEVELS, CLOSE, FAR = 500, 1e-9, 1e9
# Fields out to which values of T are compared, and the growth of T over the outer half of their
# logarithms that counts as unbounded.
VERY_FAR, VALUES, GROWTH = 1e100, 2000, 0.01


@dataclass(frozen=True, eq=False)
class Spectral(Archived):
    r"""Spectral estimate: leading eigenvector of sum_mu T(y_mu) x_mu x_mu^T/n as d -> infinity.

    Attributes
    ----------
    cosine_squared : float
        Squared cosine of the angle between the eigenvector and the teacher.
    threshold : float
        Samples per dimension above which this cosine is positive; infinite if it is always zero.
    error : float
        Error of cosine_squared.
    samples_per_dim, preprocessing, label

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> z = sp.Symbol("z", real=True)
    >>> model = dmft.Model(dmft.Committee(z, 1), dmft.MultiIndex(sp.Abs(z), [z]))
    >>> found = dmft.spectral(model, samples_per_dim=2)
    >>> round(found.cosine_squared, 4), round(found.threshold, 6)
    (0.6389, 0.5)
    """

    cosine_squared: float
    threshold: float
    error: float
    samples_per_dim: float
    preprocessing: str
    label: str

    KIND = "dmft spectral"


@dataclass(frozen=True, eq=False)
class Values:
    """The preprocessing T, E[h^2 | y] and weights at nodes of the label; the supremum of T."""

    T: Array
    second: Array
    weight: Array
    supremum: float

    def mean(self, values: Array) -> float:
        """Average over labels."""
        return float(self.weight @ values)

    def signal(self, levels: Array) -> Array:
        """E[T (h^2 - 1)/(s - T)] at each level s."""
        return (self.T / (levels[:, None] - self.T)) @ (self.weight * (self.second - 1.0))

    def spread(self, levels: Array) -> Array:
        """E[T^2/(s - T)^2] at each level s; it falls."""
        return (self.T / (levels[:, None] - self.T)) ** 2 @ self.weight

    def levels(self) -> Array:
        """Levels from just above the bulk of T and zero to far away."""
        order = np.argsort(np.abs(self.T))
        typical = float(np.abs(self.T[order[np.searchsorted(np.cumsum(self.weight[order]), 0.5)]]))
        top = max(self.supremum, 0.0)
        scales = [scale for scale in (top, typical) if scale] or [1.0]
        return top + np.geomspace(CLOSE * scales[0], FAR * max(scales), LEVELS)

    def last_fall(self, function: Callable[[Array], Array]) -> float | None:
        """Largest level above which the function is negative, if it is positive somewhere."""
        levels = self.levels()
        values = function(levels)
        falls = np.flatnonzero((values[:-1] > 0.0) & (values[1:] <= 0.0))
        if not falls.size:
            return None
        top, n = max(self.supremum, 0.0), int(falls[-1])

        def of_logarithm(x: float) -> float:
            return float(function(np.array([top + math.exp(x)]))[0])

        ends = (math.log(levels[n] - top), math.log(levels[n + 1] - top))
        return top + math.exp(brentq(of_logarithm, *ends, xtol=1e-13))

    def cosine_squared(self, alpha: float) -> float:
        """The overlap by theory/static_limits (19); the sample of the largest T has none."""
        if self.supremum == math.inf:
            return 0.0
        least = self.last_fall(lambda s: self.spread(s) - 1.0 / alpha)
        level = self.last_fall(lambda s: self.signal(s) - 1.0 / alpha)
        if level is None or (least is not None and level <= least):
            return 0.0
        rise = 1.0 / alpha - float(self.spread(np.array([level]))[0])
        fall = -self.mean(self.T**2 * self.second / (level - self.T) ** 2)
        return rise / (rise - fall)

    def threshold(self) -> float:
        """Where both sides of the condition meet at the edge of the bulk."""
        if self.supremum == math.inf:
            return math.inf
        edge = self.last_fall(lambda s: self.spread(s) - self.signal(s))
        if edge is not None:
            return 1.0 / float(self.spread(np.array([edge]))[0])
        # The bulk ends at the largest value, where T is rare.
        signal, spread = (float(f(self.levels()[:1])[0]) for f in (self.signal, self.spread))
        return math.inf if spread > signal else 1.0 / signal


def optimal_preprocessing(channel: Channel, y: Array) -> Array:
    """1 - 1/E[h^2 | y], not below `FLOOR`."""
    second = channel.moments(y, np.zeros_like(y), np.array(channel.prior_variance)).second
    with np.errstate(divide="ignore"):
        return np.maximum(1.0 - 1.0 / second, FLOOR)


@checked
def spectral(
    model: Model, samples_per_dim: float, preprocessing: str | sp.Expr = "optimal"
) -> Spectral:
    r"""Compute the overlap of the spectral estimate with the teacher, and its threshold.

    Equation    phi(s) = s E[T h^2/(s - T)], psi(s) = s (1/alpha + E[T/(s - T)]): above the minimum
                of psi, phi(s) = psi(s) and cos^2 = psi'/(psi' - phi'), else 0
    Valid for   labels of one teacher field with E[h | y] = 0; d -> infinity. The optimal
                preprocessing is T = 1 - 1/E[h^2 | y], with the threshold of weak recovery.
                If T is unbounded above, the sample of the largest T dominates: cos^2 = 0
    Source      theory/static_limits (19), (10)

    Parameters
    ----------
    model : Model
    samples_per_dim : float
    preprocessing : "optimal" or sympy.Expr
        Preprocessing T, an expression in the symbol y.

    Returns
    -------
    Spectral
        Record with `.cosine_squared`, `.threshold` and `.error`.

    Raises
    ------
    BadParameter

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> z, y = sp.symbols("z y", real=True)
    >>> model = dmft.Model(dmft.Committee(z, 1), dmft.MultiIndex(sp.Abs(z), [z]))
    >>> found = dmft.spectral(model, 2.0, preprocessing=sp.Min(y**2, 4))
    >>> round(found.cosine_squared, 4)
    0.2684
    """
    alpha = as_positive(samples_per_dim, "samples_per_dim")
    label = label_of(model, "spectral")
    channel, T = label.channel(), preprocessing
    if isinstance(T, sp.Expr):
        T = _in_label(T)
        if not (label.noise or label.flip or label.drawn):  # the channel has no outer functions
            _, outer, argument = stripped(label.expr, label.fields)
            T = T.xreplace({LABEL: outer.xreplace({argument: LABEL})})
    elif not isinstance(T, str) or T != "optimal":
        raise BadParameter(
            f'preprocessing must be "optimal" or an expression in y, got {shown(preprocessing)}'
        )
    fine, coarse = (_values(channel, T, order) for order in ORDERS[::-1])
    found, other = (v.cosine_squared(alpha) for v in (fine, coarse))
    informed = fine.mean((fine.second - 1.0) ** 2)
    if preprocessing == "optimal":
        threshold = 1.0 / informed if informed > ZERO else math.inf
        found, other = (y if alpha > threshold else 0.0 for y in (found, other))
    else:
        threshold = fine.threshold()
    error = abs(found - other) + 1e-12
    return Spectral(found, threshold, error, alpha, str(preprocessing), str(label.expr))


def _supremum(channel: Channel, preprocessing: sp.Expr, largest: float) -> float:
    """Supremum of the preprocessing along the labels, infinite if it grows without bound."""
    far = np.geomspace(1.0, VERY_FAR, VALUES)
    far = np.concatenate([far, -far])
    if not channel.noise:
        if channel.drawn or channel.discrete:
            return largest
        far = np.concatenate([label(far) for label in channel.functions])
    T = quiet([LABEL], preprocessing)(far)
    T = np.where(np.isnan(T), -np.inf, T).reshape(-1, VALUES)
    inner = max(largest, float(T[:, : VALUES // 2].max()))
    outer = float(T[:, VALUES // 2 :].max())
    return math.inf if outer > (1.0 + GROWTH) * max(inner, 0.0) else max(inner, outer)


def _in_label(preprocessing: sp.Expr) -> sp.Expr:
    """The expression in `LABEL`."""
    names = {s: s.name for s in preprocessing.free_symbols}
    if set(names.values()) != {"y"}:
        raise BadParameter(f"preprocessing = {preprocessing} must be an expression in y alone")
    return preprocessing.xreplace(dict.fromkeys(names, LABEL))


def _values(channel: Channel, preprocessing: str | sp.Expr, order: int) -> Values:
    """Nodes of the law of the label."""
    if not (isinstance(preprocessing, str) or channel.noise or channel.drawn):
        seen = preprocessing.xreplace({LABEL: channel.inner})  # split where it has kinks, too
        kinks = break_points(seen, channel.field, FARTHEST)
        channel = replace(channel, split=tuple(float(z) for z in kinks))
    parts = [
        [np.broadcast_to(each, weight.shape).ravel() for each in (y, weight, *moments)]
        for moments, y, _, weight in channel.nodes(0.0, np.array(channel.prior_variance), order)
    ]
    y, weight, _, first, second = (np.concatenate(each) for each in zip(*parts, strict=True))
    if float(weight @ first**2) > ZERO:
        raise BadParameter(
            f"spectral estimates are computed where E[h* | y] = 0; for {channel.expr} it "
            "is nonzero, and the label is learned at any number of samples (dmft.thresholds)"
        )
    if preprocessing == "optimal":
        T = optimal_preprocessing(channel, y)
    else:
        T = quiet([LABEL], preprocessing)(y)
    if not np.all(np.isfinite(T)):
        raise BadParameter(f"preprocessing = {preprocessing} is not finite at all labels")
    top = float(T.max())
    if not isinstance(preprocessing, str):
        top = _supremum(channel, preprocessing, top)
    return Values(T, second, weight / weight.sum(), top)
