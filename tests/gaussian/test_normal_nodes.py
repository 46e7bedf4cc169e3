"""Nodes of normal averages: exact moments, covered errors, refusals; sums of error functions."""

import numpy as np
import pytest
import sympy as sp
from scipy.special import erf, expit

from dmft.equations.averages.neighbour import erf_mixtures, of_neighbour
from dmft.errors import BadParameter
from dmft.gaussian.nodes.rules import lattice_rule, most_in_lattice, normal_rule, tensor_rule
from dmft.model import FIELD as z
from dmft.special.elementary import fast_erf, fast_exp, fast_tanh


def arcsine_law(root):
    """E[erf(x/sqrt 2) erf(y/sqrt 2)] of two fields with this root."""
    c = root @ root.T
    return 2 / np.pi * np.arcsin(c[0, 1] / np.sqrt((1 + c[0, 0]) * (1 + c[1, 1])))


def relu_law(root):
    """E[relu(x) relu(y)]."""
    c = root @ root.T
    size = np.sqrt(c[0, 0] * c[1, 1])
    rho = c[0, 1] / size
    return size / (2 * np.pi) * (np.sqrt(1 - rho**2) + rho * (np.pi - np.arccos(rho)))


def cubed_law(root):
    """E[x^3 y]."""
    c = root @ root.T
    return 3 * c[0, 0] * c[0, 1]


LAWS = {
    "erf": (lambda f: erf(f[0] / 2**0.5) * erf(f[1] / 2**0.5), arcsine_law),
    "relu": (lambda f: np.maximum(f[0], 0) * np.maximum(f[1], 0), relu_law),
    "cubic": (lambda f: f[0] ** 3 * f[1], cubed_law),
}


@pytest.mark.cases(2)
@pytest.mark.parametrize("name", LAWS)
@pytest.mark.parametrize("nodes", [64, 512])
def test_the_claimed_error_covers_the_true_one(name, nodes):
    """At 99 %: of 100 independent scrambles and random laws, 95 % or more must be covered."""
    integrand, law = LAWS[name]
    ratios = []
    for seed in range(100):
        root = np.random.default_rng(seed).standard_normal((2, 4)) / 2
        rule = normal_rule(4, nodes, seed=seed)
        value = rule.weight @ integrand(root @ rule.normal)
        groups = [g.weight @ integrand(root @ g.normal) for g in rule.groups]
        ratios.append(abs(value - law(root)) / rule.error(value, groups))
    assert np.mean(np.array(ratios) <= 1) >= 0.95
    assert np.median(ratios) > 0.1  # a claim that is never wrong because it is huge says nothing


def test_error_falls_faster_than_plain_monte_carlo():
    root = np.random.default_rng(5).standard_normal((2, 4)) / 2
    integrand, _ = LAWS["erf"]
    errors = []
    for nodes in (256, 4096):
        rule = normal_rule(4, nodes)
        groups = [g.weight @ integrand(root @ g.normal) for g in rule.groups]
        errors.append(rule.error(rule.weight @ integrand(root @ rule.normal), groups))
    assert errors[1] < errors[0] / 8  # sixteen times the nodes: 4 by Monte Carlo


def test_tensor_rule_is_exact_for_polynomials_and_bounds_smooth_ones():
    rule = tensor_rule(2, 12)
    x, y = rule.normal
    assert rule.weight @ (x**6 * y**4) == pytest.approx(45.0, rel=1e-13)
    softplus = np.logaddexp(0, x) * np.logaddexp(0, 0.3 * x + 0.8 * y)
    coarse = rule.groups[0]
    xc, yc = coarse.normal
    other = coarse.weight @ (np.logaddexp(0, xc) * np.logaddexp(0, 0.3 * xc + 0.8 * yc))
    fine = tensor_rule(2, 64)
    xf, yf = fine.normal
    truth = fine.weight @ (np.logaddexp(0, xf) * np.logaddexp(0, 0.3 * xf + 0.8 * yf))
    value = rule.weight @ softplus
    assert 0 < abs(value - truth) <= rule.error(value, [other])


