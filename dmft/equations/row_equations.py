"""Equations of several rows a neuron, and of overlaps by block of a spectrum."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dmft.equations.definitions import used_bases
from dmft.equations.equations import Equations
from dmft.equations.update.optimiser import motion_of
from dmft.equations.values import Values, by_block
from dmft.errors import BadParameter, ShapeMismatch
from dmft.model import Overlaps
from dmft.names import BLOCK

if TYPE_CHECKING:
    from dmft.equations.views.explicit import ExplicitEquations

Array = NDArray[np.float64]
# Intrinsic dimension below which runs do not follow their equations closely.
CONCENTRATED = 50.0
# Numbers of the blocks that multiply squares of the update field.
OF_NOISE = frozenset({"noise_factor", "block_fraction", "inverse_count"})


@dataclass(frozen=True, repr=False)
class RowEquations(Equations):
    """Closed equations of the Gram matrices of all rows; everything else is as in `Equations`.

    For inputs with a spectrum `evaluate` returns Q (B, p, p) and M (B, p, k), with the axis of
    blocks of the start. Rows that an optimiser keeps have blocks of their own, as velocity_M.

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> z = sp.Symbol("z", real=True)
    >>> line, two = dmft.Committee(z, width=1), dmft.Spectrum([2.0, 0.5], [0.3, 0.7])
    >>> eqs = dmft.derive(dmft.Model(line, line, inputs=two), dmft.GradientFlow())
    >>> start = dmft.Overlaps(Q=[[[0.0]]] * 2, M=[[[0.0]]] * 2, P=[[[0.3]], [[0.7]]])
    >>> eqs.evaluate(start)["M"].ravel().round(12).tolist()
    [0.6, 0.35]
    """

    @cached_property
    def rows(self) -> tuple[str, ...]:
        """Names of the rows that the optimiser keeps beside the weights."""
        return motion_of(self.algorithm).rows[1:]

    @property
    def approximation(self) -> str:
        """How the averages are computed, in words; and how far overlaps concentrate, if they do."""
        parts = [text] if (text := super().approximation) != "exact" else []
        spectrum = self.model.spectrum
        size = np.inf if spectrum is None else spectrum.intrinsic_dim
        if size < CONCENTRATED:
            parts.append(
                f"tr Sigma/|Sigma| = {size:.3g} directions carry the inputs: the mean of noisy "
                f"runs, to a relative order of {1 / size:.2g}, which single runs leave by "
                f"{size**-0.5:.2g}"
            )
        if getattr(self.algorithm, "scale", None) in ("sign", "moment"):
            from dmft.equations.update.adaptive.factors import claims_of

            parts += claims_of(self.model, self.algorithm)
        return "; ".join(parts) or "exact"

    @property
    def prefix(self) -> str:
        """What the names of blocks of the state begin with."""
        return "" if self.model.spectrum is None else BLOCK

    def state(self, start: Overlaps) -> dict[str, Array]:
        """Gram matrices of all rows; averages begin at the weights, velocities at zero."""
        found = {"Q": start.Q, "M": start.M}
        for n, row in enumerate(self.rows):
            begins = np.ones if row == "average" else np.zeros
            found[f"{row}_M"] = begins(1) * start.M
            for other in ("Q", *self.rows[:n]):
                found[f"{row}_{other}"] = begins(1) * start.Q
            found[row] = begins(1) * start.Q
        passed = ("Q", "M", self.kept)
        kept = {n: y for n, y in (start.memory or {}).items() if n not in passed}
        unknown = sorted(set(kept) - set(found))
        if unknown:
            raise BadParameter(
                f"the start keeps {', '.join(unknown)}; these equations have the rows "
                f"{', '.join(self.rows) or 'of the weights alone'}"
            )
        for name, value in kept.items():
            if np.shape(value) != found[name].shape:
                raise ShapeMismatch(
                    f"{name} has shape {np.shape(value)}, expected {found[name].shape}"
                )
        return {f"{self.prefix}{name}": value for name, value in (found | kept).items()}

    @cached_property
    def kept(self) -> str:
        """Name of what the optimiser accumulates; empty where that is nothing."""
        return getattr(self.algorithm, "kept", "")

    def begins(self, start: Overlaps, values: Values) -> dict[str, Array]:
        """State with what the optimiser has accumulated."""
        names = [d.name for d in self.definitions if d.role == "rate"]
        own = {name: values.arrays[name] for name in names if name in values.arrays}
        return {**self.state(start), **own}

    def accumulated(self, start: Overlaps, initial: float) -> dict[str, Array]:
        """What the optimiser has accumulated at a start, under its name in the state.

        Raises
        ------
        BadParameter
            Where it is zero and steps are divided by it.
        """
        if not self.kept:
            return {}
        rate = next(d for d in self.definitions if d.role == "rate" and d.name.endswith(self.kept))
        sizes = {"j": start.p, "block": start.blocks or 1}
        shape = tuple(sizes[index.name] for index in rate.indices)
        memory = (start.memory or {}).get(self.kept)
        value: Array = np.full(shape, initial) if memory is None else memory
        if value.shape != shape:
            raise ShapeMismatch(f"{self.kept} has shape {value.shape}, expected {shape}")
        if not np.all(value >= 0.0):
            raise BadParameter(f"{self.kept} must not be negative, got {value.tolist()}")
        if not value.all() and "eps" not in self.parameters:
            raise BadParameter(
                f"initial = {initial:g}: steps of {type(self.algorithm).__name__} are divided by "
                f"the root of {self.kept}, and where it begins at 0 the first of them are larger "
                "by sqrt(d) than all others, which no ode follows; take initial > 0"
                + (", or eps > 0" if hasattr(self.algorithm, "eps") else "")
            )
        return {rate.name: value}

    def packed(self, found: dict[str, Array]) -> dict[str, Array]:
        """Gram matrices under the names that a start has for them."""
        return {name.removeprefix(self.prefix): value for name, value in found.items()}

    def values(self, start: Overlaps, parameters: dict[str, Any]) -> Values:
        """Numbers of a run from this start, with those of the spectrum."""
        values = super().values(start, parameters)
        spectrum, initial = self.model.spectrum, values.scalars.get("initial", 0.0)
        own = self.accumulated(start, initial)
        if spectrum is None:
            return replace(values, arrays={**values.arrays, **own}) if own else values
        noise = {"noise_factor": spectrum.noise, "inverse_count": spectrum.inverse_counts}
        values = by_block(self.model, values, {**own, **noise})
        # Flows have no noise, which is what reads these.
        unused = OF_NOISE.difference(*(used_bases(d.expr) for d in self.definitions))
        arrays = {name: a for name, a in values.arrays.items() if name not in unused}
        return replace(values, arrays=arrays)

    def explicit(self, *widths: Any, **options: Any) -> ExplicitEquations:
        """Refused: the scalars would be those of every block and row.

        Raises
        ------
        BadParameter
        """
        raise BadParameter(
            "equations of inputs with a spectrum, and of rows that an optimiser keeps, are not "
            "written out in scalars; those of Model(...) without inputs= under SGD are, and "
            "evaluate and latex take any number of blocks"
        )
