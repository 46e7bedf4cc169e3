"""Weak recovery of labels against sums on grids, which use nothing of the library."""

import numpy as np
import pytest
import sympy as sp

import dmft
from dmft.gaussian.channels.declared import label_of
from dmft.workflow.static.staircase import staircase
from dmft.workflow.static.thresholds import weak_recovery_of

z = sp.Symbol("z", real=True)
FIELDS = z1, z2, z3 = sp.symbols("z1 z2 z3", real=True)


def fields_of(width, cells, ends=7.0):
    """Midpoints of cells, so that jumps at multiples of a cell are between them, and weights."""
    x = (np.arange(cells) + 0.5) * (2 * ends / cells) - ends
    weight = np.exp(-x * x / 2)
    weight /= weight.sum()
    grid = np.stack([g.ravel() for g in np.meshgrid(*[x] * width, indexing="ij")])
    return grid, np.prod(np.meshgrid(*[weight] * width, indexing="ij"), axis=0).ravel()


def sums_by_label(y, weight, fields, is_discrete):
    """Centres of labels, and sums of 1, z_i and z_i z_j over the fields of each (labels, ...).

    Labels with a density are gathered in narrow cells, atoms have cells of their own.
    """
    if is_discrete:
        centres, place = np.unique(y, return_inverse=True)
    else:
        away = np.geomspace(1e-6, 60.0, 900)
        edges = np.concatenate([-away[::-1], away])
        place = np.searchsorted(edges, y)
        centres = np.bincount(place, weight * y, len(edges) + 1)
        mass = np.bincount(place, weight, len(edges) + 1)
        centres = centres / np.where(mass > 0, mass, 1.0)
    rows = [np.ones_like(y), *fields, *(a * b for a in fields for b in fields)]
    return centres, np.array([np.bincount(place, weight * r, len(centres)) for r in rows]).T


def noisy(centres, sums, variance):
    """The same at labels on a grid, with Gaussian noise added."""
    s = np.sqrt(variance)
    labels = np.arange(centres.min() - 7 * s, min(centres.max(), 60.0) + 7 * s, 0.1 * s)
    gap = labels[:, None] - centres
    return 0.1 * s * np.exp(-gap * gap / (2 * variance)) @ sums / np.sqrt(2 * np.pi * variance)


def threshold(sums, k):
    """1/lambda_max of E[G x G]; zero where E[z | y] does not vanish."""
    sums = sums[sums[:, 0] > 1e-14]
    mass, mean = sums[:, 0], sums[:, 1 : k + 1] / sums[:, :1]
    if (mass @ mean**2).max() > 1e-5:
        return 0.0
    g = (sums[:, k + 1 :] / sums[:, :1]).reshape(-1, k, k) - np.eye(k)
    table = np.einsum("b,bij,bkl->ikjl", mass, g, g).reshape(k * k, k * k)
    return 1 / np.linalg.eigvalsh(table).max()


# Expression, the same for arrays, cells of an axis, options, and whether labels have no density.
LABELS = {
    "interval": (sp.sign(sp.Abs(z) - 1), lambda a: np.sign(abs(a) - 1), 1400, {}, True),
    "two thresholds": (sp.sign(z - 1) + sp.sign(z + 1),
                       lambda a: np.sign(a - 1) + np.sign(a + 1), 1400, {}, True),
    "three values": (sp.sign(sp.Abs(z) - 1) + sp.sign(sp.Abs(z) - 2),
                     lambda a: np.sign(abs(a) - 1) + np.sign(abs(a) - 2), 1400, {}, True),
    "flipped interval": (sp.sign(sp.Abs(z) - 1), lambda a: np.sign(abs(a) - 1), 1400,
                         {"label_flip": 0.1}, True),
    "noisy square": (z**2, lambda a: a**2, 14000, {"label_noise": 0.5}, False),
    "noisy window": (sp.Max(sp.Abs(z), 1), lambda a: np.maximum(abs(a), 1), 14000,
                     {"label_noise": 0.3}, False),
    "disc": (sp.sign(z1**2 + z2**2 - 2), lambda a, b: np.sign(a * a + b * b - 2), 1400, {}, True),
    "flipped parity": (sp.sign(z1 * z2), lambda a, b: np.sign(a * b), 1400,
                       {"label_flip": 0.1}, True),
    "strip": (sp.sign(sp.Abs(z1 + z2) - 1), lambda a, b: np.sign(abs(a + b) - 1), 1400, {}, True),
    "gated product": (sp.Max(z1 * z2, 0), lambda a, b: np.maximum(a * b, 0), 1400, {}, False),
    "noisy product": (z1 * z2, lambda a, b: a * b, 1000, {"label_noise": 0.5}, False),
    "quadrant and size": (sp.sign(z1 * z2) + 2 * sp.sign(sp.Abs(z1) - 1),
                          lambda a, b: np.sign(a * b) + 2 * np.sign(abs(a) - 1), 1400, {}, True),
    "two parities": (sp.sign(z1 * z2) + 2 * sp.sign(z2 * z3),
                     lambda a, b, c: np.sign(a * b) + 2 * np.sign(b * c), 140, {}, True),
    "noisy size and parity": (z1**2 + sp.sign(z2 * z3), lambda a, b, c: a**2 + np.sign(b * c),
                              200, {"label_noise": 0.2}, False),
}  # fmt: skip
SLOW = ("noisy size and parity",)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in LABELS]
)
def test_thresholds_agree_with_sums_on_grids(name):
    expr, function, cells, options, is_discrete = LABELS[name]
    width = function.__code__.co_argcount
    points, weight = fields_of(width, cells)
    y = function(*points)
    centres, sums = sums_by_label(y, weight, points, is_discrete)
    if "label_flip" in options:  # labels +1 and -1
        sums = (1 - options["label_flip"]) * sums + options["label_flip"] * sums[::-1]
    if "label_noise" in options:
        sums = noisy(centres, sums, options["label_noise"])
    wanted = threshold(sums / sums[:, 0].sum(), width)
    fields = [z] if width == 1 else FIELDS[:width]
    model = dmft.Model(dmft.Committee(z, 1), dmft.MultiIndex(expr, fields), **options)
    label = label_of(model, "a test")  # without the curve of fixed points that `thresholds` adds
    found = weak_recovery_of(label.channel()) if width == 1 else staircase(label).threshold
    assert float(found) == pytest.approx(wanted, rel=4e-3)
    if found.formula:
        assert float(sp.sympify(found.formula, strict=False)) == pytest.approx(wanted, rel=4e-3)
