"""All published numbers of the two-token attention, to the digits given there."""

import json
from pathlib import Path

import numpy as np
import pytest

from dmft.literature import (
    positional_semantic_boundaries,
    positional_semantic_points,
    positional_semantic_risk,
)
from dmft.literature.two_token_curves import curves, invert
from dmft.literature.two_token_tables import a_of, alpha_of, circle, tables

VECTORS = json.loads((Path(__file__).parent.parent / "reference" / "two_tokens.json").read_text())


def test_losses():
    for row in VECTORS["losses"]:
        risk = positional_semantic_risk(row["a"], row["omega"])
        assert risk(row["e"], row["m"]) == pytest.approx(row["R_fast"], abs=1e-14)


def test_circle():
    k, t = circle(), tables()
    for row in VECTORS["circle_functions"]:
        y = row["y"]
        for ours, theirs in ((t.V(y), "V"), (t.M(y), "M"), (t.V(y, 1), "Vy"), (t.M(y, 1), "My")):
            assert ours == pytest.approx(row[theirs], abs=3e-13)
        # Their series ends at order 140: at m = 1 (y = 0) its own error is 1e-11 in C and 2e-9 in
        # C_y, where ours is the mean square and the integral of test_two_token_loss.py.
        assert k.C(y) == pytest.approx(row["C"], abs=1e-14 if y > 0 else 1e-11)
        assert k.C(y, 1) == pytest.approx(row["Cy"], abs=1e-12 if y > 0 else 2e-9)


def test_curves():
    names = {"glob": "equal", "sem": "semantic", "pos": "positional", "dir": "direction"}
    for name, row in VECTORS["curve_coeffs"].items():
        known = curves()[name]
        for part in "ABC":
            assert getattr(known, part) == pytest.approx(row[part], abs=1e-12)
    rows = VECTORS["curves"]
    found = positional_semantic_boundaries([row["a"] for row in rows])
    for name, ours in names.items():
        np.testing.assert_allclose(
            getattr(found, ours), [row[f"omega_{name}"] for row in rows], atol=1e-11
        )
    curvature = curves()["curvature"].omega(alpha_of([row["a"] for row in rows]))
    np.testing.assert_allclose(curvature, [row["omega_Ree0"] for row in rows], atol=1e-11)


def test_mixed_branch():
    rows = VECTORS["mixed_branch"]
    found = positional_semantic_boundaries([row["a"] for row in rows])
    for ours, theirs in (
        ("fold", "fold_omega"), ("coexistence", "first_order_omega"), ("middle", "omega_half"),
        ("semantic", "omega_sem"), ("positional", "omega_pos"),
    ):  # fmt: skip
        np.testing.assert_allclose(getattr(found, ours), [row[theirs] for row in rows], atol=2e-11)
    # The place of a fold is the square root of its height.
    y, _ = invert("fold", alpha_of([row["a"] for row in rows]))
    np.testing.assert_allclose(y, [row["fold_y"] for row in rows], atol=1e-7)


def test_curves_end_where_they_should():
    points = positional_semantic_points()
    ends = [points["tricritical_semantic"], points["tricritical_positional"]]
    a, omega = np.array(ends).T
    inwards = np.array([1e-7, -1e-7])
    inside = positional_semantic_boundaries(a + inwards)
    np.testing.assert_allclose(inside.fold, omega, atol=1e-6)
    assert np.isnan(positional_semantic_boundaries(a - inwards).fold).all()
    # The transition is one continuous curve, from the tip on.
    a = np.linspace(points["tip"][0] + 1e-6, 1.5, 20001)
    omega = positional_semantic_boundaries(a).transition
    assert np.isfinite(omega).all()
    assert np.abs(np.diff(omega)).max() < 1e-4
    assert a_of(alpha_of(0.9)) == pytest.approx(0.9, abs=1e-15)
