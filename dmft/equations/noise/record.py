"""What the fluctuations of all models share: their record, the dimension, covariances on nodes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import sympy as sp

from dmft.arrays import Array
from dmft.equations.definitions import Definition
from dmft.equations.parameter_values import Values
from dmft.equations.update.optimiser import pace
from dmft.errors import BadParameter
from dmft.gaussian.nodes.grid import array_function
from dmft.gaussian.nodes.rules import NodeRule
from dmft.model import SGD, Alignment, GradientFlow, Model, Overlaps, SequenceModel, as_count

if TYPE_CHECKING:
    from dmft.equations.views.closed import ClosedSystem
    from dmft.equations.views.explicit import ExplicitEquations
    from dmft.equations.views.printer import EquationPrinter


@dataclass(frozen=True)
class Fluctuations(ABC):
    """Fluctuations of a model under an algorithm in `dim` dimensions, a number or a symbol.

    `dropped` names the terms of the drift at order 1/d that are left out.
    """

    model: Model | SequenceModel
    algorithm: SGD
    dim: sp.Expr
    dropped: tuple[str, ...] = ()

    @property
    @abstractmethod
    def known_terms(self) -> tuple[str, ...]:
        """Named terms of the drift at order 1/d that are derived."""

    @property
    @abstractmethod
    def closed(self) -> bool:
        """Whether the covariance is compiled in closed form."""

    @property
    def noisy_nodes(self) -> bool:
        """Whether the label's noise is a separate variable of the nodes."""
        return False

    @property
    @abstractmethod
    def unread(self) -> set[str]:
        """Declared parameters that are no run-time values of the covariance."""

    @property
    @abstractmethod
    def approximation(self) -> str:
        """Description of how the covariance is computed."""

    @abstractmethod
    def exact(self, size: int) -> bool:
        """Whether there are nodes that are exact for p + k = `size` fields."""

    @abstractmethod
    def rule(self, size: int, options: Mapping[str, Any]) -> NodeRule:
        """Nodes for p + k = `size` fields; `options` may contain nodes, replicas, seed."""

    @abstractmethod
    def random_start(self, dim: int, seed: int) -> Overlaps | Alignment:
        """A start of random rows."""

    def printed(self, known: Iterable[Definition] = ()) -> tuple[Definition, ...]:
        """Definitions of the increments, and rates at order 1/d; none if `latex` writes all."""
        return ()

    @abstractmethod
    def latex(self, printer: EquationPrinter, known: Sequence[Definition]) -> list[str]:
        """Align lines of the increments: those of the definitions that are `printed`."""

    def process(self, printer: EquationPrinter, state: str = "") -> str:
        """Align line of the stochastic equation, of a `state` of single units or all overlaps."""
        raise NotImplementedError

    def opening(
        self, printer: EquationPrinter, known: Sequence[Definition]
    ) -> tuple[list[str], list[str]]:
        """The stochastic equation and the increments; align lines of what the drift reads."""
        raise NotImplementedError

    def added_to(self, system: ClosedSystem) -> ClosedSystem:
        """Closed drift with its part of order 1/d, and Sigma, where this is `closed`."""
        raise NotImplementedError

    @abstractmethod
    def text(self) -> list[str]:
        """What a terminal shows below the equations."""

    def unrolled(
        self, explicit: ExplicitEquations, widths: Mapping[str, int], constants: Mapping[str, Any]
    ) -> ExplicitEquations:
        """Scalar equations with the drift at order 1/d and Sigma, where these are written out."""
        return explicit

    @abstractmethod
    def add_to(
        self, rates: Mapping[str, Array], state: Mapping[str, Array], values: Values, rule: NodeRule
    ) -> dict[str, Array]:
        """Rates with their part of order 1/d, Sigma and the covariance, in plain NumPy."""

    @abstractmethod
    def add_rounding(
        self, errors: Mapping[str, Array], state: Mapping[str, Array], values: Values
    ) -> dict[str, Array]:
        """Rounding of rates with that of their part of order 1/d, of Sigma and the covariance."""

    @abstractmethod
    def check(self, values: Values, start: Any, given: Mapping[str, Any]) -> None:
        """Refuse a dimension that is no count, or too small for a start."""

    @property
    def terms(self) -> tuple[str, ...]:
        """Those of them that are not left out."""
        return tuple(name for name in self.known_terms if name not in self.dropped)

    def without(self, *names: str) -> Self:
        """Leave terms out; names that are not its own belong to the rest of the drift."""
        mine = tuple(name for name in names if name in self.terms)
        return replace(self, dropped=(*self.dropped, *mine))

    @property
    def signature(self) -> str:
        """Text that tells two of them apart."""
        return f"noise:{self.model!r}:{self.algorithm!r}:{sp.srepr(self.dim)}:{self.dropped}"

    def shared(self, errors: Mapping[str, Array]) -> dict[str, Array]:
        """Errors of which that of a covariance is its largest: single entries may agree by luck."""
        matrices = {n: np.full_like(errors[n], errors[n].max()) for n in ("Sigma", "covariance")}
        return {**errors, **matrices}

    def scale(self, values: Values) -> float:
        """Covariance per unit time over Sigma, gamma/(p d n_b); p is L for untied sequences."""
        weights = values.widths["p"] * values.scalars["dim"]
        rate = values.scalars["learning_rate"] * pace(values.scalars)
        return float(rate / (weights * self.algorithm.batch_size))


