"""Random starts of committees."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dmft.checks import checked
from dmft.errors import BadParameter
from dmft.model.algorithm import as_count
from dmft.model.model import Model
from dmft.model.sequence import SequenceModel
from dmft.starts import Overlaps


@checked
def random_overlaps(model: Model, dim: int, seed: int, normalised: bool = False) -> Overlaps:
    """Overlaps of random weights in R^dim, drawn exactly in law at a cost independent of dim.

    Student rows are iid N(0, I_d); teacher rows are orthonormalised to length sqrt(d), so P = I.
    In the teacher's basis M has iid N(0, 1/d) entries and the rest of Q is Wishart, drawn by its
    Bartlett factor.

    Parameters
    ----------
    model : Model
        Both widths must be numbers.
    dim : int
        Input dimension d >= k.
    seed : int
    normalised : bool
        Put the student rows on the sphere |w_j|^2 = d.

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
        raise BadParameter(f"random_overlaps needs numeric widths, the model has {widths}")
    p, k = (int(w) for w in widths)
    if dim < k:
        raise BadParameter(f"dim = {dim} cannot hold {k} orthogonal teacher rows")
    rng = np.random.default_rng(seed)
    along = rng.standard_normal((p, k))
    rest = _wishart_factor(rng, p, dim - k)
    Q = (along @ along.T + rest @ rest.T) / dim
    M = along / np.sqrt(dim)
    if normalised:
        length = np.sqrt(np.diag(Q))
        Q, M = Q / np.outer(length, length), M / length[:, None]
        np.fill_diagonal(Q, 1.0)
    a = model.student.readout
    readout = None if a is None or any(x.free_symbols for x in a) else [float(x) for x in a]
    return Overlaps(Q, M, np.eye(k), readout)


def _wishart_factor(rng: np.random.Generator, p: int, degrees: int) -> NDArray[np.float64]:
    """Return A with A A^T ~ Wishart_p(degrees, I)."""
    if degrees < p:
        return rng.standard_normal((p, degrees))
    factor = np.tril(rng.standard_normal((p, p)), -1)
    factor[np.diag_indices(p)] = np.sqrt(rng.chisquare(degrees - np.arange(p)))
    return factor
