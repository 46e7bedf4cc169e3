"""Equations of several rows a neuron, and of overlaps by block of a spectrum."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dmft.equations.equations import Equations
from dmft.equations.update.optimiser import motion_of
from dmft.equations.values import Values
from dmft.errors import BadParameter, ShapeMismatch
from dmft.model import Overlaps
from dmft.names import BLOCK

if TYPE_CHECKING:
    from dmft.equations.views.explicit import ExplicitEquations

Array = NDArray[np.float64]
# Intrinsic dimension below which runs do not follow their equations closely.
CONCENTRATED = 50.0


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
        text = super().approximation
        spectrum = self.model.spectrum
        size = np.inf if spectrum is None else spectrum.intrinsic_dim
        if size >= CONCENTRATED:
            return text
        few = (
            f"tr Sigma/|Sigma| = {size:.3g} directions carry the inputs: the mean of noisy runs, "
            f"to a relative order of {1 / size:.2g}, which single runs leave by {size**-0.5:.2g}"
        )
        return few if text == "exact" else f"{text}; {few}"

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
        kept = {n: y for n, y in (start.memory or {}).items() if n not in ("Q", "M")}
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

    def packed(self, found: dict[str, Array]) -> dict[str, Array]:
        """Gram matrices under the names that a start has for them."""
        return {name.removeprefix(self.prefix): value for name, value in found.items()}

    def values(self, start: Overlaps, parameters: dict[str, Any]) -> Values:
        """Numbers of a run from this start, with those of the spectrum."""
        values = super().values(start, parameters)
        spectrum = self.model.spectrum
        if spectrum is None:
            return values
        arrays = {f"{BLOCK}P" if n == "P" else n: value for n, value in values.arrays.items()}
        arrays |= {"eigenvalue": spectrum.eigenvalues, "noise_factor": spectrum.noise}
        return replace(values, widths={**values.widths, "blocks": spectrum.blocks}, arrays=arrays)

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
