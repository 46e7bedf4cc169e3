"""What a run of equations is a state of: what it reads of a start, its blocks, its constants."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import sympy as sp

from dmft.arrays import Array
from dmft.equations.definitions import Definition, used_bases
from dmft.equations.parameter_values import Values, by_block, resolve
from dmft.equations.update.optimiser import motion_of
from dmft.errors import BadParameter, ShapeMismatch
from dmft.initial_conditions import Overlaps
from dmft.model import SGD, GradientFlow, Model
from dmft.model.algorithm import numbers_of
from dmft.names import BLOCK

if TYPE_CHECKING:
    from dmft.equations.averages.expectation import Expectation
    from dmft.gaussian.nodes.rules import NodeRule

# Intrinsic dimension below which runs do not follow their equations closely.
CONCENTRATED = 50.0
# Numbers of the blocks that multiply squares of the update field.
OF_NOISE = frozenset({"noise_factor", "block_fraction", "inverse_count"})


@dataclass(frozen=True)
class StateSpace(ABC):
    """What equations of one kind read of a start; the defaults are those of overlaps.

    `instead` names what there is in place of a measure that these equations do not have;
    `not_unrolled` and `not_exported` why there are no scalar equations or exports, and are empty
    where there are; `sources` and `conventions` are keys of `dmft.cite` and sentences on letters
    and factors in exported files.
    """

    model: Model
    algorithm: SGD | GradientFlow

    start_type: ClassVar[type] = Overlaps
    instead: ClassVar[Mapping[str, str]] = {}
    not_unrolled: ClassVar[str] = ""
    not_exported: ClassVar[str] = ""
    sources: ClassVar[tuple[str, ...]] = ()
    conventions: ClassVar[tuple[str, ...]] = (
        "x ~ N(0, I_d); h = W x / sqrt(d), h* = W* x / sqrt(d); Q = W W^T / d,",
        "M = W W*^T / d, P = W* W*^T / d; student (1/p) sum_j a_j sigma(h_j);",
        "risk = E(f* - f)^2 / 2, without label noise.",
    )

    @property
    def outputs(self) -> int:
        """Number of outputs of a sample, each with independent noise."""
        return 1

    @property
    def blocks(self) -> Mapping[str, tuple[sp.Symbol, ...]]:
        """Symbols of the entries of blocks that are not arrays."""
        return {}

    @property
    def still(self) -> Mapping[str, tuple[sp.Symbol, ...]]:
        """Symbols of the entries of constants that are not arrays."""
        return {}

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shapes of the blocks and constants whose entries are symbols."""
        return {}

    @cached_property
    def places(self) -> dict[str, str]:
        """Each of these symbols as an entry of its array."""
        return {
            str(symbol): f"{name}{list(place)}"
            for name, symbols in {**self.blocks, **self.still}.items()
            for symbol, place in zip(symbols, np.ndindex(self.shapes[name] or (1,)), strict=True)
        }

    def random_start(self, rng: np.random.Generator) -> Any:
        """A start to compare code at; None where it is one of student and teacher."""
        return None

    @property
    def announced(self) -> dict[str, Any]:
        """What an exported file says of the declaration."""
        model = self.model
        inputs = {"Inputs": model.inputs} if getattr(model, "inputs", None) else {}
        networks = {"Student": model.student, "Target": model.teacher}
        return {**networks, **inputs, "Label noise": model.label_noise, "Algorithm": self.algorithm}

    @property
    def held(self) -> int:
        """Diagonals of Q that a constraint keeps, from the main one on."""
        return int(self.algorithm.on_sphere)

    @property
    def gram(self) -> sp.ImmutableDenseMatrix | None:
        """Matrix that stays positive semidefinite, where it is not that of the overlaps."""
        return None

    @property
    def networks(self) -> str:
        """Student and teacher as text."""
        student, teacher = self.model.student, self.model.teacher
        target = teacher if teacher.activation is None else teacher.activation
        return f"student {student.activation}, teacher {target}"

    @abstractmethod
    def state(self, start: Any) -> dict[str, Array]:
        """State blocks of a start."""

    def entries(self, start: Any) -> dict[str, Array]:
        """The same by the names that the definitions read."""
        return self.state(start)

    def packed(self, found: Mapping[str, Array]) -> dict[str, Array]:
        """Blocks under the names that a start has for them, from what the definitions give."""
        return dict(found)

    def values(
        self,
        needed: Sequence[str],
        start: Any,
        given: Mapping[str, object],
        declared: Mapping[str, sp.Expr],
    ) -> Values:
        """Widths, scalars and constants that are declared or given."""
        return resolve(self.model, self.algorithm, needed, start, given, declared)

    def with_constants(
        self, values: Values, definitions: Sequence[Definition], start: Any
    ) -> Values:
        """Values with the constants that follow from the start, which is checked."""
        return values

    def rule(self, averages: Sequence[Expectation], options: Mapping[str, Any]) -> NodeRule:
        """Nodes of averages that are written out."""
        raise NotImplementedError

    def random_starts(self) -> Sequence[Overlaps]:
        """Starts of searches, where they are not random rows of student and teacher."""
        return ()

    def scheduled(self, equations: Any, values: Mapping[str, sp.Expr]) -> Any:
        """Equations with parameters that are expressions."""
        raise NotImplementedError

    def approximation(self, averages: str, error: float) -> str:
        """What equations of this state leave out, and how they compute averages."""
        return averages

    def closure_text(self, definitions: Iterable[Definition]) -> str:
        """Overlaps that stand for those that the state does not hold."""
        return ""

    def closure_latex(self, definitions: Iterable[Definition]) -> list[str]:
        """Align lines of the same."""
        return []


