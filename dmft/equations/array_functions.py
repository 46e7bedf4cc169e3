"""Functions of covariances and parameters on arrays, by name: those of the NumPy reference."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from importlib import import_module
from typing import Any

import numpy as np

# Relative excess of an overlap over Cauchy-Schwarz that counts as parallel fields.
ROUNDING = 1e-9


def _loaded(module: str, name: str, *, alone: bool = False) -> Callable[..., Any]:
    """A function on arrays whose module is loaded by its first call; `alone` takes numbers only."""

    def call(*arguments: Any) -> Any:
        function = getattr(import_module(module), name)
        return (np.vectorize(function) if alone else function)(*arguments)

    return call


def _bivariate_normal_cdf(h: Any, k: Any, rho: Any) -> Any:
    """P(U <= h, V <= k) of standard normal U, V with correlation rho."""
    from scipy.special import ndtr

    return 0.5 * (ndtr(h) + ndtr(k)) - _owen(h, k, rho)


def _two_signs(h: Any, k: Any, rho: Any) -> Any:
    """E[sign(h - U) sign(k - V)]."""
    return 1.0 - 4.0 * _owen(h, k, rho)


def _owen(h: Any, k: Any, rho: Any) -> Any:
    """Half the probability that U <= h or V <= k, but not both (Owen 1956)."""
    from scipy.special import owens_t

    h, k, rho = np.broadcast_arrays(h, k, rho)
    parallel = (np.abs(rho) > 1.0) & (np.abs(rho) <= 1.0 + ROUNDING)
    rho = np.where(parallel, np.sign(rho), rho)
    root = np.sqrt((1.0 - rho) * (1.0 + rho))
    opposite = (h * k < 0) | ((h * k == 0) & (h + k < 0))
    with np.errstate(divide="ignore", invalid="ignore"):
        slopes = [(y - rho * x) / (x * root) for x, y in ((h, k), (k, h))]
    # Degenerate cases, 0/0 above: at the origin and on the line of perfect correlation.
    slopes = [
        np.where(np.isnan(s), np.where((h == 0) & (k == 0), _origin(rho), 0.0), s) for s in slopes
    ]
    tails = owens_t(h, slopes[0]) + owens_t(k, slopes[1])
    return tails + 0.5 * opposite


def _correlation_root(first: Any, second: Any, cross: Any) -> Any:
    """sqrt(first second - cross^2); parallel fields may exceed Cauchy-Schwarz by rounding."""
    size = np.sqrt(first * second)
    gap = (size - cross) * (size + cross)
    return np.sqrt(np.where((gap < 0) & (gap >= -ROUNDING * size**2), 0.0, gap))


def _inverse_correlation_root(first: Any, second: Any, cross: Any) -> Any:
    """1 / sqrt(first second - cross^2), and 0 for parallel fields."""
    root = np.asarray(_correlation_root(first, second, cross))
    return np.divide(1.0, root, out=np.zeros_like(root), where=root != 0)


def _root_ratio(y: Any, first: Any, second: Any, cross: Any, power: Any) -> Any:
    """Ratio of y to the power of the root; 0 for 0/0, up to rounding."""
    root = np.asarray(_correlation_root(first, second, cross))
    nothing = (ROUNDING * np.sqrt(first * second)) ** power
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where((np.abs(y) <= nothing) & (root == 0), 0.0, y / root**power)


def _correlation_angle(first: Any, second: Any, cross: Any) -> Any:
    """Angle asin(cross / sqrt(first second)) of two vectors with these overlaps."""
    return np.arctan2(cross, _correlation_root(first, second, cross))


def _half_tangent(first: Any, second: Any, cross: Any) -> Any:
    """Tangent of half the angle of a pair, 0 for antiparallel fields."""
    root = np.asarray(_correlation_root(first, second, cross))
    beyond = np.sqrt(first * second) + cross
    return np.divide(root, beyond, out=0.0 * root, where=beyond > 0.0)


def _origin(rho: Any) -> Any:
    """Slope at h = k = 0, the limit along h = k."""
    with np.errstate(divide="ignore"):
        return np.sqrt((1.0 - rho) / (1.0 + rho))


def _heaviside(value: Any, at_zero: Any = 0.5) -> Any:
    return np.heaviside(value, at_zero)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "asin": np.arcsin,
    "exp": np.exp,
    "erf": _loaded("scipy.special", "erf"),
    "BivariateNormalCDF": _bivariate_normal_cdf,
    "TwoSigns": _two_signs,
    "CorrelationRoot": _correlation_root,
    "CorrelationAngle": _correlation_angle,
    "InverseCorrelationRoot": _inverse_correlation_root,
    "HalfTangent": _half_tangent,
    "Correlation": lambda first, second, cross: cross / np.sqrt(first * second),
    "RootRatio": _root_ratio,
    "CovarianceGiven": _loaded("dmft.special.branches", "covariance_given", alone=True),
    "PairOfSignsMoment": _loaded("dmft.special.orthant", "pair_of_signs_moment", alone=True),
    "FourSigns": _loaded("dmft.special.orthant", "four_signs", alone=True),
    "FourSignsMoment": _loaded("dmft.special.orthant", "four_signs_moment", alone=True),
    "SignsMoment": _loaded("dmft.special.signs", "moment_of_signs_on_arrays"),
    "tanh": np.tanh,
    "sinh": np.sinh,
    "cosh": np.cosh,
    "sin": np.sin,
    "cos": np.cos,
    "tan": np.tan,
    "atan": np.arctan,
    "acos": np.arccos,
    "asinh": np.arcsinh,
    "log": np.log,
    "erfc": _loaded("scipy.special", "erfc"),
    "erfinv": _loaded("scipy.special", "erfinv"),
    "Abs": np.abs,
    "sign": np.sign,
    "Heaviside": _heaviside,
    "Max": lambda *values: reduce(np.maximum, values),
    "Min": lambda *values: reduce(np.minimum, values),
}
