"""Averages over (h*, h) that do not factorise over functions of h* and of h: sums over nodes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import sympy as sp
from numpy.typing import NDArray

from dmft.errors import BadParameter
from dmft.gaussian.nodes.grid import array_function
from dmft.gaussian.nodes.rules import NodeRule, normal_rule
from dmft.gaussian.tables.tabled import PlacedAverage
from dmft.model import token_fields

Array = NDArray[np.float64]

# Points of a replica where nothing is said.
NODES = 4096


# Names that are no keywords of Python, so that no parameter of a model has them.
def star_fields(length: int) -> tuple[sp.Symbol, ...]:
    """Symbols of the target's fields h*_l in an integrand; those of the student are z1, ..., zL."""
    return tuple(sp.Symbol(f"h^*_{n}", real=True) for n in range(1, length + 1))


def free_fields(length: int) -> tuple[sp.Symbol, ...]:
    """Symbols of eta_l, with h_l = m h*_l + sqrt(1 - m^2) eta_l + e_l."""
    return tuple(sp.Symbol(rf"\eta_{n}", real=True) for n in range(1, length + 1))


class JointAverage(PlacedAverage):
    r"""E[F(h, h*, eta)] with h_l = m h*_l + sqrt(1 - m^2) eta_l + e_l, h* and eta ~ N(0, I).

    Examples
    --------
    >>> e, m = sp.symbols("e m", real=True)
    >>> (h,), (star,) = token_fields(1), star_fields(1)
    >>> average = JointAverage(h * star, (e,), m)
    >>> round(average.value({e: 0.0, m: 0.5}, joint_rule(1).arrays), 3)
    0.5
    """

    def __new__(cls, integrand: sp.Expr, means: Iterable[sp.Expr], m: sp.Expr) -> JointAverage:
        """Keep integrand, means e_l and m."""
        return sp.Expr.__new__(cls, integrand, sp.Tuple(*means), m)

    @property
    def integrand(self) -> sp.Expr:
        """What is averaged."""
        return self.args[0]

    @property
    def means(self) -> tuple[sp.Expr, ...]:
        """Means of the fields of the student."""
        return tuple(self.args[1])

    @property
    def length(self) -> int:
        """Number of tokens."""
        return len(self.args[1])

    @property
    def fields(self) -> tuple[sp.Symbol, ...]:
        """Symbols that are averaged over: h, h*, eta."""
        n = self.length
        return (*token_fields(n), *star_fields(n), *free_fields(n))

    @property
    def free_symbols(self) -> set[sp.Symbol]:
        """Symbols of the place and parameters."""
        found: set[sp.Symbol] = super().free_symbols - set(self.fields)
        return found

    def value(self, at: Mapping[sp.Symbol, Any], nodes: Mapping[str, Array]) -> float:
        """Number at numbers for the symbols, on nodes: the arrays of a rule (`joint_rule`)."""
        values = self._at_nodes(at, nodes)
        # Where f = y the direction of the gradient is not defined and carries no weight.
        return float(nodes["weight"] @ np.where(np.isfinite(values), values, 0.0))

    number = value

    def check(self, at: Mapping[sp.Symbol, Any], nodes: Mapping[str, Array]) -> None:
        """Refuse an integrand that is not finite at every node, where none is 0/0 by itself.

        Raises
        ------
        BadParameter
        """
        count = int(np.sum(~np.isfinite(self._at_nodes(at, nodes))))
        if count:
            raise BadParameter(
                f"{self.integrand} is not finite at {count} of {nodes['weight'].size} nodes: "
                "student and target must be defined for all real fields"
            )

    def _at_nodes(self, at: Mapping[sp.Symbol, Any], nodes: Mapping[str, Array]) -> Array:
        """Values of the integrand at the nodes."""
        stars, free = nodes["normal"][: self.length], nodes["normal"][self.length : 2 * self.length]
        m = float(self.args[2].subs(at))
        means = np.array([[float(y.subs(at))] for y in self.means])
        h = m * stars + np.sqrt(max(0.0, 1.0 - m**2)) * free + means
        others = sorted(self.integrand.free_symbols - set(self.fields), key=str)
        call = array_function([*self.fields, *others], self.integrand)
        with np.errstate(invalid="ignore", divide="ignore"):
            values = call(*h, *stars, *free, *(float(at[s]) for s in others))
        return np.broadcast_to(np.asarray(values, dtype=np.float64), nodes["weight"].shape)

    def _sympystr(self, printer: Any) -> str:
        return f"E[{printer.doprint(self.integrand)}]"

    def _latex(self, printer: Any) -> str:
        names = {z: sp.Symbol(f"h_{i}") for i, z in enumerate(token_fields(self.length), 1)}
        return rf"\mathbb{{E}}\left[{printer.doprint(self.integrand.xreplace(names))}\right]"


def joint_rule(length: int, nodes: int | None = None, replicas: int = 8, seed: int = 0) -> NodeRule:
    """Scrambled Sobol nodes of (h*, eta), whose replicas tell the error."""
    return normal_rule(2 * length, NODES if nodes is None else nodes, replicas, seed)
