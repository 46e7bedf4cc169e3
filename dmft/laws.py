"""Distributions of scalars: initial states, parameters of sites, latents of rules.

In a learning rule (`dmft.rules.Random`) the parameters of a law may be symbolic expressions.

Examples
--------
>>> import dmft
>>> dmft.laws.Uniform(0.0, 2.0).variance
0.3333333333333333
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import sympy as sp
from numpy.typing import ArrayLike

from dmft.arrays import Array
from dmft.errors import BadParameter
from dmft.record import Brief
from dmft.validation import checked, shown


class Law(Brief):
    """Base of the laws: a mean, a variance, and the inverse of its distribution function."""

    @property
    @abstractmethod
    def mean(self) -> float | sp.Expr:
        """Mean."""

    @property
    @abstractmethod
    def variance(self) -> float | sp.Expr:
        """Variance."""

    @abstractmethod
    def quantile(self, u: Array) -> Array:
        """Value below which a share `u`, in (0, 1), of the law lies."""

    def sample(self, generator: np.random.Generator, size: int) -> Array:
        """`size` values, one from each of `size` parts of equal probability, in random order."""
        strata = (generator.permutation(size) + generator.random(size)) / size
        return self.quantile(np.clip(strata, 1e-16, 1.0 - 1e-16))


def _symbolic(value: object) -> bool:
    return bool(getattr(value, "free_symbols", None))


def _finite(name: str, value: float | sp.Expr, positive: bool = False) -> None:
    if _symbolic(value):
        return
    if not math.isfinite(value) or (positive and value <= 0.0):
        raise BadParameter(
            f"{name} = {shown(value)} must be {'positive and ' if positive else ''}finite"
        )


@checked
@dataclass(frozen=True, repr=False)
class Normal(Law):
    """Normal law.

    Parameters
    ----------
    mean : float
    variance : float
        Zero is a constant.

    Examples
    --------
    >>> import dmft
    >>> dmft.laws.Normal(variance=4.0).quantile(np.array([0.5])).tolist()
    [0.0]
    """

    mean: float | sp.Expr = 0.0
    variance: float | sp.Expr = 1.0

    def __post_init__(self) -> None:
        _finite("mean", self.mean)
        _finite("variance", self.variance)
        if not _symbolic(self.variance) and self.variance < 0.0:
            raise BadParameter(f"variance = {self.variance} must not be negative")

    def quantile(self, u: Array) -> Array:
        """Value below which a share u lies."""
        from scipy.special import ndtri

        return np.asarray(float(self.mean) + math.sqrt(self.variance) * ndtri(u))

    def sample(self, generator: np.random.Generator, size: int) -> Array:
        """Draw values whose mean and variance are those of the law."""
        draws = super().sample(generator, size)
        if size < 2 or self.variance == 0.0:
            return draws
        draws -= draws.mean()
        return np.asarray(self.mean + draws * math.sqrt(self.variance / np.mean(draws**2)))


@checked
@dataclass(frozen=True, repr=False)
class Uniform(Law):
    """Uniform law on an interval.

    Parameters
    ----------
    low, high : float
        Ends, in this order.

    Examples
    --------
    >>> import dmft
    >>> dmft.laws.Uniform(0.0, 2.0).mean
    1.0
    """

    low: float | sp.Expr
    high: float | sp.Expr

    def __post_init__(self) -> None:
        _finite("low", self.low)
        _finite("high", self.high)
        if not _symbolic(self.high - self.low) and self.low >= self.high:
            raise BadParameter(f"low = {self.low} must be below high = {self.high}")

    @property
    def mean(self) -> float | sp.Expr:
        """Middle of the interval."""
        return (self.low + self.high) / 2.0

    @property
    def variance(self) -> float | sp.Expr:
        """Squared width over twelve."""
        return (self.high - self.low) ** 2 / 12.0

    def quantile(self, u: Array) -> Array:
        """Value below which a share u lies."""
        return float(self.low) + float(self.high - self.low) * u


@checked
@dataclass(frozen=True, repr=False)
class Laplace(Law):
    """Laplace law with density exp(-|x| / scale) / (2 scale).

    Parameters
    ----------
    scale : float
        Positive.

    Examples
    --------
    >>> import dmft
    >>> dmft.laws.Laplace(0.5).variance
    0.5
    """

    scale: float | sp.Expr

    def __post_init__(self) -> None:
        _finite("scale", self.scale, positive=True)

    @property
    def mean(self) -> float | sp.Expr:
        """Zero."""
        return 0.0

    @property
    def variance(self) -> float | sp.Expr:
        """Twice the squared scale."""
        return 2.0 * self.scale**2

    def quantile(self, u: Array) -> Array:
        """Value below which a share u lies."""
        return np.asarray(-float(self.scale) * np.sign(u - 0.5) * np.log1p(-2.0 * np.abs(u - 0.5)))


@dataclass(frozen=True, repr=False, init=False)
class Discrete(Law):
    """Law of a variable with finitely many values.

    Parameters
    ----------
    probabilities : mapping of float to float
        Probability of each value. The probabilities add up to one.

    Examples
    --------
    >>> import dmft
    >>> dmft.laws.Discrete({0.0: 0.75, 2.0: 0.25}).mean
    0.5
    """

    values: tuple[float | sp.Expr, ...]
    weights: tuple[float | sp.Expr, ...]

    def __init__(self, probabilities: Mapping[Any, Any]) -> None:
        if not isinstance(probabilities, Mapping) or not probabilities:
            raise BadParameter(f"Discrete takes {{value: probability}}, got {shown(probabilities)}")
        known = [(_number(y), _number(weight)) for y, weight in probabilities.items()]
        if not any(_symbolic(value) for value, _ in known):
            known.sort(key=lambda pair: pair[0])
        values, weights = (tuple(pair[n] for pair in known) for n in (0, 1))
        for value in (*values, *weights):
            _finite("a value or probability", value)
        if any(map(_symbolic, weights)):
            pass  # checked where the numbers are known
        elif min(weights) < 0.0 or abs(sum(weights) - 1.0) > 1e-12:
            raise BadParameter(
                f"probabilities {list(weights)} must be at least 0 and add up to 1, "
                f"they add up to {sum(weights):g}"
            )
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "weights", weights)

    @property
    def mean(self) -> float | sp.Expr:
        """Mean."""
        return sum(y * w for y, w in zip(self.values, self.weights, strict=True))

    @property
    def variance(self) -> float | sp.Expr:
        """Variance."""
        pairs = zip(self.values, self.weights, strict=True)
        return sum((y - self.mean) ** 2 * w for y, w in pairs)

    def quantile(self, u: Array) -> Array:
        """Value below which a share u lies."""
        number = np.searchsorted(np.cumsum(np.array(self.weights, dtype=np.float64)), u)
        return np.array(self.values, dtype=np.float64)[np.minimum(number, len(self.values) - 1)]


def _number(value: Any) -> Any:
    """A number as a float; an expression in symbols as it is."""
    return value if _symbolic(value) else float(value)


def Rademacher() -> Discrete:
    """Signs, -1 and 1 with probability one half each.

    Examples
    --------
    >>> import dmft
    >>> dmft.laws.Rademacher().variance
    1.0
    """
    return Discrete({-1.0: 0.5, 1.0: 0.5})


@checked
def Bernoulli(p: float | sp.Expr) -> Discrete:
    """1 with probability p, else 0.

    Parameters
    ----------
    p : float
        From 0 to 1.

    Examples
    --------
    >>> import dmft
    >>> dmft.laws.Bernoulli(0.25).mean
    0.25
    """
    if not _symbolic(p) and not 0.0 <= p <= 1.0:
        raise BadParameter(f"p = {p} is a probability and must lie between 0 and 1")
    return Discrete({0.0: 1.0 - p, 1.0: p})


@dataclass(frozen=True, repr=False, init=False)
class JointNormal(Brief):
    """Jointly normal numbers, for parameters that are declared as a tuple of symbols.

    Parameters
    ----------
    covariance : (n, n) array
        Symmetric and positive semidefinite.
    mean : (n,) array, optional
        Zero by default.

    Examples
    --------
    >>> import dmft
    >>> law = dmft.laws.JointNormal([[1.0, 0.5], [0.5, 1.0]])
    >>> law.sample(np.random.default_rng(0), 100).shape
    (2, 100)
    """

    covariance: tuple[tuple[float, ...], ...]
    mean: tuple[float, ...]

    def __init__(self, covariance: ArrayLike, mean: ArrayLike | None = None) -> None:
        matrix: Any = np.asarray(covariance, dtype=np.float64)
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
            raise BadParameter(f"covariance must be a square matrix, got shape {matrix.shape}")
        if not np.allclose(matrix, matrix.T) or np.linalg.eigvalsh(matrix).min() < -1e-12:
            raise BadParameter(
                f"covariance {matrix.tolist()} must be symmetric with eigenvalues >= 0"
            )
        middle = np.zeros(len(matrix)) if mean is None else np.asarray(mean, dtype=np.float64)
        if middle.shape != (len(matrix),):
            raise BadParameter(f"mean must have {len(matrix)} entries, got shape {middle.shape}")
        object.__setattr__(self, "covariance", tuple(map(tuple, matrix.tolist())))
        object.__setattr__(self, "mean", tuple(middle.tolist()))

    def sample(self, generator: np.random.Generator, size: int) -> Array:
        """Vectors (n, size) whose sample mean and covariance are those of the law."""
        count = len(self.mean)
        draws = np.stack([Normal().sample(generator, size) for _ in range(count)])
        draws -= draws.mean(axis=1, keepdims=True)
        if size > count:
            draws = np.linalg.solve(np.linalg.cholesky(draws @ draws.T / size), draws)
        values, vectors = np.linalg.eigh(np.array(self.covariance))
        root = vectors * np.sqrt(np.maximum(values, 0.0))
        return np.asarray(np.array(self.mean)[:, None] + root @ draws)


def as_covariance(given: Any, size: int) -> sp.ImmutableDenseMatrix:
    """Covariance of `size` random numbers as a matrix, checked."""
    matrix = sp.ImmutableDenseMatrix(sp.Matrix(given))
    if matrix.shape != (size, size) or not matrix.is_symmetric():
        raise BadParameter(f"cov must be a symmetric ({size}, {size}) matrix, got {shown(given)}")
    if not matrix.free_symbols and min(map(sp.re, matrix.evalf().eigenvals())) < -1e-12:
        raise BadParameter(f"cov = {matrix.tolist()} must be positive semidefinite")
    return matrix
