"""Explicit curves of fixed points: shared vectors and tables of theory/static_limits 3.5."""

import json
from pathlib import Path

import numpy as np
import pytest
import sympy as sp

from dmft.gaussian.channels.channel import Channel
from dmft.gaussian.channels.curve import Curve
from dmft.gaussian.channels.priors import GAUSSIAN, GaussBernoulli, as_prior

FILE = Path(__file__).parents[1] / "reference" / "static_limits.json"
VECTORS = json.loads(FILE.read_text(encoding="utf-8"))["vectors"]
z = sp.Symbol("z", real=True)


def curve(label, prior="gaussian", **options):
    law = GaussBernoulli(prior) if isinstance(prior, float) else as_prior(prior)
    expr = sp.sympify(label, {"z": z}) if isinstance(label, str) else label
    return Curve(Channel(expr, z, prior_variance=law.second_moment, **options), law)


# Label, prior, limit alpha(1), spinodal, its q over the second moment, equal area.
TABLE = [
    ("sign(z)", "rademacher", 0.0, 1.4926318, 0.8937, 1.2446840),
    ("Abs(z)", "gaussian", 1.0, 1.1284714, 0.8466, 1.0),
    ("z", 0.1, 0.1, 0.2075591, None, 0.1),
    ("z", 0.5, 0.5, 0.6856985, None, 0.5),
    ("Max(0,z)", 0.3, 0.6, 0.814758, None, 0.6),
    ("Abs(z)", "rademacher", 0.0, 0.8661590, 0.4538, 0.0),
]


@pytest.mark.parametrize(("label", "prior", "limit", "alpha", "q", "area"), TABLE)
def test_spinodals_and_equal_areas(label, prior, limit, alpha, q, area):
    found = curve(label, prior)
    assert found.limit == pytest.approx(limit)
    assert found.highest.alpha == pytest.approx(alpha, abs=6e-7)
    assert found.equal_area == pytest.approx(area, abs=1e-6)
    if q is not None:
        assert found.highest.overlap == pytest.approx(q, abs=1e-4)


def test_monotone_curves_have_no_extremes():
    relu, sign = curve("Max(0,z)"), curve("sign(z)")
    assert relu.extremes == sign.extremes == ()
    assert (relu.limit, sign.limit) == (2.0, np.inf)
    assert curve("Abs(z)").start == pytest.approx(0.5, rel=1e-12)


def test_equal_area_is_where_free_entropies_are_equal():
    """Signs of a Rademacher teacher with noise: both states end inside the curve."""
    found = curve("sign(z)", "rademacher", flip=0.01)
    at = found.equal_area
    assert found.highest.alpha > at > 1.2
    low = next(r for r in found.roots(at) if r.stable)
    # The upper state recovers all weights: psi - q A/2 is minus the entropy of the prior.
    flips = 0.01 * np.log(0.01) + 0.99 * np.log(0.99)
    upper = -np.log(2) + at * flips
    assert found.free_entropy(at, low) == pytest.approx(upper, abs=3e-6)


FIXED = [v for v in VECTORS if v["kind"] == "fixed_point"]


@pytest.mark.parametrize("vector", FIXED, ids=lambda v: str(v["input"]))
def test_fixed_points_agree_with_vectors(vector):
    given = vector["input"]
    roots = curve(given["label"], given["prior"]).roots(given["alpha"])
    assert roots[0].stable
    assert roots[0].overlap == pytest.approx(vector["output"]["q"], rel=vector["rtol"])


@pytest.mark.slow
def test_error_of_curve_covers_its_rules():
    """m of cos(3 z) is off by 3e-7; the curve claimed 1e-7."""
    curve = Curve(Channel(sp.cos(3 * z), z), GAUSSIAN)
    for variance in (0.5, 0.2):
        rough, fine = (curve.channel.information(1 - variance, finer=f) for f in (1.0, 2.0))
        assert abs(rough / fine - 1) < curve.error < 2e-6


def test_flipped_curve_has_no_ripples():
    curve = Curve(Channel(z**2 - 1, z, flip=0.3), GAUSSIAN)
    assert len(curve.extremes) == 1
    assert curve.error < 1e-6


@pytest.mark.parametrize("label", [sp.sign(z), sp.Max(z, 0), sp.Abs(z)])
def test_labels_that_are_always_flipped_carry_all_information(label):
    """A certain flip is a known change of sign: it divided by the probability 0 of no flip."""
    kept, turned = (Channel(label, z, flip=share) for share in (0.0, 1.0))
    for q in (0.0, 0.4):
        assert turned.information(q) == pytest.approx(kept.information(q), rel=1e-9)
