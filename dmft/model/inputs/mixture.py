"""Declaration of inputs from several clusters: mixtures of Gaussians with labels by cluster."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import sympy as sp
from numpy.typing import ArrayLike, NDArray

from dmft.errors import BadParameter, ShapeMismatch
from dmft.model.inputs.spectrum import Spectrum
from dmft.model.network import canonical_target, distinct_fields, teacher_fields
from dmft.record import Shown
from dmft.validation import checked_or

# Probabilities that a user rounds may miss one by this much; they are divided by their sum.
SUM_TOLERANCE = 1e-9


@checked_or(fields='for example sympy.symbols("z1 z2", real=True)')
class GaussianMixture(Shown):
    r"""Inputs from Gaussian clusters, whose means are in the span of the teacher's rows.

    An input of cluster c is x = sum_r means[c, r] w*_r / sqrt(d) + sqrt(scales[c]) N(0, I_d), with
    the k rows w*_r. With P = W* W*^T / d and M = W W*^T / d, the fields of cluster c are normal:
    h* = W* x / sqrt(d) has the law N(P means[c], scales[c] P), and h = W x / sqrt(d) has the law
    N(M means[c], scales[c] Q).

    Clusters can have different covariances if these commute. Block e of the common eigenbasis then
    contains the fraction fractions[e] of the coordinates, and inputs of cluster c have variance
    scales[c, e] in this block. Overlaps have a leading axis of blocks, as for `Spectrum`. The
    fields of cluster c have the covariance sum_e scales[c, e] Q_e and the mean sum_e M_e means[c].

    Parameters
    ----------
    means : (clusters, k)
        Coordinates of the means in the rows w*_r, in units of sqrt(d) if P_rr = 1.
    labels : sequence of numbers or sympy.Expr, optional
        Label of each cluster: a number, or an expression in `fields`. By default the labels are
        the output of the teacher of the `Model`.
    weights : (clusters,), optional
        Probabilities of the clusters; equal by default.
    fields : sequence of sympy.Symbol, optional
        The k fields h* in the order of the rows, if labels are expressions.
    scales : (clusters,) or (clusters, B), optional
        Variance of the input coordinates within each cluster, and within each block if there are
        blocks; ones by default.
    fractions : (B,), optional
        Fraction phi_e >= 0 of the coordinates in each block. The fractions add up to one.

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
    >>> wide = dmft.GaussianMixture(
    ...     [[1.0], [-1.0]], [1, -1], scales=[[2.0, 0.5], [1.0, 1.0]], fractions=[0.2, 0.8])
    >>> wide.spectrum.eigenvalues.tolist()
    [1.5, 0.75]
    """

    def __init__(
        self,
        means: ArrayLike,
        labels: Sequence[float | sp.Expr] | None = None,
        weights: ArrayLike | None = None,
        fields: sp.Symbol | Sequence[sp.Symbol] = (),
        *,
        scales: ArrayLike | None = None,
        fractions: ArrayLike | None = None,
    ) -> None:
        self.means = _numbers(means, "means", 2)
        clusters, k = self.means.shape
        if clusters < 1 or k < 1:
            raise ShapeMismatch(f"means has shape {self.means.shape}, expected (clusters, k)")
        self.weights = _weights(weights, clusters)
        self.scales, self.fractions = _scales(scales, fractions, clusters)
        self.width = sp.Integer(k)
        self.labels = None if labels is None else _labels(labels, clusters, self.fields, fields)

    def relabelled(self, labels: Sequence[sp.Expr]) -> GaussianMixture:
        """The same clusters with one new label each, in `fields`."""
        return GaussianMixture(
            self.means, labels, self.weights, self.fields,
            scales=self.scales, fractions=self.fractions,
        )  # fmt: skip

    @cached_property
    def spectrum(self) -> Spectrum | None:
        """Covariance within the clusters, averaged over them, by block; None without blocks."""
        if self.fractions is None:
            return None
        return Spectrum(self.weights @ self.scales, self.fractions)

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
    def activation(self) -> None:
        """None: labels belong to the clusters, so there is no sum over units."""
        return None

    @property
    def readout(self) -> None:
        """None: labels belong to the clusters."""
        return None

    @property
    def parameters(self) -> set[sp.Symbol]:
        """Free symbols of the labels other than the fields."""
        return set().union(*(y.free_symbols for y in self.labels or ())) - set(self.fields)

    def _key(self) -> tuple[object, ...]:
        kept = (self.means, self.weights, self.scales, self.fractions)
        arrays = (None if a is None else a.tobytes() for a in kept)
        return self.means.shape, self.scales.shape, self.labels, *arrays

    def __eq__(self, other: object) -> bool:
        return isinstance(other, GaussianMixture) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _in_full(self) -> str:
        labels = "" if self.labels is None else f", labels=[{', '.join(map(str, self.labels))}]"
        scales = "" if self.isotropic else f", scales={self.scales.tolist()}"
        if self.fractions is not None:
            scales = f", scales={self.scales.tolist()}, fractions={self.fractions.tolist()}"
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
        raise ShapeMismatch(f"weights has shape {weights.shape}, expected ({clusters},) like means")
    if np.any(weights <= 0.0) or abs(weights.sum() - 1.0) > SUM_TOLERANCE:
        raise BadParameter(
            f"weights must be positive and add up to one, got {weights.tolist()} (sum "
            f"{weights.sum():g})"
        )
    result: NDArray[np.float64] = weights / weights.sum()
    result.setflags(write=False)
    return result


def _scales(
    given: ArrayLike | None, fractions: ArrayLike | None, clusters: int
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    """Variances (clusters,), or (clusters, B) with the fractions (B,) of the coordinates."""
    if fractions is None:
        shape = () if given is None else np.shape(given)
        if len(shape) == 2:
            raise BadParameter(
                f"scales has shape {shape}, a variance for each cluster and block: pass the "
                "fractions=[...] of the coordinates in the blocks; covariances of clusters "
                "must have a common eigenbasis, because the equations do not close otherwise"
            )
        scales = _numbers(np.ones(clusters) if given is None else given, "scales", 1)
        if scales.shape != (clusters,):
            raise ShapeMismatch(
                f"scales has shape {scales.shape}, expected ({clusters},) like means"
            )
        if np.any(scales <= 0.0):
            raise BadParameter(f"scales are variances and must be positive, got {scales.tolist()}")
        return scales, None
    phi = _numbers(fractions, "fractions", 1)
    if given is None:
        raise BadParameter("fractions belong to blocks: pass scales of shape (clusters, B) as well")
    scales = _numbers(given, "scales", 2)
    if scales.shape != (clusters, phi.size):
        raise ShapeMismatch(
            f"scales has shape {scales.shape}, expected ({clusters}, {phi.size}) like means and "
            "fractions"
        )
    if np.any(scales < 0.0) or not np.all(scales.any(axis=1)):
        raise BadParameter(
            "scales are variances: they must not be negative, nor zero in all blocks of a "
            f"cluster, got {scales.tolist()}"
        )
    return scales, Spectrum(scales.mean(axis=0), phi).fractions


def _labels(
    given: Sequence[float | sp.Expr],
    clusters: int,
    canonical: tuple[sp.Symbol, ...],
    fields: sp.Symbol | Sequence[sp.Symbol],
) -> tuple[sp.Expr, ...]:
    """Labels in the canonical symbols of the fields."""
    own = distinct_fields(fields) if not (isinstance(fields, tuple) and not fields) else ()
    if own and len(own) != len(canonical):
        raise BadParameter(f"fields must be {len(canonical)} symbols, one per row, got {fields!r}")
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
                f"label {label} contains {clash[0]}; declare the fields of labels with fields=[...]"
            )
    return tuple(canonical_target(y, own, constant=True) for y in labels)