class Grams(StateSpace):
    """Gram matrices Q and M, also of rows that an optimiser keeps, also by block of a spectrum."""

    @cached_property
    def rows(self) -> tuple[str, ...]:
        """Names of the rows that the optimiser keeps beside the weights."""
        return motion_of(self.algorithm).rows[1:]

    @property
    def kept(self) -> str:
        """Name of what the optimiser accumulates; empty where that is nothing."""
        return getattr(self.algorithm, "kept", "")

    @cached_property
    def is_plain(self) -> bool:
        """Whether the state is Q and M alone."""
        return self.model.spectrum is None and not self.rows and not self.kept

    @property
    def prefix(self) -> str:
        """What the names of blocks of the state begin with."""
        return "" if self.model.spectrum is None else BLOCK

    @property
    def not_unrolled(self) -> str:  # type: ignore[override]
        """Why there are no scalar equations; empty where there are."""
        if self.is_plain:
            return ""
        return (
            "equations of inputs with a spectrum, or with additional rows of an optimiser, "
            "are not written out in scalars; Model(...) without inputs= under SGD is "
            "supported, and evaluate and latex accept any number of blocks"
        )

    @property
    def not_exported(self) -> str:  # type: ignore[override]
        """Why they are not exported; empty where they are."""
        if self.is_plain:
            return ""
        return (
            "equations of inputs with a spectrum, or with additional rows of an optimiser, "
            "are not exported; Model(...) without inputs= under plain SGD is supported, and "
            "run.to_pandas() and run.save export the results of dmft.solve"
        )

    def state(self, start: Overlaps) -> dict[str, Array]:
        """Gram matrices of all rows; averages begin at the weights, velocities at zero."""
        found = {"Q": start.Q, "M": start.M}
        if self.is_plain:
            return found
        for n, row in enumerate(self.rows):
            begins = 1.0 if row == "average" else 0.0
            found[f"{row}_M"] = begins * start.M
            found |= {f"{row}_{other}": begins * start.Q for other in ("Q", *self.rows[:n])}
            found[row] = begins * start.Q
        passed = ("Q", "M", self.kept)
        kept = {n: y for n, y in (start.memory or {}).items() if n not in passed}
        unknown = sorted(set(kept) - set(found))
        if unknown:
            raise BadParameter(
                f"the start contains {', '.join(unknown)}; these equations have the rows "
                f"{', '.join(self.rows) or 'of the weights alone'}"
            )
        for name, value in kept.items():
            _check_shape(name, value, found[name].shape)
        return {f"{self.prefix}{name}": value for name, value in (found | kept).items()}

    def packed(self, found: Mapping[str, Array]) -> dict[str, Array]:
        """Gram matrices under the names that a start has for them."""
        return {name.removeprefix(self.prefix): value for name, value in found.items()}

    def with_constants(
        self, values: Values, definitions: Sequence[Definition], start: Overlaps
    ) -> Values:
        """Values with those of the spectrum, and with what an optimiser has accumulated."""
        spectrum = self.model.spectrum
        own = self._accumulated(values.scalars.get("initial", 0.0), definitions, start)
        if spectrum is None:
            return replace(values, arrays={**values.arrays, **own}) if own else values
        noise = {"noise_factor": spectrum.noise, "inverse_count": spectrum.inverse_counts}
        noise["block_fraction"] = spectrum.fractions
        values = by_block(self.model, values, {**own, **noise})
        # Flows have no noise, which is what reads these.
        unused = OF_NOISE.difference(*(used_bases(d.expr) for d in definitions))
        return replace(values, arrays={n: a for n, a in values.arrays.items() if n not in unused})

    def _accumulated(
        self, initial: float, definitions: Sequence[Definition], start: Overlaps
    ) -> dict[str, Array]:
        """What the optimiser has accumulated at a start, under its name in the state."""
        kept = self.kept
        if not kept:
            return {}
        rate = next(d for d in definitions if d.role == "rate" and d.name.endswith(kept))
        sizes = {"j": start.p, "block": start.blocks or 1}
        shape = tuple(sizes[index.name] for index in rate.indices)
        memory = (start.memory or {}).get(kept)
        value: Array = np.full(shape, initial) if memory is None else memory
        _check_shape(kept, value, shape)
        if not np.all(value >= 0.0):
            raise BadParameter(f"{kept} must not be negative, got {value.tolist()}")
        if not value.all() and "eps" not in numbers_of(self.algorithm):
            raise BadParameter(
                f"initial = {initial:g}: steps of {type(self.algorithm).__name__} are divided by "
                f"the root of {kept}. If it starts at 0, the first steps are larger than the "
                "others by a factor sqrt(d), which an ode does not describe; use initial > 0"
                + (", or eps > 0" if hasattr(self.algorithm, "eps") else "")
            )
        return {rate.name: value}

    def approximation(self, averages: str, error: float) -> str:
        """How far overlaps concentrate, and what scaled steps leave out."""
        if self.is_plain:
            return averages
        parts = [averages] if averages != "exact" else []
        size = np.inf if self.model.spectrum is None else self.model.spectrum.intrinsic_dim
        if size < CONCENTRATED:
            parts.append(
                f"intrinsic dimension tr Sigma/|Sigma| = {size:.3g}: the equations describe the "
                f"mean over runs with a relative error of order {1 / size:.2g}, and single runs "
                f"deviate by about {size**-0.5:.2g}"
            )
        if getattr(self.algorithm, "scale", None) in ("sign", "moment"):
            from dmft.equations.update.adaptive_factors import claims_of

            parts += claims_of(self.model, self.algorithm)
        return "; ".join(parts) or "exact"


def _check_shape(name: str, value: Array, shape: tuple[int, ...]) -> None:
    if np.shape(value) != shape:
        raise ShapeMismatch(f"{name} has shape {np.shape(value)}, expected {shape}")
