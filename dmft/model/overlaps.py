"""Starts of committees: random ones, and whether one fits its model."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dmft.errors import BadParameter, ShapeMismatch
from dmft.initial_conditions import Overlaps
from dmft.model.model import Model, check_readout
from dmft.model.sequence import SequenceModel
from dmft.validation import as_count, checked

# Directions of the teacher below this part of the largest are none.
ROUNDING = 1e-12
# Units of one network whose overlaps are drawn: matrices of .8 GB.
MOST_UNITS = 10_000
# A start declared on the sphere may carry the rounding of its user's own normalisation.
SPHERE_TOLERANCE = 1e-10


@checked
def random_overlaps(model: Model, dim: int, seed: int, normalised: bool = False) -> Overlaps:
    """Draw the overlaps of random weights in R^dim, at a cost that does not depend on dim.

    Student rows are iid N(0, I_d). Teacher rows are orthogonal and have length sqrt(d), so P = I.
    The overlaps have the exact distribution: M has iid N(0, 1/d) entries, and Q - M M^T is Wishart.

    For inputs with a `Spectrum` the overlaps are drawn within its blocks, for the teacher of the
    spectrum. If the spectrum has no teacher, teacher rows are spread over all coordinates,
    P_e = phi_e I.

    Parameters
    ----------
    model : Model
        Model whose widths are numbers.
    dim : int
        Input dimension d >= k.
    seed : int
    normalised : bool
        Whether student rows are rescaled to |w_j|^2 = d.

    Returns
    -------
    Overlaps
        Overlaps Q (p, p), M (p, k) and P = I, with a leading axis of blocks for a spectrum.

    Raises
    ------
    BadParameter
        For symbolic widths, dimensions below the teacher width, and sequence models.

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> square = dmft.Committee(sp.Symbol("z", real=True)**2, width=1)
    >>> start = dmft.random_overlaps(dmft.Model(square, square), dim=100, seed=0)
    >>> start.Q.shape, start.P.tolist()
    ((1, 1), [[1.0]])
    """
    if not isinstance(model, Model):
        raise BadParameter(f"model must be a dmft.Model, got {model!r}")
    if isinstance(model, SequenceModel):
        raise BadParameter(
            "random_overlaps is for committees; a sequence model starts from dmft.Alignment(e, m)"
        )
    dim = as_count(dim, "dim")
    if not isinstance(seed, int | np.integer) or isinstance(seed, bool) or seed < 0:
        raise BadParameter(f"seed must be a non-negative integer, got {seed!r}")
    widths = (model.student.width, model.teacher.width)
    if not all(w.is_Integer for w in widths):
        raise BadParameter(f"random_overlaps requires numeric widths, but the model has {widths}")
    p, k = (int(w) for w in widths)
    if (widest := max(p, k)) > MOST_UNITS:
        raise BadParameter(
            f"width = {widest}: the overlaps of all pairs of units take {8e-9 * widest**2:.3g} GB; "
            f"use at most {MOST_UNITS} units"
        )
    if model.spectrum is not None:
        return _by_block(model, dim, seed, normalised)
    if dim < k:
        raise BadParameter(f"dim = {dim} is too small for {k} orthogonal teacher rows")
    rng = np.random.default_rng(seed)
    along = rng.standard_normal((p, k))
    rest = _wishart_factor(rng, p, dim - k)
    Q = (along @ along.T + rest @ rest.T) / dim
    M = along / np.sqrt(dim)
    if normalised:
        length = np.sqrt(np.diag(Q))
        Q, M = Q / np.outer(length, length), M / length[:, None]
        np.fill_diagonal(Q, 1.0)
    return Overlaps(Q, M, np.eye(k), _readout(model))


def _readout(model: Model) -> list[float] | list[list[float]] | None:
    """Readout of the student, where it is numbers; a row for each of several outputs."""
    if model.student.readout is None or any(a.free_symbols for r in model.student.rows for a in r):
        return None
    rows = [[float(a) for a in row] for row in model.student.rows]
    return rows if model.outputs > 1 else rows[0]


def _by_block(model: Model, dim: int, seed: int, normalised: bool) -> Overlaps:
    """Overlaps of student rows iid N(0, I_d) within each block, and the teacher's."""
    spectrum, p = model.spectrum, int(model.student.width)
    assert spectrum is not None
    if normalised:
        raise BadParameter(
            "normalised=True (rows on a sphere) is available only for inputs without a spectrum"
        )
    if spectrum.dim not in (None, dim):
        raise BadParameter(f"dim = {dim}, but the spectrum is that of dim = {spectrum.dim}")
    P = spectrum.teacher_blocks(int(model.teacher.width))
    rng = np.random.default_rng(seed)
    Q, M = [], []
    for fraction, rows in zip(spectrum.fractions, P, strict=True):
        values, basis = np.linalg.eigh(rows)
        kept = values > ROUNDING * max(values[-1], 0.0)
        root = basis[:, kept] * np.sqrt(values[kept])
        along = rng.standard_normal((p, root.shape[1]))
        degrees = max(round(fraction * dim) - root.shape[1], 0)
        rest = _wishart_factor(rng, p, degrees)
        Q.append((along @ along.T + rest @ rest.T) / dim)
        M.append(along @ root.T / np.sqrt(dim))
    return Overlaps(Q, M, P, _readout(model))


def _wishart_factor(rng: np.random.Generator, p: int, degrees: int) -> NDArray[np.float64]:
    """Return A with A A^T ~ Wishart_p(degrees, I)."""
    if degrees < p:
        return rng.standard_normal((p, degrees))
    factor = np.tril(rng.standard_normal((p, p)), -1)
    factor[np.diag_indices(p)] = np.sqrt(rng.chisquare(degrees - np.arange(p)))
    return factor


def check_start(start: Overlaps, model: Model, constraint: str | None) -> None:
    """Refuse a start with other widths than the model, or off the sphere."""
    if not isinstance(start, Overlaps):
        raise BadParameter(f"start must be dmft.Overlaps or None, got {start!r}")
    if start.blocks != model.blocks:
        raise ShapeMismatch(
            f"M has shape {start.M.shape}, expected {model.blocks or 'no'} leading blocks"
        )
    widths = (model.student.width, model.teacher.width)
    for width, given in zip(widths, (start.p, start.k), strict=True):
        if width.is_Integer and int(width) != given:
            raise ShapeMismatch(
                f"start has widths p, k = {start.p}, {start.k}; the model has {widths}"
            )
    check_readout(model, start)
    if constraint is None:
        return
    off = np.abs(np.diag(start.Q) - 1.0)
    if float(off.max()) > SPHERE_TOLERANCE:
        j = int(off.argmax())
        raise BadParameter(
            f"the sphere constraint requires Q_jj = 1, but Q[{j},{j}] = {float(start.Q[j, j])!r}; "
            "normalise the start, or drop the constraint"
        )
