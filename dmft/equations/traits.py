"""What equations say of themselves, so that nobody has to ask which kind of model they are of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import sympy as sp

from dmft.model import Committee, Model
from dmft.starts import Overlaps

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Traits:
    """Those of committees; equations of other models have their own.

    Attributes
    ----------
    start_type : type
        What their runs start from.
    instead : mapping of str to str
        What there is in place of a measure that they do not have.
    outputs : int
        Number of outputs of a sample, each with a noise of its own.
    blocks : mapping from block to tuple of sympy.Symbol
        Symbols of the entries of blocks that are not arrays.
    gram : sympy.Matrix or None
        Matrix that stays positive semidefinite, where it is not that of the overlaps.
    has_cone : bool
        Whether rates jump where the output passes the label.
    bounds_rounding : bool
        Whether the rounding of their closed forms is bounded along runs.
    """

    model: Model
    start_type: ClassVar[type] = Overlaps
    instead: ClassVar[Mapping[str, str]] = {}

    @property
    def outputs(self) -> int:
        """One."""
        return 1

    @property
    def blocks(self) -> Mapping[str, tuple[sp.Symbol, ...]]:
        """None: all blocks are arrays."""
        return {}

    @property
    def gram(self) -> sp.ImmutableDenseMatrix | None:
        """None: that of the overlaps."""
        return None

    @property
    def has_cone(self) -> bool:
        """No: kinks of activations and losses are those of single fields."""
        return False

    @property
    def bounds_rounding(self) -> bool:
        """Where all averages have closed forms."""
        return not (self.averages or self.error)  # type: ignore[attr-defined]

    @property
    def networks(self) -> str:
        """Student and teacher in words."""
        student, teacher = self.model.student, self.model.teacher
        target = teacher.activation if isinstance(teacher, Committee) else teacher
        return f"student {student.activation}, teacher {target}"

    def functions_text(self) -> str:
        """What the functions of the networks and the averages are.

        Returns
        -------
        str

        Examples
        --------
        >>> import dmft
        >>> sgd = dmft.SGD(0.05, constraint="sphere")
        >>> eqs = dmft.derive(dmft.literature.phase_retrieval(1), sgd)
        >>> eqs.functions_text()
        'σ(z) = z**2; ⟨.⟩ averages over λ = (h, h*) ~ N(0, Ω)'
        """
        from dmft.equations.views.text import functions_text

        return f"{functions_text(self.model)}; ⟨.⟩ averages over λ = (h, h*) ~ N(0, Ω)"

    def held(self, start: Any) -> Mapping[str, NDArray[Any] | None]:
        """What of a start all runs that are made together must share.

        Parameters
        ----------
        start : Overlaps
            Of one of the runs.

        Returns
        -------
        mapping of str to ndarray or None

        Examples
        --------
        >>> import dmft
        >>> sgd = dmft.SGD(0.05, constraint="sphere")
        >>> eqs = dmft.derive(dmft.literature.phase_retrieval(1), sgd)
        >>> start = dmft.Overlaps([[1.0]], [[0.1]])
        >>> eqs.held(start)["P"].tolist()
        [[1.0]]
        """
        return {"P": start.P, "readout": start.readout}
