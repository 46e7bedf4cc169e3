"""Landscapes of sequence models: from the declaration to minima, boundaries and regions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any

import numpy as np
import sympy as sp
from numpy.typing import ArrayLike

from dmft.analysis import landscape as scan
from dmft.analysis.diagram import RegionDiagram, region_diagram
from dmft.analysis.landscape import POINTS, Landscape
from dmft.arrays import Array
from dmft.equations.array_functions import FUNCTIONS
from dmft.equations.risk import population_risk
from dmft.equations.sequence.risk import SequenceRisk
from dmft.errors import BadParameter
from dmft.gaussian.nodes.grid import array_function
from dmft.gaussian.tables.tokens import TokenAverage
from dmft.model import SequenceModel
from dmft.progress import ProgressOption
from dmft.validation import checked

# Averages on arrays of at least this size are kept: the grids of all landscapes of a family.
KEPT_SIZE, KEPT = 64, 8


@checked
def landscape(
    model: SequenceModel | SequenceRisk | Callable[..., Any],
    *,
    gram: ArrayLike | None = None,
    points: int = POINTS,
    **parameters: float,
) -> Landscape:
    r"""Compute the minima of the risk over the feasible alignments, and the direction of the start.

    Equation    strict local minima of R over {s^T G^+ s <= 1}, s = (m, e): the stable fixed points
                of spherical gradient flow; start: the fastest growing mode at e = m = 0
    Valid for   tied students with an encoding along one direction; minima are resolved on the
                border down to 2 pi / points, inside down to a sixteenth of the radius
    Source      theory/sequence A.4, D.4

    Parameters
    ----------
    model : sequence Model, its population_risk, or a callable risk(e=..., m=...)
    gram : (2, 2), optional
        Overlaps of (w*/sqrt(d), p), if `model` is a callable.
    points : int
        Number of nodes on the border.
    **parameters
        Values of the model's symbols.

    Returns
    -------
    Landscape
        Minima, initial direction, and functions of the alignments. `dmft.plot` draws it.

    Raises
    ------
    BadParameter, InvalidCovariance

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> z = sp.symbols("z1:3", real=True)
    >>> target = dmft.SequenceTarget(z[0] + z[1]**2, z)
    >>> student = dmft.SequenceTarget(z[0]**2, z)
    >>> dmft.landscape(dmft.Model(student, target, encoding=1))
    Landscape(mixed: mixed (e=0.3675, m=0.93))
    """
    if not isinstance(model, SequenceModel | SequenceRisk):
        if parameters:
            raise BadParameter(f"a callable takes no parameters here, got {sorted(parameters)}")
        return scan.landscape(model, gram, points=points)
    risk = _values(risk_of(model))
    if gram is not None:
        raise BadParameter("gram follows from the model's encoding: leave it out")
    return scan.landscape(risk.at(parameters), risk.gram, points=points)


@checked
def landscape_boundary(
    model: SequenceModel | SequenceRisk,
    parameter: str,
    measure: Callable[[Landscape], Any],
    low: float,
    high: float,
    *,
    xtol: float = 1e-10,
    **parameters: float,
) -> float:
    """Compute the value of a parameter at which the landscape of a sequence model changes.

    Parameters
    ----------
    model : sequence Model or its population_risk
    parameter : str
        Name of the symbol.
    measure : callable
        Function of a `Landscape` that returns a number with a zero at the boundary, or a bool or
        str that changes there. Examples: ``lambda found: found.bend(e=0, m=1)`` (the semantic
        corner loses its stability), ``lambda found: found.rates[0] - found.rates[1]`` (the initial
        direction changes), ``lambda found: found.best.kind``.
    low, high : float
    xtol : float
    **parameters
        Values of the other symbols.

    Returns
    -------
    float
        Value of the parameter, with error below `xtol`.

    Raises
    ------
    BadParameter
        If the measure has the same value at both ends.

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> x, y, w = sp.symbols("x y w", real=True)
    >>> target = dmft.SequenceTarget((1 - w)*(x**2 + y**2) + 8*w, [x, y])
    >>> model = dmft.Model(dmft.SequenceTarget(x**2 + y**2, [x, y]), target, encoding=1)
    >>> turn = lambda found: found.rates[0] - found.rates[1]
    >>> round(dmft.landscape_boundary(model, "w", turn, 0.1, 0.9), 9)
    0.5
    """
    risk = _values(risk_of(model))
    return scan.landscape_boundary(
        lambda value: risk.at({**parameters, parameter: value}), measure, low, high,
        gram=risk.gram, xtol=xtol,
    )  # fmt: skip


@checked
def landscape_diagram(
    model: SequenceModel | SequenceRisk,
    axes: Mapping[str, ArrayLike],
    *,
    points: int = POINTS,
    progress: ProgressOption = None,
    **parameters: float,
) -> RegionDiagram:
    """Compute the regions of a sequence model in the plane of two of its parameters.

    Parameters
    ----------
    model : sequence Model or its population_risk
    axes : mapping of two parameter names to (nx,) and (ny,) values
        Parameters and their values, the horizontal one first.
    points : int
        Number of nodes on the border of each landscape.
    progress : None, bool or callable
    **parameters
        Values of the other symbols.

    Returns
    -------
    RegionDiagram
        codes, labels with their names, the global minimum at each point; `dmft.plot` draws it. The
        curves between its regions are
        ``dmft.boundary(lambda x, y: dmft.landscape(risk, x=x, y=y).name, ...)``.

    Raises
    ------
    BadParameter, InvalidCovariance

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> x, y, w, c = sp.symbols("x y w c", real=True)
    >>> target = dmft.SequenceTarget((1 - w)*(x**2 + y**2) + w*c, [x, y])
    >>> model = dmft.Model(dmft.SequenceTarget(x**2 + y**2, [x, y]), target, encoding=1)
    >>> dmft.landscape_diagram(model, {"c": [2, 6], "w": [0.2, 0.8]}).codes.tolist()
    [[0, 0], [0, 3]]
    """
    risk = _values(risk_of(model))
    names = list(axes)

    def measure(x: float, y: float) -> Landscape:
        values = {**parameters, **dict(zip(names, (x, y), strict=True))}
        return scan.landscape(risk.at(values), risk.gram, points=points)

    return region_diagram(measure, axes, progress=progress)


def risk_of(model: SequenceModel | SequenceRisk) -> SequenceRisk:
    """Risk of a sequence model."""
    if isinstance(model, SequenceRisk):
        return model
    if not isinstance(model, SequenceModel):
        raise BadParameter(f"expected the Model of a sequence, got {type(model).__name__}")
    return population_risk(model)


@lru_cache(maxsize=16)
def _values(risk: SequenceRisk) -> _Values:
    return _Values(risk)


class _Values:
    """A risk on arrays of alignments; averages at the same points are computed once."""

    def __init__(self, risk: SequenceRisk) -> None:
        model = risk.model
        if not model.tied or model.encoding.rank != 1:
            raise BadParameter(
                "a landscape requires one e and one m: use a tied student and an encoding along "
                f"one direction (encoding=1, or a pattern); here tied={model.tied}, "
                f"{model.encoding.rank} directions"
            )
        self.risk = risk
        self.gram = np.array(model.encoding.gram.tolist(), dtype=float)
        self.nodes = sorted(risk.expr.atoms(TokenAverage), key=str)
        self.kept: dict[bytes, list[Array]] = {}
        stands = [sp.Dummy() for _ in self.nodes]
        self.symbols = sorted(model.parameters & risk.expr.free_symbols, key=str)
        m, e = risk.alignments
        expr = risk.expr.xreplace(dict(zip(self.nodes, stands, strict=True)))
        self.formula = array_function([e, m, *self.symbols, *stands], expr, FUNCTIONS)

    def at(self, parameters: Mapping[str, float]) -> Callable[..., Array]:
        """Return the risk at values of the parameters, as a function of arrays e and m."""
        # One value by the risk itself: it refuses parameters that are missing, unknown or bad.
        self.risk(e=0.0, m=0.0, **parameters)
        return partial(self.risk_at, [float(parameters[s.name]) for s in self.symbols])

    def risk_at(self, values: list[float], e: ArrayLike, m: ArrayLike) -> Array:
        """The risk at values of the symbols, in their order."""
        e, m = np.broadcast_arrays(np.asarray(e, dtype=float), np.asarray(m, dtype=float))
        try:
            with np.errstate(over="ignore", invalid="ignore"):
                found = self.formula(e, m, *values, *self._averages(e, m))
        except OverflowError:  # of Python's own powers: such values are beyond doubles
            found = np.inf
        return np.broadcast_to(np.asarray(found, dtype=float), e.shape)

    def __reduce__(self) -> tuple[Any, ...]:
        return _values, (self.risk,)

    def _averages(self, e: Array, m: Array) -> list[Array]:
        key = e.tobytes() + m.tobytes() if e.size >= KEPT_SIZE else b""
        if key in self.kept:
            return self.kept[key]
        found = [_average(node, e, m) for node in self.nodes]
        if key and len(self.kept) < KEPT:
            self.kept[key] = found
        return found


def _average(node: TokenAverage, e: Array, m: Array) -> Array:
    """Values of a table at arrays of alignments; its own place may leave out either."""
    at_e, at_m = (x if y.free_symbols else 0.0 * x for x, y in zip((e, m), node.place, strict=True))
    return node.table.derivative(*node.orders)(at_e, at_m)