def test_rules_repeat_and_refuse():
    first, again, other = normal_rule(3, 64), normal_rule(3, 64), normal_rule(3, 64, seed=1)
    assert np.array_equal(first.normal, again.normal)
    assert not np.array_equal(first.normal, other.normal)
    assert np.all(np.isfinite(first.normal))
    assert first.weight.sum() == pytest.approx(1.0)
    for wrong in ({"nodes": 63}, {"nodes": 0}, {"replicas": 3}, {"seed": -1}, {"nodes": True}):
        with pytest.raises(BadParameter):
            normal_rule(**{"dim": 3, "nodes": 64, **wrong})
    with pytest.raises(BadParameter):
        tensor_rule(2, 1)


@pytest.mark.parametrize(("dim", "points"), [(3, 14), (4, 12), (5, 10), (6, 9)])
def test_lattices_claim_what_they_miss_and_miss_little(dim, points):
    integrand, law = LAWS["erf"]
    for seed in range(20):
        root = np.random.default_rng(seed).standard_normal((2, dim)) / dim**0.5
        whole, half = (lattice_rule(dim, points, even) for even in (False, True))
        values = [r.weight @ integrand(root @ r.normal) for r in (whole, half)]
        claims = [
            r.error(v, [g.weight @ integrand(root @ g.normal) for g in r.groups])
            for r, v in zip((whole, half), values, strict=True)
        ]
        assert values[1] == pytest.approx(values[0], abs=1e-13)
        assert abs(values[0] - law(root)) <= claims[0] + 1e-13 < 5e-3
        assert claims[1] == pytest.approx(claims[0], abs=1e-13)
    assert lattice_rule(dim, 200).weight.size < 2**20 < lattice_rule(dim, 200).weight.size * 2
    assert half.weight.size == whole.weight.size // 2 + 1
    assert most_in_lattice(dim) >= points


@pytest.mark.parametrize(
    "activation", [sp.tanh(z), 1 / (1 + sp.exp(-3 * z)), sp.atan(z), z / sp.sqrt(1 + z**2)]
)
def test_sigmoids_have_near_sums_of_error_functions(activation):
    mixture = of_neighbour(erf_mixtures(activation))
    gap = sp.lambdify(z, mixture.expr - activation, "scipy")(np.linspace(-6, 6, 201))
    assert np.max(np.abs(gap)) < 0.02
    assert (activation != sp.tanh(z)) or np.max(np.abs(gap)) < 2e-4


def test_other_activations_have_none():
    beta = sp.Symbol("beta")
    for activation in (z**2, sp.Max(0, z), sp.sin(z), sp.log(1 + sp.exp(z)), sp.tanh(beta * z)):
        assert erf_mixtures(activation) == ()
    for activation in (sp.sign(z), sp.Heaviside(z)):
        assert erf_mixtures(activation) == ()


def test_vectorised_functions_are_those_of_libm():
    points = np.concatenate([np.linspace(-30, 30, 20_001), np.geomspace(1e-12, 700, 500)])
    exp, tanh, erf_ = (np.array([f(x) for x in points]) for f in (fast_exp, fast_tanh, fast_erf))
    np.testing.assert_allclose(exp, np.exp(points), rtol=5e-16)
    np.testing.assert_allclose(tanh, np.tanh(points), atol=4e-16, rtol=0)
    np.testing.assert_allclose(erf_, erf(points), atol=6e-16, rtol=0)
    np.testing.assert_allclose(erf_, erf(points), rtol=1e-14)
    assert fast_exp(800.0) == np.inf
    assert fast_exp(-800.0) < 1e-300
    assert all(np.isnan(f(np.nan)) for f in (fast_exp, fast_tanh, fast_erf))
    assert expit(1.0) == pytest.approx(1 / (1 + fast_exp(-1.0)), rel=1e-15)