@dataclass(frozen=True)
class WrittenNoise(Fluctuations):
    """Fluctuations of a state whose numbers are written one by one: increments at nodes."""

    closed = False
    approximation = "covariance of the increments on nodes, its error estimated at given overlaps"

    @property
    def has_cone(self) -> bool:
        """Whether increments are 0/0 at some nodes, which are left out."""
        return False

    @property
    def before_nodes(self) -> int:
        """Numbers of constants in front of the nodes."""
        return 0

    @property
    @abstractmethod
    def alignments(self) -> tuple[sp.Symbol, ...]:
        """Numbers of the state, in packed order."""

    @property
    @abstractmethod
    def normals(self) -> tuple[sp.Symbol, ...]:
        """Independent normal variables of a sample."""

    @property
    @abstractmethod
    def at_nodes(self) -> tuple[tuple[sp.Expr, ...], tuple[sp.Expr, ...]]:
        """Increments and next order, in the normal variables, the state and parameters."""

    def exact(self, size: int) -> bool:
        """Whether there are nodes that are exact: none are looked for."""
        return False

    @cached_property
    def functions(self) -> tuple[Any, Any]:
        """Increments and next order as functions of arrays."""
        known = sorted(
            {s for part in self.at_nodes for y in part for s in y.free_symbols} - set(self.normals),
            key=str,
        )
        whole = sp.Tuple(
            *(y.rewrite(sp.Heaviside, sp.Piecewise) for part in self.at_nodes for y in part)
        )
        return known, array_function([*self.normals, *known], whole)

    def add_to(
        self, rates: Mapping[str, Array], state: Mapping[str, Array], values: Values, rule: NodeRule
    ) -> dict[str, Array]:
        """Rates with their part of order 1/d, Sigma and the covariance, in plain NumPy."""
        known, function = self.functions
        numbers = {**values.scalars, **{name: float(y) for name, y in state.items()}}
        normals = rule.normal[: len(self.normals)]
        with np.errstate(all="ignore"):
            found = function(*normals, *(numbers[s.name] for s in known))
        rows = np.array([np.broadcast_to(y, rule.weight.shape) for y in found])
        if self.has_cone:
            rows = np.where(np.isnan(rows), 0.0, rows)
        count = len(self.alignments)
        Sigma = covariance_on_nodes([rows[:count]], rule.weight)
        whole = dict(rates)
        unit = self.scale(values) * self.algorithm.batch_size
        for s, mean in zip(self.alignments, rows[count:] @ rule.weight, strict=False):
            whole[str(s)] = whole[str(s)] + unit * mean
        return {**whole, "Sigma": Sigma, "covariance": self.scale(values) * Sigma}

    def add_rounding(
        self, errors: Mapping[str, Array], state: Mapping[str, Array], values: Values
    ) -> dict[str, Array]:
        """Rounding of the rates; that of averages on nodes is far below their spread."""
        zero = np.zeros((len(self.alignments),) * 2)
        return {**errors, "Sigma": zero, "covariance": zero}


def check_dimension(values: Values, given: Mapping[str, Any]) -> float:
    """The dimension of a run; refuse one that is no count, and batches that were not derived."""
    if "batch_size" in given:
        raise BadParameter(
            "batch_size is fixed in the equations of fluctuations; derive the equations again"
        )
    dim = float(values.scalars["dim"])
    if not dim.is_integer():
        raise BadParameter(f"dim must be an integer, got {values.scalars['dim']!r}")
    return dim


def declared_dimension(algorithm: SGD | GradientFlow, dim: int | sp.Expr | None) -> sp.Expr:
    """The dimension of fluctuations."""
    if algorithm.is_flow:
        raise BadParameter(
            "gradient flow has no fluctuations, because it has no sampling noise; derive with "
            "dmft.SGD(learning_rate=...)"
        )
    if dim is None:
        raise BadParameter(
            "fluctuations are of order 1/sqrt(d): pass dim=, a number, or a symbol with a "
            "value at run time"
        )
    return as_dimension(dim)


def as_dimension(dim: int | sp.Expr) -> sp.Expr:
    """Return an input dimension as SymPy: an integer, or a symbol that is given at run time."""
    if isinstance(dim, sp.Expr) and dim.free_symbols:
        return dim
    return sp.Integer(as_count(int(dim) if isinstance(dim, sp.Integer) else dim, "dim"))


def covariance_on_nodes(parts: Sequence[Array], weight: Array) -> Array:
    """Covariance of random variables from their parts at nodes, each (rows, nodes).

    A Gram matrix: positive semidefinite whatever the nodes.
    """
    total = np.zeros((parts[0].shape[0],) * 2)
    for number, rows in enumerate(parts):
        if number == 0:  # the only part with a mean
            rows = rows - (rows @ weight)[:, None]
        total += (rows * weight) @ rows.T
    return 0.5 * (total + total.T)
