"""Priors of one weight: mixtures of Gaussians and point masses, and their scalar estimation.

Equation    observation B = A w + sqrt(A) xi at precision A; f(B, A) = E[w | B],
            F(A) = E[f^2], psi(A) = E[log Z(B)], Z = int dw P(w) exp(B w - A w^2/2),
            2 psi' = F, F' = E[Var(w | B)^2]
Valid for   centred mixtures; Gaussian, Rademacher and Gauss-Bernoulli priors are cases
Source      theory/static_limits (2)-(4)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from dmft.arrays import Array
from dmft.errors import BadParameter
from dmft.gaussian.channels.panels import LOG_TWO_PI, between
from dmft.laws import Discrete, Normal
from dmft.record import Brief
from dmft.validation import checked, shown

# Edges of panels about a component, in its standard deviations, and about a transition.
SPREAD = np.array([-9.0, -6.0, -3.5, -1.5, 0.0, 1.5, 3.5, 6.0, 9.0])
LAYER = np.array([-30.0, -12.0, -5.0, -2.0, 0.0, 2.0, 5.0, 12.0, 30.0])
ORDER = 12
# A mean below this is zero.
CENTRED = 1e-12


class Estimate(NamedTuple):
    """Overlap F, mean posterior variance, slope F' and psi at one precision."""

    overlap: Array
    variance: Array
    slope: Array
    entropy: Array


@dataclass(frozen=True)
class Prior(Brief):
    """Mixture of Gaussians N(mean, variance); a variance of zero is a point mass.

    Parameters
    ----------
    weights, means, variances : tuple of float
    """

    weights: tuple[float, ...]
    means: tuple[float, ...]
    variances: tuple[float, ...]

    def __post_init__(self) -> None:
        if abs(np.dot(self.weights, self.means)) > CENTRED:
            raise BadParameter(
                f"prior has mean {np.dot(self.weights, self.means):g}: static limits are derived "
                "for priors of mean zero"
            )

    @cached_property
    def second_moment(self) -> float:
        """E[w^2]."""
        return float(np.dot(self.weights, np.square(self.means) + np.array(self.variances)))

    @property
    def is_gaussian(self) -> bool:
        """Whether there is one component."""
        return len(self.weights) == 1

    @cached_property
    def dimension(self) -> float:
        """Share of weights with a density: (second moment - F) A tends to it for large A."""
        return float(sum(p for p, v in zip(self.weights, self.variances, strict=True) if v > 0))

    @cached_property
    def entropy(self) -> float:
        """Entropy of the law, where it is discrete."""
        return -float(sum(p * np.log(p) for p in self.weights if p > 0))

    def posterior(self, field: Array, precision: Array | float) -> tuple[Array, Array, Array]:
        """Log Z, E[w | B] and Var[w | B] of arrays that broadcast."""
        field, precision = np.broadcast_arrays(np.asarray(field, dtype=float), precision)
        shape = (len(self.weights),) + (1,) * field.ndim
        p, mean, v = (np.reshape(a, shape) for a in (self.weights, self.means, self.variances))
        total = 1.0 + precision * v
        log = np.log(p) - 0.5 * np.log(total)
        log = log + (v * field**2 + 2 * field * mean - precision * mean**2) / (2 * total)
        top = log.max(axis=0)
        share = np.exp(log - top)
        norm = share.sum(axis=0)
        share = share / norm
        centre = (mean + v * field) / total
        first = np.sum(share * centre, axis=0)
        spread = np.sum(share * (v / total + (centre - first) ** 2), axis=0)
        return top + np.log(norm), first, spread

    def denoise(self, field: Array, precision: Array | float) -> tuple[Array, Array]:
        """E[w | B] and Var[w | B]."""
        return self.posterior(field, precision)[1:]

    def estimate(self, precision: Array | float) -> Estimate:
        """F, the remaining variance, F' and psi at precisions A > 0 of any shape."""
        a = np.asarray(precision, dtype=float)
        if self.is_gaussian:
            v = self.variances[0]
            left = v / (1.0 + a * v)
            return Estimate(a * v * left, left, left**2, 0.5 * (a * v - np.log1p(a * v)))
        shape, a = a.shape, a.ravel()
        mean = np.multiply.outer(self.means, a)
        sd = np.sqrt(np.multiply.outer(self.variances, a * a) + a)
        bulk = (mean + np.multiply.outer(SPREAD, sd)).reshape(-1, len(a))
        gaps = np.subtract.outer(self.means, self.means)
        layers = [
            0.5 * (mean[i] + mean[j]) + LAYER[:, None] / gaps[i, j]
            for i, j in zip(*np.nonzero(gaps > 0), strict=True)
        ]
        edges = np.clip(np.concatenate([bulk, *layers]), bulk.min(axis=0), bulk.max(axis=0))
        field, weight = between(np.sort(edges, axis=0), ORDER)
        gap = (field - mean[:, None]) / sd[:, None]
        density = np.exp(-0.5 * (gap * gap + LOG_TWO_PI)) / sd[:, None]
        weight = weight * np.einsum("i,ina->na", np.array(self.weights), density)
        log_z, first, spread = self.posterior(field, a)
        averages = (first**2, spread, spread**2, log_z)
        return Estimate(*((weight * each).sum(axis=0).reshape(shape) for each in averages))

    def sample(self, generator: np.random.Generator, size: int | tuple[int, ...]) -> Array:
        """Independent weights."""
        which = generator.choice(len(self.weights), p=self.weights, size=size)
        mean, v = np.array(self.means)[which], np.array(self.variances)[which]
        return np.asarray(mean + np.sqrt(v) * generator.standard_normal(size))


