r"""Fixed points of positive sites with the rate x (K - c x + h): all explicit in Delta.

Equation    x = max(0, Delta + z) in units of its spread; sigma = sqrt(w_2) / (w_2 + gamma w_0),
            w_n the moments of max(0, Delta + z); stable where w_0 < w_2
Source      [bunin_2017], [opper_diederich_1992]
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, NamedTuple

import numpy as np
import sympy as sp
from scipy.optimize import brentq
from scipy.special import ndtr

from dmft.arrays import Array
from dmft.errors import BadParameter
from dmft.model.random_network import RandomNetwork, T
from dmft.workflow.networks.sites import Numbers

# Range and number of the values of Delta that are scanned.
DELTAS = (-12.0, 40.0, 4001)
# Values beyond, where std is 1 / Delta.
FARTHEST, FAR = 1e6, 400


@cache
def _grid() -> tuple[Array, tuple[Array, Array]]:
    """Values of Delta that are scanned, with w_0 and w_2."""
    far = np.geomspace(DELTAS[1], FARTHEST, FAR)[1:]
    grid = np.concatenate([np.linspace(*DELTAS), far])
    w0, _, w2 = moments(grid)
    return grid, (w0, w2)


def moments(delta: Any) -> tuple[Any, Any, Any]:
    """w_0, w_1, w_2: moments of max(0, Delta + z)."""
    density = np.exp(-(delta**2) / 2.0) / np.sqrt(2.0 * np.pi)
    w0 = ndtr(delta)
    return w0, delta * w0 + density, (1.0 + delta**2) * w0 + delta * density


@dataclass(frozen=True)
class GrowthSites:
    """Positive sites with the rate x (K - c x + h), whose fixed points are explicit in Delta.

    `numbers` are the standard deviation, mean and symmetry of the couplings, K and c, the mean that
    a multiplier keeps, which then replaces K, and the derivative of the growth rate by it.
    """

    numbers: Numbers
    is_held: bool

    def at(self, values: Mapping[str, float]) -> Roots | None:
        """All fixed points at values of the symbols and of std, mean and symmetry by name."""
        found = self.numbers.at(values)
        if found is None:
            return None
        std, mean, symmetry, K, c, held, slope = found
        return Roots(K, c, mean, std, symmetry, held if self.is_held else None, slope)


class AtRest(NamedTuple):
    """What diagrams show of a fixed point."""

    replicon: float
    survival: float
    output_mean: float


@dataclass(frozen=True)
class Roots:
    """Fixed points of growth sites at numbers."""

    capacity: float
    crowding: float
    mean: float
    std: float
    symmetry: float
    held: float | None
    by_multiplier: float

    @cached_property
    def deltas(self) -> list[float]:
        """Roots Delta with a positive mean."""
        every = _deltas(self.std / self.crowding, self.symmetry)
        return [delta for delta in every if self.averages(delta) is not None]

    @property
    def largest(self) -> AtRest:
        """The fixed point of the largest root; nan without one."""
        if not self.deltas:
            return AtRest(*[float("nan")] * 3)
        found, (w0, _, w2) = self.averages(self.deltas[-1]), moments(self.deltas[-1])
        assert found is not None
        return AtRest(float(w0 / w2), float(w0), float(found[1]))

    def averages(self, delta: float) -> Array | None:
        """E x^2, E x, chi (and nu) at one root; None where the mean is not positive."""
        w0, w1, w2 = moments(delta)
        v = self.std * np.sqrt(w2)
        inverse = -self.mean + delta * v / w1  # capacity over mean
        nu = 0.0
        if self.held is not None:
            mean = self.held
            nu = (inverse * mean - self.capacity) / self.by_multiplier
        elif inverse == 0.0 or self.capacity / inverse <= 0.0:
            return None
        else:
            mean = self.capacity / inverse
        unknown = [(mean * v / (self.std * w1)) ** 2, mean, w0 / v]
        return np.array([*unknown, nu] if self.held is not None else unknown)

    def inverse_mean(self) -> float:
        """Capacity over the mean at the largest root; negative beyond the divergence."""
        every = _deltas(self.std / self.crowding, self.symmetry)
        if not every:
            return float("nan")
        _, w1, w2 = moments(every[-1])
        return float(-self.mean + every[-1] * self.std * np.sqrt(w2) / w1)


def growth_sites(network: RandomNetwork) -> GrowthSites | None:
    """The network as explicit growth sites; None for other sites."""
    if not network.positive or network.populations > 1 or network.low_rank or network.parameters:
        return None
    x, h = network.state, network.field
    nu = network.multiplier[0] if network.multiplier else sp.Dummy("nu")
    growth = sp.expand(network.rate[0] / x)
    by_state, by_field, by_nu = (sp.diff(growth, y) for y in (x, h, nu))
    given = network.drive[0]
    alone = {x, h, nu, T}
    if network.output[0] != x or network.rate[0].subs(x, 0) != 0 or by_field != 1:
        return None
    if network.input_covariance[0] != 0:
        return None
    if (by_state.free_symbols | given.free_symbols) & alone:
        return None
    if by_nu.free_symbols & alone:
        return None
    capacity = growth.subs({x: 0, h: 0, nu: 0}) + given
    couplings = (network.std[0][0], network.mean[0][0], network.symmetry[0][0])
    held = sp.S.Zero if network.multiplier is None else network.multiplier[2]
    exprs = (*couplings, capacity, -by_state, held, by_nu)
    names = ("std", "mean", "symmetry")
    return GrowthSites(Numbers(network, names, exprs), network.multiplier is not None)


def lotka_volterra(network: RandomNetwork) -> list[Array] | None:
    """Averages of growth sites at all fixed points; None for other sites."""
    sites = growth_sites(network)
    if sites is None or network.scalars:
        return None
    roots = sites.at({})
    if roots is None or roots.crowding <= 0.0 or roots.std == 0.0:
        return None
    if not roots.deltas:
        raise BadParameter(_no_rest(roots))
    found = (roots.averages(delta) for delta in roots.deltas)
    return [y for y in found if y is not None]


def _deltas(sigma: float, gamma: float) -> list[float]:
    """All Delta with sigma(Delta) = sigma."""

    def gap(delta: Any) -> Any:
        w0, _, w2 = moments(delta)
        with np.errstate(all="ignore"):
            return np.sqrt(w2) / (w2 + gamma * w0) - sigma

    grid, (w0, w2) = _grid()
    with np.errstate(all="ignore"):
        values = np.sqrt(w2) / (w2 + gamma * w0) - sigma
    found = []
    changes = (values[:-1] * values[1:] <= 0.0) & (np.abs(np.diff(values)) < 1e6)
    for i in np.flatnonzero(changes):
        if values[i] != 0.0 or i == 0:
            found.append(float(brentq(gap, grid[i], grid[i + 1], xtol=1e-14, rtol=1e-15)))
    return found


def _no_rest(roots: Roots) -> str:
    if np.isnan(roots.inverse_mean()):
        return (
            f"no fixed point at std = {roots.std:g}, symmetry = {roots.symmetry:g}: no Delta "
            "balances the field"
        )
    limit = roots.inverse_mean() + roots.mean
    return (
        f"no fixed point: at mean = {roots.mean:g} states grow without bound; at std = "
        f"{roots.std:g} and symmetry = {roots.symmetry:g} the mean must be below {limit:g}"
    )
