"""Equations of inputs with a spectrum: the state holds the overlaps within each block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dmft.equations.equations import Equations
from dmft.equations.values import Values
from dmft.errors import BadParameter
from dmft.model import Overlaps
from dmft.names import BLOCKS

if TYPE_CHECKING:
    from dmft.equations.views.explicit import ExplicitEquations
    from dmft.model import Spectrum


@dataclass(frozen=True)
class SpectrumEquations(Equations):
    """Closed equations of the overlaps within each block; everything else is as in `Equations`.

    `evaluate` returns Q (B, p, p) and M (B, p, k), with the axis of blocks of the start.

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

    @property
    def spectrum(self) -> Spectrum:
        """Spectrum of the inputs."""
        found = self.model.spectrum
        assert found is not None
        return found

    def state(self, start: Overlaps) -> dict[str, NDArray[np.float64]]:
        """Overlaps by block."""
        return {BLOCKS["Q"]: start.Q, BLOCKS["M"]: start.M}

    def packed(self, found: dict[str, NDArray[np.float64]]) -> dict[str, NDArray[np.float64]]:
        """Overlaps by block under the names of a start."""
        names = {name: plain for plain, name in BLOCKS.items()}
        return {names.get(name, name): value for name, value in found.items()}

    def values(self, start: Overlaps, parameters: dict[str, Any]) -> Values:
        """Numbers of a run from this start, with those of the spectrum."""
        values = super().values(start, parameters)
        arrays = {BLOCKS.get(name, name): value for name, value in values.arrays.items()}
        arrays["eigenvalue"] = self.spectrum.eigenvalues
        arrays["noise_factor"] = self.spectrum.noise
        widths = {**values.widths, "blocks": self.spectrum.blocks}
        return Values(widths, values.scalars, arrays)

    def explicit(self, *widths: Any, **options: Any) -> ExplicitEquations:
        """Refused: the scalars would be those of every block.

        Raises
        ------
        BadParameter
        """
        raise BadParameter(
            "equations of inputs with a spectrum are not written out in scalars; those of "
            "Model(...) without inputs= are, and evaluate and latex take any number of blocks"
        )
