"""What compiled code takes of activations and clusters: functions, rows of numbers, laws."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import sympy as sp

from dmft.arrays import Array
from dmft.model import GaussianMixture, Spectrum


def cluster_rows(inputs: GaussianMixture | None, k: int, laws: Array | None) -> Array:
    """Rows [probability up to this cluster, root of its scale, mean, law of its fields]."""
    if inputs is None:
        return np.empty((0, 2 + k))
    chance, scales = np.cumsum(inputs.weights), inputs.scales
    # Variances by block are among the deviations.
    root = np.sqrt(scales) if scales.ndim == 1 else np.ones(len(scales))
    return np.column_stack([chance, root, inputs.means, *([] if laws is None else [laws])])


def deviations(inputs: GaussianMixture | None, spectrum: Spectrum | None, dim: int) -> Array:
    """Deviations of the d inputs, of clusters the mean over them and then those in each."""
    if spectrum is None:
        return np.empty(0)
    own = spectrum.deviations(dim)
    if inputs is None:
        return own
    each = np.repeat(np.sqrt(inputs.scales), spectrum.counts(dim), axis=1)
    return np.concatenate([own, each.ravel()])


def laws_at(inputs: GaussianMixture, Q: Array, M: Array, P: Array) -> Array:
    """Means of the fields in each cluster and their covariance, at overlaps by block."""
    gram = np.block([[Q, M], [M.swapaxes(-1, -2), P]])
    means = inputs.means @ gram.sum(axis=0)[Q.shape[-1] :]
    covariances = np.einsum("ze,eij->zij", inputs.scales, gram)
    return np.column_stack([means, covariances.reshape(len(means), -1)])


Compiled = Callable[..., float]


@dataclass(frozen=True)
class Activation:
    """A compiled activation with the values of its parameters.

    A function g(z1, ..., zk) of several fields takes z1 as its field; its parameters begin with
    room for z2, ..., zk.
    """

    value: Compiled
    slope: Compiled
    parameters: Array
    # Degree in the field (of several: total), or None when the activation is not a polynomial.
    degree: int | None
    expr: sp.Expr
    # Fields of a multi-index target; 0 for the activation of a committee.
    fields: int = 0
