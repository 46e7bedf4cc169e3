"""Declaration of inputs x ~ N(0, Sigma): the spectrum of Sigma by blocks of equal eigenvalues."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmft.arrays import Array
from dmft.errors import BadParameter, ShapeMismatch
from dmft.initial_conditions import Overlaps
from dmft.record import Record
from dmft.validation import as_count, as_positive, check_covariance, check_shape, checked

# Fractions that a user rounds may miss one by this much.
SUM_TOLERANCE = 1e-9
# Power laws: eigenvalues that are blocks of their own, and the most nodes in log i of the others.
FIRST, LOGARITHMIC = 128, 64
# Eigenvalues below this part of the largest count as zero: those of a rank-deficient sample.
RANK = 1e-12


@checked
@dataclass(frozen=True, eq=False, init=False)
class Spectrum(Record):
    r"""Inputs x ~ N(0, Sigma), declared by blocks of equal eigenvalues of Sigma.

    Block e contains a fraction phi_e of the d coordinates in the eigenbasis, with variance c_e.
    Overlaps have a leading axis of blocks: Q_e, M_e and P_e are the scalar products of the rows
    restricted to block e, divided by d. The covariances of the fields are Q = sum_e c_e Q_e,
    M = sum_e c_e M_e and P = sum_e c_e P_e.

    Parameters
    ----------
    eigenvalues : (B,)
        Eigenvalues c_e >= 0.
    fractions : (B,)
        Fractions phi_e >= 0, which add up to one. A fraction of 0 declares an eigenvalue of
        multiplicity one.
    noise : (B,), optional
        Noise factors nu_e of the steps, by default c_e phi_e (SGD).
    teacher : (B, k, k), optional
        Overlaps of the teacher in each block, if they are known.
    dim : int, optional
        Dimension d of a finite spectrum.
    scaled : bool
        Whether eigenvalues and noise already include the preconditioning of the steps, as for
        `preconditioned`.

    Attributes
    ----------
    law : (float, float) or None
        Capacity and source of a spectrum from `power_law`.

    Raises
    ------
    BadParameter, ShapeMismatch

    Notes
    -----
    Source      theory/structured_inputs (1)-(3), (9), 1.2

    Examples
    --------
    >>> import dmft
    >>> two = dmft.Spectrum([2.0, 0.5], [0.3, 0.7])
    >>> two.blocks, round(two.mean, 12)
    (2, 0.95)
    """

    eigenvalues: Array
    fractions: Array
    noise: Array
    teacher: Array | None
    dim: int | None
    law: tuple[float, float] | None = field(default=None, init=False, compare=False)
    scaled: bool = False

    def __init__(
        self,
        eigenvalues: ArrayLike,
        fractions: ArrayLike,
        *,
        noise: ArrayLike | None = None,
        teacher: ArrayLike | None = None,
        dim: int | None = None,
        scaled: bool = False,
    ) -> None:
        shape = np.shape(eigenvalues)
        if len(shape) != 1 or not shape[0]:
            raise ShapeMismatch(f"eigenvalues has shape {shape}, expected (B,)")
        c = _nonnegative(eigenvalues, "eigenvalues", shape)
        phi = _nonnegative(fractions, "fractions", shape)
        if abs(phi.sum() - 1.0) > SUM_TOLERANCE:
            raise BadParameter(
                f"fractions must add up to one, got {phi.tolist()} (sum {phi.sum():g})"
            )
        if not c.max() > 0.0:
            raise BadParameter("all eigenvalues are zero: no input varies")
        own = c * phi if noise is None else _nonnegative(noise, "noise", shape)
        rows = None
        if teacher is not None:
            found = check_shape(teacher, "teacher", np.shape(teacher))
            if found.ndim != 3 or found.shape[0] != shape[0]:
                raise ShapeMismatch(f"teacher has shape {found.shape}, expected ({shape[0]}, k, k)")
            rows = np.array([check_covariance(P, f"teacher[{e}]") for e, P in enumerate(found)])
        size = None if dim is None else as_count(dim, "dim")
        for name, value in zip(
            ("eigenvalues", "fractions", "noise", "teacher", "dim", "scaled"),
            (c, phi, own, rows, size, scaled),
            strict=True,
        ):
            if isinstance(value, np.ndarray):
                value.setflags(write=False)
            object.__setattr__(self, name, value)
        object.__setattr__(self, "law", None)

    @property
    def blocks(self) -> int:
        """Number B of blocks."""
        return self.eigenvalues.size

    @property
    def mean(self) -> float:
        """Mean eigenvalue tr Sigma / d = sum_e c_e phi_e."""
        return float(self.eigenvalues @ self.fractions)

    @property
    def intrinsic_dim(self) -> float:
        """Intrinsic dimension tr Sigma / |Sigma| of a finite spectrum; infinite if d is infinite.

        The means of overlaps deviate from their limits by terms of the order of its inverse, and
        single runs fluctuate by its inverse square root.
        """
        if self.dim is None:
            return math.inf
        return self.dim * self.mean / float(self.eigenvalues.max())

    @property
    def inverse_counts(self) -> Array:
        """Inverse of the number of coordinates in each block: 0 if this number grows with d, and 1
        for an eigenvalue of multiplicity one.
        """
        if self.dim is None:
            return np.where(self.fractions == 0.0, 1.0, 0.0)
        return 1.0 / np.maximum(self.fractions * self.dim, 1.0)

    def counts(self, dim: int) -> NDArray[np.int64]:
        """Return the number of coordinates in each block for the input dimension `dim`.

        Parameters
        ----------
        dim : int
            Input dimension d.

        Returns
        -------
        (B,) ndarray of int
            Numbers rounded from `fractions` times d, which add up to d.

        Examples
        --------
        >>> import dmft
        >>> two = dmft.Spectrum([2.0, 0.5], [0.3, 0.7])
        >>> two.counts(10).tolist()
        [3, 7]
        """
        exact = self.fractions * dim
        found = np.floor(exact).astype(np.int64)
        behind = np.argsort(found - exact, kind="stable")[: dim - found.sum()]
        found[behind] += 1
        return found

    def deviations(self, dim: int) -> Array:
        """Standard deviations of the coordinates of inputs in R^dim, ordered by block, (dim,)."""
        return np.repeat(np.sqrt(self.eigenvalues), self.counts(dim))

    def teacher_blocks(self, k: int) -> Array:
        """Overlaps (B, k, k) of a teacher of width k: `teacher` if it is known.

        Otherwise the overlaps of rows that are spread evenly over all coordinates.
        """
        if self.teacher is None:
            return self.fractions[:, None, None] * np.eye(k)
        if self.teacher.shape[1] != k:
            raise ShapeMismatch(
                f"the spectrum has a teacher of width {self.teacher.shape[1]}, the model has {k}"
            )
        return self.teacher

    def seen(self, start: Overlaps) -> Overlaps:
        """Covariances of the fields: sums over blocks of eigenvalue times overlap by block."""
        if np.shape(start.Q)[:-2] != (self.blocks,):
            raise ShapeMismatch(f"Q has shape {np.shape(start.Q)}, expected ({self.blocks}, p, p)")
        found = {n: np.einsum("e,eij->ij", self.eigenvalues, getattr(start, n)) for n in "QMP"}
        return Overlaps(**found, readout=start.readout)

    def _key(self) -> tuple[object, ...]:
        arrays = (self.eigenvalues, self.fractions, self.noise, self.teacher)
        return tuple(None if a is None else a.tobytes() for a in arrays), self.dim, self.scaled

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(self._key())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Spectrum) and self._key() == other._key()

    def _in_full(self) -> str:
        teacher = None if self.teacher is None else self.teacher.tolist()
        arrays = self.eigenvalues.tolist(), self.fractions.tolist(), self.noise.tolist(), teacher
        return f"Spectrum({', '.join(map(str, arrays))}, dim={self.dim}, scaled={self.scaled})"

    def __str__(self) -> str:
        return repr(self)

    def __repr__(self) -> str:
        if self.blocks > 4:
            low, high = self.eigenvalues.min(), self.eigenvalues.max()
            text = f"{self.blocks} blocks, eigenvalues {low:.3g} to {high:.3g}"
            return f"Spectrum({text}, mean {self.mean:.3g})"
        return f"Spectrum({self.eigenvalues.tolist()}, {self.fractions.tolist()})"

    # Constructors ---------------------------------------------------------------------------

    @classmethod
    def power_law(cls, capacity: float, source: float, dim: int) -> Self:
        r"""Power-law spectrum c_i = i^-alpha, with the teacher c_i P_i = i^-(1 + 2 r alpha).

        Equation    |Sigma^(1/2 - r) w*| is finite for r up to the source; risk ~ t^(-2 r)
        Scaling     c_i are variances of the coordinates of x, not divided by d: learning_rate = eta
                    d takes steps of the size eta
        Source      theory/structured_inputs 1.2, 1.5

        Parameters
        ----------
        capacity : float
            Exponent alpha > 0.
        source : float
            Exponent r of the teacher.
        dim : int
            Dimension d. Up to d = 192 every eigenvalue is a block. For larger d the first 128
            eigenvalues are blocks, and the others are represented by at most 64 nodes in log i,
            with at least one coordinate each.

        Returns
        -------
        Spectrum
            With `dim` and `teacher` (B, 1, 1).

        Examples
        --------
        >>> import dmft
        >>> tail = dmft.Spectrum.power_law(1.5, 0.2, 10**6)
        >>> tail.eigenvalues[:2].round(4).tolist(), round(tail.intrinsic_dim, 3)
        ([1.0, 0.3536], 2.61)
        """
        capacity = as_positive(capacity, "capacity")
        if not math.isfinite(source):
            raise BadParameter(f"source must be finite, got {source!r}")
        size = as_count(dim, "dim")
        ranks, counts = _ranks(size)
        total = counts.sum()
        rows = counts * ranks ** (capacity - 1.0 - 2.0 * source * capacity)
        found = cls(ranks**-capacity, counts / total, teacher=rows[:, None, None], dim=size)
        object.__setattr__(found, "law", (capacity, float(source)))
        return found

    @classmethod
    def marchenko_pastur(cls, ratio: float, nodes: int = 16) -> Self:
        r"""Marchenko-Pastur spectrum of a sample covariance, represented by Gauss nodes.

        Equation    density sqrt((c+ - c)(c - c-)) / (2 pi ratio c), c+- = (1 +- sqrt(ratio))^2, and
                    the mass 1 - 1/ratio at zero if ratio > 1; the mean is 1
        Valid for   overlaps that are smooth functions of c: errors decay geometrically in `nodes`
        Source      theory/structured_inputs 1.2

        Parameters
        ----------
        ratio : float
            Ratio d / n of the sample, positive.
        nodes : int

        Returns
        -------
        Spectrum

        Examples
        --------
        >>> import dmft
        >>> law = dmft.Spectrum.marchenko_pastur(0.5)
        >>> round(float(law.fractions @ law.eigenvalues**2), 12)
        1.5
        """
        ratio = as_positive(ratio, "ratio")
        count = as_count(nodes, "nodes")
        inner = min(ratio, 1.0 / ratio)
        # Its orthogonal polynomials have constant recurrences but for the first.
        diagonal = np.full(count, 1.0 + inner)
        diagonal[0] = 1.0
        side = np.full(count - 1, math.sqrt(inner))
        values, vectors = np.linalg.eigh(np.diag(diagonal) + np.diag(side, 1) + np.diag(side, -1))
        values, weights = np.maximum(values, 0.0), vectors[0] ** 2
        if ratio > 1.0:
            values = np.append(values * ratio, 0.0)
            weights = np.append(weights / ratio, 1.0 - 1.0 / ratio)
        return cls(values, weights / weights.sum())

    @classmethod
    def from_data(cls, X: ArrayLike, y: ArrayLike | None = None, bins: int = 40) -> Self:
        r"""Spectrum of data, with the linear part of the labels as teacher.

        The eigenvalues of the covariance of the rows of X (after subtracting the mean) are
        collected in bins of equal width in log c. The eigenvalue of a bin is an average that
        preserves the teacher's variance P = sum_e c_e P_e (without labels, the trace). The error of
        a bin is of second order in its width.

        Parameters
        ----------
        X : (n, d)
        y : (n,), optional
            Labels. The teacher is w* = Sigma^+ E[x y], in the span of the data.
        bins : int

        Returns
        -------
        Spectrum
            With `dim` and, if labels are given, `teacher` (B, 1, 1).

        Raises
        ------
        BadParameter, ShapeMismatch

        Examples
        --------
        >>> import dmft, numpy as np
        >>> X = np.random.default_rng(0).normal(size=(500, 20)) * np.linspace(1, 2, 20)
        >>> law = dmft.Spectrum.from_data(X, X[:, 0], bins=5)
        >>> law.blocks <= 5, law.teacher.shape[1:], round(law.mean, 1)
        (True, (1, 1), 2.3)
        """
        inputs = np.asarray(X, dtype=np.float64)
        if inputs.ndim != 2 or inputs.shape[0] < 2:
            raise ShapeMismatch(f"X has shape {inputs.shape}, expected (n, d) with n >= 2")
        if not np.all(np.isfinite(inputs)):
            raise BadParameter("X contains values that are not finite")
        n, d = inputs.shape
        centred = inputs - inputs.mean(axis=0)
        values, basis = np.linalg.eigh(centred.T @ centred / n)
        values = np.where(values < RANK * values[-1], 0.0, values)
        rows = None
        if y is not None:
            labels = check_shape(y, "y", (n,))
            along = basis.T @ (centred.T @ (labels - labels.mean())) / n
            rows = np.zeros(d)
            np.divide(along, values, out=rows, where=values > 0.0)
            rows = rows**2
        return cls._binned(values, as_count(bins, "bins"), rows, None)

    @classmethod
    def preconditioned(
        cls, Sigma: ArrayLike, P: ArrayLike, N: ArrayLike | None = None, bins: int | None = None
    ) -> Self:
        r"""Spectrum for preconditioned steps P psi x, with a fixed positive matrix P and any Sigma.

        Equation    c_e = eigenvalues of P^(1/2) Sigma P^(1/2) with the projections Pi_e,
                    nu_e = tr(Pi_e P^(-1/2) N P^(-1/2)) / d
        Shapes      all matrices (d, d)
        Valid for   unchanged fields and risk; overlaps are computed from P^(-1/2) w, whose length
                    differs from |w| (no sphere)
        Source      theory/structured_inputs (21)

        Parameters
        ----------
        Sigma : (d, d)
        P : (d, d), positive definite
        N : (d, d), optional
            Covariance of the noise of a step per psi^2; by default P Sigma P, the covariance of P
            x.
        bins : int, optional
            Number of bins in log c; by default every eigenvalue is a block.

        Returns
        -------
        Spectrum

        Examples
        --------
        >>> import dmft, numpy as np
        >>> Sigma = np.diag([4.0, 1.0])
        >>> dmft.Spectrum.preconditioned(Sigma, np.diag([0.25, 1.0])).eigenvalues.tolist()
        [1.0, 1.0]
        """
        covariance, step = check_covariance(Sigma, "Sigma"), check_covariance(P, "P")
        if covariance.shape != step.shape:
            raise ShapeMismatch(f"P has shape {step.shape}, Sigma has {covariance.shape}")
        sizes, turn = np.linalg.eigh(step)
        if not sizes[0] > 0.0:
            raise BadParameter(
                f"P must be positive definite, its lowest eigenvalue is {sizes[0]:g}"
            )
        root = turn * np.sqrt(sizes) @ turn.T
        back = turn / np.sqrt(sizes) @ turn.T
        values, basis = np.linalg.eigh(root @ covariance @ root)
        values = np.maximum(values, 0.0)
        noise = None
        if N is not None:
            own = check_covariance(N, "N")
            if own.shape != step.shape:
                raise ShapeMismatch(f"N has shape {own.shape}, Sigma has {covariance.shape}")
            noise = np.einsum("ie,ij,je->e", basis, back @ own @ back, basis) / values.size
        return cls._binned(values, bins, None, noise, scaled=True)

    @classmethod
    def under_signs(cls, Sigma: ArrayLike, bins: int | None = None) -> Self:
        r"""Spectrum for steps along the signs of the coordinates, with any covariance Sigma.

        Equation    `preconditioned` with P = sqrt(2/pi) diag(Sigma)^(-1/2) and
                    N = 2/pi arcsin of the correlations
        Valid for   `dmft.SignSGD`; signs are taken in the basis in which Sigma is given
        Source      theory/structured_inputs (21)

        Parameters
        ----------
        Sigma : (d, d)
        bins : int, optional

        Returns
        -------
        Spectrum

        Examples
        --------
        >>> import dmft, numpy as np
        >>> law = dmft.Spectrum.under_signs(np.diag([4.0, 1.0]))
        >>> law.eigenvalues.round(6).tolist(), law.noise.round(12).tolist()
        ([0.797885, 1.595769], [0.626657068658, 1.253314137316])
        """
        covariance = check_covariance(Sigma, "Sigma")
        size = np.sqrt(np.diag(covariance))
        if not size.all():
            raise BadParameter(
                f"coordinate {int(size.argmin())} of Sigma has variance 0, so its sign is 0: "
                "leave it out"
            )
        correlation = np.clip(covariance / np.outer(size, size), -1.0, 1.0)
        step = np.diag(math.sqrt(2.0 / math.pi) / size)
        return cls.preconditioned(covariance, step, 2.0 / math.pi * np.arcsin(correlation), bins)

    @classmethod
    def _binned(
        cls,
        values: Array,
        bins: int | None,
        rows: Array | None,
        noise: Array | None,
        scaled: bool = False,
    ) -> Self:
        """Blocks of the eigenvalues of a matrix: one for each, or by bins in their logarithm."""
        d = values.size
        member = np.arange(d)
        positive = values > 0.0
        if bins is not None and positive.any():
            scale = np.log(values[positive])
            span = max(float(scale.max() - scale.min()), 1e-300)
            place = np.minimum(((scale - scale.min()) / span * bins).astype(int), bins - 1)
            member = np.full(d, bins)
            member[positive] = place
        found = np.unique(member)
        weights = np.ones(d) if rows is None else rows
        c, phi, own, nu = [], [], [], []
        for block in found:
            inside = member == block
            share = weights[inside]
            mean = (
                values[inside] @ share / share.sum() if share.sum() > 0 else values[inside].mean()
            )
            c.append(mean)
            phi.append(inside.sum() / d)
            own.append(0.0 if rows is None else rows[inside].sum())
            nu.append(values[inside].sum() / d if noise is None else noise[inside].sum())
        teacher = None if rows is None else np.array(own)[:, None, None]
        kept = np.maximum(nu, 0.0)
        return cls(c, phi, noise=kept, teacher=teacher, dim=d, scaled=scaled)


def _ranks(size: int) -> tuple[Array, Array]:
    """Ranks 1 .. d by blocks, and how many coordinates each block holds: at least one."""
    if size <= FIRST + LOGARITHMIC:
        return np.arange(1.0, size + 1.0), np.ones(size)
    own = np.arange(1.0, FIRST + 1.0)
    # Sums over i > FIRST are integrals over i from FIRST + 1/2 to d + 1/2.
    low, high = math.log(FIRST + 0.5), math.log(size + 0.5)
    count, held = LOGARITHMIC + 1, np.zeros(1)
    while held.min() < 1.0:
        count -= 1
        nodes, weights = np.polynomial.legendre.leggauss(count)
        ranks = np.exp(low + (high - low) * (nodes + 1.0) / 2.0)
        held = ranks * weights * (high - low) / 2.0
    return np.concatenate([own, ranks]), np.concatenate([np.ones(FIRST), held])


def _nonnegative(given: Any, name: str, shape: tuple[int, ...]) -> Array:
    found = check_shape(given, name, shape)
    if np.any(found < 0.0):
        raise BadParameter(f"{name} must not be negative, got {found.tolist()}")
    return found
