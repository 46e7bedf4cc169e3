"""Declaration of inputs from several clusters: mixtures of Gaussians with labels by cluster."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import sympy as sp
from numpy.typing import ArrayLike, NDArray

from dmft.checks import checked_or
from dmft.errors import BadParameter, ShapeMismatch
from dmft.model.multi_index import canonical_target, distinct_fields, teacher_fields
from dmft.record import Shown

# Probabilities that a user rounds may miss one by this much; they are divided by their sum.
SUM_TOLERANCE = 1e-9


@checked_or(fields='as sympy.symbols("z1 z2", real=True)')
class GaussianMixture(Shown):
    r"""Inputs x = sum_r means[c, r] w*_r / sqrt(d) + sqrt(scales[c]) N(0, I_d) of clusters c.

    The rows w*_r span the means; with P = W* W*^T / d and M = W W*^T / d the fields of cluster c
    are normal, h* = W* x / sqrt(d) with the law N(P means[c], scales[c] P) and h = W x / sqrt(d)
    with N(M means[c], scales[c] Q).

    Parameters
    ----------
    means : (clusters, k)
        Coordinates of the means in the rows w*_r, of length one in units of sqrt(d) where P_rr = 1.
    labels : sequence of numbers or sympy.Expr, optional
        Label of each cluster: a number, or an expression in `fields`. Left out, the teacher of the
        `Model` writes them.
    weights : (clusters,), optional
        Probabilities of the clusters; equal by default.
    fields : sequence of sympy.Symbol, optional
        The k fields h* in the order of the rows, where labels are expressions.
    scales : (clusters,), optional
        Variance of every input within a cluster; ones by default.

    Raises
    ------
    BadParameter, ShapeMismatch

    Examples
    --------
    >>> import dmft, sympy as sp
    >>> twins = dmft.GaussianMixture([[1.0], [-1.0]], labels=[1, -1])
    >>> twins.width, twins.weights.tolist()
    (1, [0.5, 0.5])
    >>> u = sp.Symbol("u", real=True)
    >>> dmft.GaussianMixture([[1.0], [0.0]], [u**2, 0], [0.3, 0.7], fields=u).labels
    (z1**2, 0)
    """

    def __init__(
        self,
        means: ArrayLike,
        labels: Sequence[float | sp.Expr] | None = None,
        weights: ArrayLike | None = None,
        fields: sp.Symbol | Sequence[sp.Symbol] = (),
        *,
        scales: ArrayLike | None = None,
    ) -> None:
        self.means = _numbers(means, "means", 2)
        clusters, k = self.means.shape
        if clusters < 1 or k < 1:
            raise ShapeMismatch(f"means has shape {self.means.shape}, expected (clusters, k)")
        self.weights = _weights(weights, clusters)
        self.scales = _scales(scales, clusters)
        self.width = sp.Integer(k)
        self.labels = None if labels is None else _labels(labels, clusters, self.fields, fields)

    @property
    def isotropic(self) -> bool:
        """Whether all clusters have unit variance."""
        return bool(np.all(self.scales == 1.0))

    @property
    def fields(self) -> tuple[sp.Symbol, ...]:
        """Symbols z1, ..., zk of the stored labels."""
        return teacher_fields(int(self.width))

    @property
    def functions(self) -> tuple[tuple[sp.Expr, tuple[sp.Symbol, ...]], ...]:
        """The label of each cluster and the fields."""
        return tuple((y, self.fields) for y in self.labels or ())

    @property
    def readout(self) -> None:
        """None: labels are those of the clusters."""
        return None

    @property
    def parameters(self) -> set[sp.Symbol]:
        """Free symbols of the labels other than the fields."""
        return set().union(*(y.free_symbols for y in self.labels or ())) - set(self.fields)

    def _key(self) -> tuple[object, ...]:
        arrays = (a.tobytes() for a in (self.means, self.weights, self.scales))
        return self.means.shape, self.labels, *arrays

    def __eq__(self, other: object) -> bool:
        return isinstance(other, GaussianMixture) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        labels = "" if self.labels is None else f", labels=[{', '.join(map(str, self.labels))}]"
        scales = "" if self.isotropic else f", scales={self.scales.tolist()}"
        return (
            f"GaussianMixture(means={self.means.tolist()}{labels}, "
            f"weights={self.weights.tolist()}{scales})"
        )


def _numbers(given: ArrayLike, name: str, ndim: int) -> NDArray[np.float64]:
    try:
        if np.iscomplexobj(given):
            raise TypeError("complex numbers")
        result = np.array(given, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise BadParameter(f"{name} must be numbers, got {given!r}") from error
    if result.ndim != ndim:
        raise ShapeMismatch(f"{name} has shape {result.shape}, expected {ndim} dimensions")
    if not np.all(np.isfinite(result)):
        raise BadParameter(f"{name} must be finite, got {result.tolist()}")
    result.setflags(write=False)
    return result


def _weights(given: ArrayLike | None, clusters: int) -> NDArray[np.float64]:
    weights = _numbers(np.full(clusters, 1.0 / clusters) if given is None else given, "weights", 1)
    if weights.shape != (clusters,):
        raise ShapeMismatch(f"weights has shape {weights.shape}, expected ({clusters},) as means")
    if np.any(weights <= 0.0) or abs(weights.sum() - 1.0) > SUM_TOLERANCE:
        raise BadParameter(
            f"weights must be positive and add up to one, got {weights.tolist()} (sum "
            f"{weights.sum():g})"
        )
    result: NDArray[np.float64] = weights / weights.sum()
    result.setflags(write=False)
    return result


def _scales(given: ArrayLike | None, clusters: int) -> NDArray[np.float64]:
    scales = _numbers(np.ones(clusters) if given is None else given, "scales", 1)
    if scales.shape != (clusters,):
        raise ShapeMismatch(f"scales has shape {scales.shape}, expected ({clusters},) as means")
    if np.any(scales <= 0.0):
        raise BadParameter(f"scales are variances and must be positive, got {scales.tolist()}")
    return scales


def _labels(
    given: Sequence[float | sp.Expr],
    clusters: int,
    canonical: tuple[sp.Symbol, ...],
    fields: sp.Symbol | Sequence[sp.Symbol],
) -> tuple[sp.Expr, ...]:
    """Labels in the canonical symbols of the fields."""
    own = distinct_fields(fields) if not (isinstance(fields, tuple) and not fields) else ()
    if own and len(own) != len(canonical):
        raise BadParameter(f"fields must be {len(canonical)} symbols, one a row, got {fields!r}")
    try:
        labels = [sp.sympify(y, strict=True) for y in list(given)]
    except (TypeError, sp.SympifyError) as error:
        raise BadParameter(f"labels must be numbers or expressions, got {given!r}") from error
    if len(labels) != clusters:
        raise ShapeMismatch(f"{len(labels)} labels for {clusters} clusters")
    unnamed = {z.name for z in canonical if not own}
    for label in labels:
        clash = sorted(y.name for y in label.free_symbols if y.name in unnamed)
        if clash:
            raise BadParameter(
                f"label {label} holds {clash[0]}; name the fields of labels with fields=[...]"
            )
    return tuple(canonical_target(y, own, constant=True) for y in labels)