GAUSSIAN = Prior((1.0,), (0.0,), (1.0,))
RADEMACHER = Prior((0.5, 0.5), (-1.0, 1.0), (0.0, 0.0))


@checked
def GaussBernoulli(density: float, variance: float = 1.0) -> Prior:
    """Sparse prior, under which each weight is either zero or Gaussian.

    Parameters
    ----------
    density : float
        Probability that a weight is not zero, in (0, 1].
    variance : float
        Variance of the weights that are not zero.

    Returns
    -------
    Prior

    Examples
    --------
    >>> import dmft
    >>> dmft.GaussBernoulli(0.3).second_moment
    0.3
    """
    if not (0.0 < density <= 1.0 and 0.0 < variance < np.inf):
        raise BadParameter(
            f"density must lie in (0, 1] and variance must be positive, got {shown(density)} and "
            f"{shown(variance)}"
        )
    density, variance = float(density), float(variance)
    if density == 1.0:
        return Prior((1.0,), (0.0,), (variance,))
    return Prior((density, 1.0 - density), (0.0, 0.0), (variance, 0.0))


NAMED: Mapping[str, Prior] = {"gaussian": GAUSSIAN, "rademacher": RADEMACHER}


def as_prior(given: object) -> Prior:
    """A prior by its name, a prior, or a law that is normal or of finitely many values."""
    if isinstance(given, Prior):
        return given
    if isinstance(given, str) and given in NAMED:
        return NAMED[given]
    if isinstance(given, Normal) and given.variance > 0.0:
        return Prior((1.0,), (given.mean,), (given.variance,))
    if isinstance(given, Discrete) and given.variance > 0.0:
        kept = [(p, y) for p, y in zip(given.weights, given.values, strict=True) if p > 0.0]
        weights, means = zip(*kept, strict=True)
        return Prior(weights, means, (0.0,) * len(means))
    raise BadParameter(
        'prior must be "gaussian", "rademacher", dmft.GaussBernoulli(density), dmft.laws.Normal or '
        f"dmft.laws.Discrete of positive variance, got {shown(given)}"
    )
