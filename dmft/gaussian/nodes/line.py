"""Rules on a line: Gauss, Kronrod and Chebyshev nodes, panels, Hermite polynomials at nodes."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from dmft.arrays import Array

# Where half-range rules end: polynomials of degree 2 * 48 reach far.
FARTHEST_HALF = 18.0


@lru_cache(maxsize=64)
def legendre(size: int) -> tuple[Array, Array]:
    """Gauss-Legendre nodes and weights on [-1, 1]."""
    return np.polynomial.legendre.leggauss(size)


def panels(edges: Array, size: int) -> tuple[Array, Array]:
    """Gauss-Legendre nodes and weights on all panels between edges."""
    x, w = legendre(size)
    centre, half = 0.5 * (edges[1:] + edges[:-1]), 0.5 * np.diff(edges)
    return (centre[:, None] + half[:, None] * x).ravel(), (half[:, None] * w).ravel()


def gauss_rule(t: Array, w: Array, size: int) -> tuple[Array, Array]:
    """Gauss rule of a measure that a fine rule (t, w) resolves, by the Stieltjes procedure."""
    diagonal, squares = np.zeros(size), np.zeros(size)
    last, this = np.zeros(len(t)), np.ones(len(t)) / np.sqrt(w.sum())
    for k in range(size):
        diagonal[k] = (w * this) @ (t * this)
        ahead = (t - diagonal[k]) * this - (squares[k] * last if k else 0.0)
        if k + 1 < size:
            squares[k + 1] = np.sqrt(w @ ahead**2)
            last, this = this, ahead / squares[k + 1]
    jacobi = np.diag(diagonal) + np.diag(squares[1:], 1) + np.diag(squares[1:], -1)
    nodes, vectors = np.linalg.eigh(jacobi)
    return nodes, w.sum() * vectors[0] ** 2


@lru_cache(maxsize=16)
def half_range(points: int) -> tuple[Array, Array]:
    """Gauss rule of |z|, z ~ N(0, 1): nodes and weights, which add up to one."""
    x, v = legendre(600)
    x = 0.5 * FARTHEST_HALF * (x + 1.0)
    v = v * np.exp(-0.5 * x**2)
    return gauss_rule(x, v / v.sum(), points)


@lru_cache(maxsize=16)
def chebyshev(size: int) -> tuple[Array, Array]:
    """Chebyshev nodes on [-1, 1], and the matrix from values there to coefficients."""
    angles = np.pi * (np.arange(size) + 0.5) / size
    matrix = 2.0 / size * np.cos(np.outer(np.arange(size), angles))
    matrix[0] /= 2.0
    return np.cos(angles), matrix


def hermite_rows(nodes: Array, first: Array, order: int) -> Array:
    """He_k(z) / sqrt(k!) times a first row, (order + 1, n)."""
    rows = np.empty((order + 1, nodes.size))
    rows[0] = first
    if order:
        rows[1] = nodes * first
    for k in range(1, order):
        rows[k + 1] = (nodes * rows[k] - np.sqrt(k) * rows[k - 1]) / np.sqrt(k + 1)
    return rows


@lru_cache(maxsize=1)
def kronrod() -> tuple[Array, Array, Array]:
    """Kronrod nodes (21,) on [-1, 1], their weights, and the Gauss weights (0 at new nodes)."""
    size = 10
    legendre = np.polynomial.legendre
    t, w = legendre.leggauss(4 * size)
    table = legendre.legvander(t, size + 1)
    # The Stieltjes polynomial is orthogonal to P_10 times everything of lower degree.
    odd = np.arange(1, size + 1, 2)
    weighted = (w * table[:, size])[:, None]
    matrix = np.array(
        [[np.sum(weighted[:, 0] * table[:, k] * table[:, j]) for j in odd] for k in odd]
    )
    right = -np.array([np.sum(weighted[:, 0] * table[:, k] * table[:, size + 1]) for k in odd])
    coefficients = np.zeros(size + 2)
    coefficients[odd], coefficients[size + 1] = np.linalg.solve(matrix, right), 1.0
    gauss, gauss_weights = legendre.leggauss(size)
    nodes = np.sort(np.concatenate([gauss, np.real(legendre.legroots(coefficients))]))
    nodes = (nodes - nodes[::-1]) / 2
    moments = np.zeros(len(nodes))
    moments[0] = 2.0
    weights = np.linalg.solve(legendre.legvander(nodes, len(nodes) - 1).T, moments)
    lower = np.zeros(len(nodes))
    lower[1::2] = gauss_weights
    return nodes, (weights + weights[::-1]) / 2, lower
