"""Order conditions of the tableaux: exact in fractions for order 5, to rounding for order 8."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from functools import cache
from itertools import combinations_with_replacement

import numpy as np
import pytest

from dmft.solvers.runge_kutta.tableau import FIVE_A, FIVE_LOW, interpolant_weights, pair_of

Tree = tuple  # a rooted tree is the sorted tuple of its branches


@cache
def trees(order: int) -> tuple[Tree, ...]:
    """All rooted trees with `order` nodes."""
    return tuple(sorted(set(_forests(order - 1, order - 1))))


def _forests(nodes: int, largest: int) -> Iterator[Tree]:
    if nodes == 0:
        yield ()
        return
    for size in range(1, min(nodes, largest) + 1):
        for many in range(1, nodes // size + 1):
            for same in combinations_with_replacement(trees(size), many):
                for rest in _forests(nodes - size * many, size - 1):
                    yield tuple(sorted(same + rest))


def size(tree: Tree) -> int:
    return 1 + sum(size(branch) for branch in tree)


def density(tree: Tree) -> int:
    return size(tree) * math.prod(density(branch) for branch in tree)


def stage_weights(tree: Tree, a: list) -> list:
    """Elementary weight of the tree at each stage."""
    out = [1] * len(a)
    for branch in tree:
        inner = stage_weights(branch, a)
        out = [
            x * sum((w * v for w, v in zip(row, inner, strict=True)), start=0 * x)
            for x, row in zip(out, a, strict=True)
        ]
    return out


def residual(tree: Tree, a: list, b: list):
    return sum(w * v for w, v in zip(b, stage_weights(tree, a), strict=True)) - Fraction(
        1, density(tree)
    )


def test_number_of_rooted_trees():
    assert [len(trees(n)) for n in range(1, 9)] == [1, 1, 2, 4, 9, 20, 48, 115]


def test_order_five_is_exact():
    a = [list(row) + [Fraction(0)] * (7 - len(row)) for row in FIVE_A]
    high, low = a[6], list(FIVE_LOW)
    for n in range(1, 6):
        assert all(residual(tree, a, high) == 0 for tree in trees(n))
    assert any(residual(tree, a, high) != 0 for tree in trees(6))
    for n in range(1, 5):
        assert all(residual(tree, a, low) == 0 for tree in trees(n))
    assert any(residual(tree, a, low) != 0 for tree in trees(5))


def test_order_eight_holds_to_rounding():
    tableau = pair_of("rk8")
    a, b = tableau.a.tolist(), tableau.a[12].tolist()
    for n in range(1, 9):
        assert max(abs(float(residual(tree, a, b))) for tree in trees(n)) < 1e-14
    assert max(abs(float(residual(tree, a, b))) for tree in trees(9)) > 1e-8
    assert np.abs(tableau.a.sum(axis=1) - tableau.c).max() < 2e-15


@pytest.mark.parametrize("method", ["rk5", "rk8"])
def test_interpolant_meets_both_ends(method):
    tableau = pair_of(method)
    value = tableau.dense[0]
    slope_start = tableau.dense[0] + tableau.dense[1]
    slope_end = tableau.dense[0] - tableau.dense[1] - tableau.dense[2]
    first, last = np.eye(tableau.total)[[0, tableau.stages - 1]]
    np.testing.assert_allclose(value, tableau.a[tableau.stages - 1], atol=1e-15)
    np.testing.assert_allclose(slope_start, first, atol=1e-14)
    np.testing.assert_allclose(slope_end, last, atol=1e-14)


@pytest.mark.parametrize(("method", "order"), [("rk5", 4), ("rk8", 7)])
def test_order_of_the_interpolant_and_of_its_defect(method, order):
    """Both at every point: y(theta) to this order, and so does the slope there, less u'(theta)."""
    tableau = pair_of(method)
    a = tableau.a.tolist()
    for theta in (0.1, 0.37, 0.55, 0.7, 0.93):
        value, slope = interpolant_weights(tableau.dense, theta)
        for n in range(1, order + 1):
            for tree in trees(n):
                at_stages = np.array(stage_weights(tree, a), dtype=float)
                exact = theta**n / density(tree)
                assert abs(float(value @ at_stages) - exact) < 1e-13
                assert abs(float(slope @ at_stages) - n * exact / theta) < 1e-12
    for n in range(1, order + 1):
        for tree in trees(n):
            at_stages = np.array(stage_weights(tree, a), dtype=float)
            assert abs(float(tableau.defect @ at_stages)) < 1e-13
    next_order = [np.array(stage_weights(tree, a), dtype=float) for tree in trees(order + 1)]
    assert max(abs(float(tableau.defect @ row)) for row in next_order) > 1e-6
