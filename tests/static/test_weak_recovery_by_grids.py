"""Weak recovery of six labels against sums on grids, which use nothing of the library."""

import numpy as np
import pytest
import sympy as sp

import dmft
from dmft.gaussian.channels.declared import label_of
from dmft.workflow.static.thresholds import weak_recovery_of

z = sp.Symbol("z", real=True)


def midpoints(cells, ends=7.0):
    """Midpoints of cells, so that jumps at multiples of a cell are between them, and weights."""
    x = (np.arange(cells) + 0.5) * (2 * ends / cells) - ends
    weight = np.exp(-x * x / 2)
    return x, weight / weight.sum()


def fields_of(width, cells):
    x, weight = midpoints(cells)
    grid = np.stack([g.ravel() for g in np.meshgrid(*[x] * width, indexing="ij")])
    return grid, np.prod(np.meshgrid(*[weight] * width, indexing="ij"), axis=0).ravel()


def threshold(likelihood, weight, z):
    """1/lambda_max of E[G x G] from P(y | z) (labels, points); zero where E[z | y] is not."""
    joint = likelihood * weight
    mass = joint.sum(axis=1)
    joint, mass = joint[mass > 1e-12], mass[mass > 1e-12]
    mean = joint @ z.T / mass[:, None]
    if (mass @ mean**2).max() > 1e-6:
        return 0.0
    k = len(z)
    second = (joint @ (z[:, None] * z[None]).reshape(k * k, -1).T / mass[:, None]).reshape(-1, k, k)
    g = second - np.eye(k)
    table = np.einsum("b,bij,bkl->ikjl", mass, g, g).reshape(k * k, k * k)
    largest = np.linalg.eigvalsh(table).max()
    return 1 / largest if largest > 1e-8 else np.inf


def discrete(y):
    return (y == np.unique(y)[:, None]).astype(float)


def noisy(y, variance, count=300):
    """Densities on a grid of labels, times its cell."""
    s = np.sqrt(variance)
    labels = np.linspace(y.min() - 7 * s, min(y.max(), 60.0) + 7 * s, count)
    cell = labels[1] - labels[0]
    gap = labels[:, None] - y
    return cell * np.exp(-gap * gap / (2 * variance)) / np.sqrt(2 * np.pi * variance)


# Expression, the same for arrays, fields, cells, options, and the kind of the label.
LABELS = {
    "interval": (sp.sign(sp.Abs(z) - 1), lambda a: np.sign(abs(a) - 1), 1, 1400, {}),
    "two thresholds": (sp.sign(z - 1) + sp.sign(z + 1), lambda a: np.sign(a - 1) + np.sign(a + 1),
                       1, 1400, {}),
    "three values": (sp.sign(sp.Abs(z) - 1) + sp.sign(sp.Abs(z) - 2),
                     lambda a: np.sign(abs(a) - 1) + np.sign(abs(a) - 2), 1, 1400, {}),
    "flipped interval": (sp.sign(sp.Abs(z) - 1), lambda a: np.sign(abs(a) - 1), 1, 1400,
                         {"label_flip": 0.1}),
    "noisy square": (z**2, lambda a: a**2, 1, 1400, {"label_noise": 0.5}),
    "noisy window": (sp.Max(sp.Abs(z), 1), lambda a: np.maximum(abs(a), 1), 1, 1400,
                     {"label_noise": 0.3}),
}  # fmt: skip


@pytest.mark.parametrize("name", LABELS)
def test_thresholds_agree_with_sums_on_grids(name):
    expr, function, width, cells, options = LABELS[name]
    points, weight = fields_of(width, cells)
    y = function(*points)
    if "label_noise" in options:
        likelihood = noisy(y, options["label_noise"])
    else:
        flip = options.get("label_flip", 0.0)
        likelihood = (1 - flip) * discrete(y) + flip * discrete(-y)
    wanted = threshold(likelihood, weight, points)
    line = dmft.Committee(z, 1)
    model = dmft.Model(line, dmft.MultiIndex(expr, [z]), **options)
    # Without the curve of fixed points that `thresholds` adds.
    found = weak_recovery_of(label_of(model, "a test").channel())
    assert float(found) == pytest.approx(wanted, rel=4e-3)
