"""Empirical risk minimisation: shared vectors, closed forms, optimisation by SciPy."""

import json
import math
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import sympy as sp
from scipy.integrate import quad
from scipy.optimize import minimize
from scipy.stats import norm

import dmft
from dmft.gaussian.channels.declared import label_of
from dmft.model.loss import as_loss
from dmft.workflow.static.proximal import Proximal
from dmft.workflow.static.replica import LabelNodes

z, f, y = sp.symbols("z f y", real=True)
LINE = dmft.Committee(z, 1)
SIGN = dmft.Model(LINE, dmft.MultiIndex(sp.sign(z), [z]))
LOGIT = dmft.Model(LINE, dmft.MultiIndex(z, [z]), label_channel=1 / (1 + sp.exp(-2 * f)))
PROBIT = dmft.Model(LINE, dmft.MultiIndex(z, [z]), label_channel=(1 + sp.erf(sp.sqrt(2) * f)) / 2)
NOISY = dmft.Model(LINE, LINE, label_noise=1)
COIN = dmft.Model(LINE, dmft.MultiIndex(sp.sign(z), [z]), label_flip=0.5)
RELU = dmft.Model(LINE, dmft.MultiIndex(sp.Max(z, 0), [z]), label_noise=0.25)
FILE = Path(__file__).parents[1] / "reference" / "static_limits.json"
VECTORS = json.loads(FILE.read_text(encoding="utf-8"))["vectors"]
MODELS = {"sign(h)": SIGN, "logistic, slope 2": LOGIT, "h": NOISY}
LOSSES = {"square": "squared"}


def of_kind(kind):
    return [v for v in VECTORS if v["kind"] == kind]


@pytest.mark.parametrize("vector", of_kind("erm"))
def test_shared_vectors(vector):
    given, wanted = vector["input"], vector["output"]
    loss = LOSSES.get(given["loss"], given["loss"])
    found = dmft.erm(MODELS[given["label"]], loss, given["alpha"], given["ridge"])
    names = {"m": "M", "q": "Q", "V": "V", "train": "train_loss", "test_loss": "test_loss",
             "at": "stability"}  # fmt: skip
    assert found.status == "ok"
    for name, value in wanted.items():
        assert getattr(found, names[name]) == pytest.approx(value, rel=vector["rtol"]), name
        assert found.error[names[name]] < 1e-7 * abs(value)


@pytest.mark.parametrize("alpha", [1e2, pytest.param(1e6, marks=pytest.mark.slow)])
def test_hinge_loss_at_many_samples_solves_the_equations_in_the_output_alone(alpha):
    """Labels sign(u): given omega, u > 0 has a closed probability, so that one integral is left.

    From 60 samples per dimension on, panels of u were too long for the layer in which the
    proximal operator changes.
    """
    found = dmft.erm(SIGN, "hinge", samples_per_dim=alpha, ridge=0.1)
    M, Q, V = found.M, found.Q, found.V
    slope = M / np.sqrt(Q * (Q - M * M))

    def over(function):
        """E[function(omega, y = 1)] by symmetry, with u given omega normal about M omega/Q."""
        points = [0.0, 1.0 - V, 1.0]
        far = 9.0 * np.sqrt(Q)
        edges = np.unique([-far, -20.0 / slope, *points, 20.0 / slope, far])
        edges = edges[np.abs(edges) <= far]
        return 2.0 * sum(
            quad(lambda w: norm.pdf(w, scale=np.sqrt(Q)) * function(w), a, b, epsabs=1e-13)[0]
            for a, b in pairwise(edges)
        )

    def f(w):
        return np.clip((1.0 - w) / V, 0.0, 1.0)

    ff = over(lambda w: f(w) ** 2 * norm.cdf(slope * w))
    fu = over(lambda w: f(w) * (M * w / Q * norm.cdf(slope * w)
                                + np.sqrt(1.0 - M * M / Q) * norm.pdf(slope * w)))  # fmt: skip
    hat = over(lambda w: (1.0 - V < w < 1.0) / V * norm.cdf(slope * w))
    assert pytest.approx(1.0 / (0.1 + alpha * hat), rel=1e-8) == V
    assert pytest.approx(V * alpha * (fu + M * hat), rel=1e-8) == M
    assert pytest.approx(V**2 * alpha * ff, rel=1e-6) == Q - M * M
    assert found.status == "ok"


@pytest.mark.parametrize("vector", of_kind("ridge"))
def test_shared_vectors_of_ridge(vector):
    given, wanted = vector["input"], vector["output"]
    model = SIGN if given["Ey2"] == 1 else dmft.Model(LINE, LINE, label_noise=0.5)
    found = dmft.erm(model, "squared", given["alpha"], given["ridge"])
    for name, value in {"V": found.V, "m": found.M, "q": found.Q, "risk": found.test_loss}.items():
        assert value == pytest.approx(wanted[name], rel=vector["rtol"])


@pytest.mark.parametrize("vector", of_kind("separability"))
def test_shared_vectors_of_separability(vector):
    models = {"random": COIN, "logistic slope 2": LOGIT, "probit slope 2": PROBIT}
    found = dmft.separability(models[vector["input"]["label"]])
    assert found.value == pytest.approx(vector["output"]["alpha_sep"], rel=vector["rtol"])
    assert found.error < 1e-9


def test_half_spaces_are_separable():
    assert dmft.separability(SIGN).value == math.inf
    with pytest.raises(dmft.errors.BadParameter, match="labels"):
        dmft.separability(NOISY)


def test_the_squared_loss_meets_the_equations_of_any_loss():
    """(15) against (13): the same loss written so that it is not known by name."""
    half = dmft.Committee(z / 2, 1)  # f = h/2: ridge, M and Q rescale
    model = dmft.Model(half, SIGN.teacher)
    found = dmft.erm(model, "squared", 1.5, 0.4 / 4)
    known = dmft.erm(SIGN, "squared", 1.5, 0.4)
    assert (found.proof, known.proof) == ("quadrature", "closed form")
    assert pytest.approx(known.M, rel=1e-9) == found.M / 2
    assert pytest.approx(known.Q, rel=1e-9) == found.Q / 4
    assert found.risk == pytest.approx(known.risk, rel=1e-9)


def test_closed_forms_are_those_of_the_numbers():
    found = dmft.erm(RELU, "squared", 1.5, 0.1)
    assert [found.M, found.Q, found.train_loss] == pytest.approx([0.4321, 0.6868, 0.0903], abs=1e-4)
    values = {"alpha": 1.5, "lambda": 0.1, "V": found.V, **found.moments}
    for name, expr in found.formulas.items():
        number = expr.subs({s: values[s.name] for s in expr.free_symbols})
        assert float(number) == pytest.approx(getattr(found, name), rel=1e-12)


def test_without_a_ridge():
    """Limits of (15): least squares, the solution of minimum norm, the peak."""
    c, alpha = math.sqrt(2 / math.pi), 3.0
    many, few, peak = (dmft.erm(SIGN, "squared", a) for a in (alpha, 0.5, 1.0))
    assert pytest.approx([c, c**2 + (1 - c**2) / (alpha - 1)]) == [many.M, many.Q]
    near = dmft.erm(SIGN, "squared", 0.5, 1e-9)
    assert pytest.approx([near.M, near.Q, math.inf], rel=1e-7) == [few.M, few.Q, few.V]
    assert math.inf == peak.Q
    assert "peak" in peak.message
    with pytest.raises(dmft.errors.BadParameter, match="separable"):
        dmft.erm(LOGIT, "logistic", 2.0)
    with pytest.raises(dmft.errors.BadParameter, match="finite length"):
        dmft.erm(NOISY, "huber", 0.5)


@pytest.mark.parametrize("alpha", [0.5, 2.0])
def test_the_optimal_ridge_is_where_the_risk_is_least(alpha):
    best = dmft.optimal_ridge(SIGN)
    assert best.expr == sp.pi / 2 - 1
    at, above, below = (
        dmft.erm(SIGN, "squared", alpha, float(best) * factor).risk for factor in (1, 1.01, 0.99)
    )
    assert at < min(above, below)
    even = dmft.optimal_ridge(dmft.Model(LINE, dmft.MultiIndex(z**2, [z])))
    assert even.value == math.inf
    assert even.expr is sp.oo


@pytest.mark.slow  # the test below fails for the same reason
def test_the_optimal_ridge_of_logistic_loss_for_even_labels():
    even = dmft.Model(LINE, dmft.MultiIndex(z**2, [z]))
    assert dmft.optimal_ridge(even, "logistic", samples_per_dim=2.0).value == math.inf


@pytest.mark.slow
def test_optimal_ridges_at_the_ends_of_the_search():
    """Even labels are fitted best by no weights, linear labels without noise by no ridge."""
    even = dmft.Model(LINE, dmft.MultiIndex(z**2, [z]))
    assert dmft.optimal_ridge(even, samples_per_dim=2.0, minimise="risk").value == math.inf
    linear = dmft.optimal_ridge(dmft.Model(LINE, LINE, inputs=WIDE), samples_per_dim=2.0)
    assert linear.value == 0.0
    assert linear.error <= 1.001e-3


WIDE = dmft.Spectrum([2.0, 0.5, 0.1], [0.2, 0.5, 0.3])


def ridge_regression(label, noise, alpha, ridge, dim, seed):
    """Overlaps of the fields and training loss of ridge regression on inputs with a spectrum."""
    rng = np.random.default_rng([seed, 7])
    sizes = np.round(np.array([0.2, 0.5, 0.3]) * dim).astype(int)
    c, star = np.repeat([2.0, 0.5, 0.1], sizes), rng.standard_normal(dim)
    for size, end in zip(sizes, np.cumsum(sizes), strict=True):
        part = star[end - size : end]
        part *= math.sqrt(size) / np.linalg.norm(part)
    X = rng.standard_normal((int(alpha * dim), dim)) * np.sqrt(c / dim)
    y = label(X @ star) + math.sqrt(noise) * rng.standard_normal(len(X))
    w = X.T @ np.linalg.solve(X @ X.T + ridge * np.eye(len(X)), y)
    return [w @ (c * star) / dim, w @ (c * w) / dim, np.mean((X @ w - y) ** 2) / 2]


@pytest.mark.parametrize(("alpha", "ridge"), [(2.0, 0.2), (0.5, 0.0)])
@pytest.mark.parametrize("name", ["sign", "linear"])
def test_ridge_regression_of_inputs_with_a_spectrum(name, alpha, ridge):
    expr, label, noise = (sp.sign(z), np.sign, 0.0) if name == "sign" else (z, lambda h: h, 0.3)
    teacher = dmft.MultiIndex(expr, [z])
    found = dmft.erm(dmft.Model(LINE, teacher, noise, inputs=WIDE), "squared", alpha, ridge)
    runs = np.array([ridge_regression(label, noise, alpha, ridge, 200, n) for n in range(24)])
    theory = np.array([found.M, found.Q, found.train_loss])
    error = runs.std(axis=0, ddof=1) / math.sqrt(24)
    assert np.all(np.abs(runs.mean(axis=0) - theory) < 3.5 * error + 3 / 200 * theory + 1e-12)


def test_one_eigenvalue_is_a_scale():
    """Inputs of variance c: the same fields as isotropic ones with weights sqrt(c) w."""
    teacher, one = dmft.MultiIndex(sp.sign(z), [z]), dmft.Spectrum([4.0], [1.0])
    found = dmft.erm(dmft.Model(LINE, teacher, inputs=one), "squared", 1.5, 2.0)
    plain = dmft.erm(SIGN, "squared", 1.5, 0.5)
    assert pytest.approx([plain.M, plain.Q], rel=1e-13) == [found.M / 2, found.Q]
    assert [found.V, found.error_rate] == pytest.approx([plain.V, plain.error_rate], rel=1e-12)
    assert (found.label, found.formulas) == (plain.label, {})
    two = dmft.Spectrum([4.0, 4.0], [0.3, 0.7])
    split = dmft.erm(dmft.Model(LINE, teacher, inputs=two), "squared", 1.5, 2.0)
    assert pytest.approx([found.M, found.Q, found.V], rel=1e-12) == [split.M, split.Q, split.V]


def test_the_best_ridge_of_a_spectrum_is_found_and_other_losses_are_refused():
    model = dmft.Model(LINE, LINE, label_noise=0.3, inputs=WIDE)
    best = dmft.optimal_ridge(model, samples_per_dim=1.0)
    assert len(best.formula.replace(".", "").lstrip("0")) == 4  # as its error says
    assert abs(float(best.expr) - best.value) < best.error < 4e-3 * best.value
    assert float(best) == pytest.approx(0.3, rel=2e-3)  # prior and noise of a matched teacher
    with pytest.raises(dmft.errors.BadParameter, match="samples_per_dim"):
        dmft.optimal_ridge(model)
    with pytest.raises(dmft.errors.BadParameter, match="inputs"):
        dmft.erm(model, "huber", 1.0, 0.3)
    flat = dmft.Spectrum([1.0, 0.0], [0.5, 0.5], teacher=[[[0.0]], [[1.0]]])
    with pytest.raises(dmft.errors.BadParameter, match="dependent"):
        dmft.erm(dmft.Model(LINE, LINE, inputs=flat), "squared", 1.0, 0.3)
    steps = dmft.Spectrum([1.0, 2.0], [0.5, 0.5], scaled=True)
    with pytest.raises(dmft.errors.BadParameter, match="preconditioned"):
        dmft.erm(dmft.Model(LINE, LINE, inputs=steps), "squared", 1.0, 0.3)


def test_several_fields_under_the_squared_loss():
    """Only E[y h*] enters: z1 + z1 z2 is z1 with unit noise."""
    u, v = sp.symbols("u v", real=True)
    several = dmft.Model(LINE, dmft.MultiIndex(u + u * v, [u, v]))
    found, alone = (dmft.erm(m, "squared", 2.0, 0.3) for m in (several, NOISY))
    assert pytest.approx((alone.M, 0.0)) == found.M
    assert pytest.approx(alone.Q) == found.Q
    with pytest.raises(dmft.errors.BadParameter, match="2"):
        dmft.erm(several, "huber", 2.0, 0.3)


def test_non_convex_losses():
    """Square loss of an erf student (theory/static_limits 4.4), and a prox that jumps."""
    student = dmft.Committee(sp.erf(z / sp.sqrt(2)), 1)
    model = dmft.Model(student, SIGN.teacher)
    found = dmft.erm(model, "squared", 3.0, 0.3)
    numbers = [found.M, found.Q, found.train_loss, found.stability]
    assert numbers == pytest.approx([1.0415, 1.3141, 0.1026, 0.23], abs=5e-3)
    with pytest.raises(dmft.errors.BadParameter, match="jumps"):
        dmft.erm(model, "squared", 3.0, 0.1)


def test_files_and_refusals(tmp_path):
    found = dmft.erm(SIGN, "hinge", 2.0, 0.1)
    assert dmft.load(found.save(tmp_path / "erm.nc")) == found
    assert [found.M, found.Q, found.train_loss] == pytest.approx(
        [1.5993, 3.6696, 0.02146], abs=1e-4
    )
    border = dmft.separability(SIGN)
    assert dmft.load(border.save(tmp_path / "border.nc")) == border
    best = dmft.optimal_ridge(SIGN)
    assert dmft.load(best.save(tmp_path / "best.nc")) == best
    for wrong in ({"samples_per_dim": -1.0}, {"ridge": -1.0}, {"loss": "unknown"}):
        with pytest.raises(dmft.errors.BadParameter, match=next(iter(wrong))):
            dmft.erm(SIGN, **{"loss": "hinge", "samples_per_dim": 1.0, "ridge": 1.0} | wrong)
    wide = dmft.Model(dmft.Committee(z, 2), SIGN.teacher)
    with pytest.raises(dmft.errors.BadParameter, match="width 2"):
        dmft.erm(wide, "hinge", 1.0, 1.0)


# Losses in NumPy, independent of the library: value and slope by the prediction.
PLAIN = {
    "squared": (lambda h, t: (h - t) ** 2 / 2, lambda h, t: h - t),
    "logistic": (
        lambda h, t: np.logaddexp(0.0, -h * t),
        lambda h, t: -t / (1.0 + np.exp(np.clip(h * t, -700, 700))),
    ),
    "hinge": (lambda h, t: np.maximum(0.0, 1.0 - h * t), None),
    "huber": (
        lambda h, t: np.where(abs(h - t) < 1, (h - t) ** 2 / 2, abs(h - t) - 0.5),
        lambda h, t: np.clip(h - t, -1, 1),
    ),
}  # fmt: skip


def labels(name, h, rng):
    if name == "sign":
        return np.sign(h)
    if name == "logit":
        return np.where(rng.random(h.size) < 1 / (1 + np.exp(-2 * h)), 1.0, -1.0)
    if name == "relu":
        return np.maximum(h, 0.0) + 0.5 * rng.standard_normal(h.size)
    return h + rng.standard_normal(h.size)


def minimised(loss, label, alpha, ridge, dim, seed):
    """M, Q and mean loss of the minimiser of one data set, by L-BFGS or by the dual (hinge)."""
    rng = np.random.default_rng(seed)
    star = rng.standard_normal(dim)
    star *= math.sqrt(dim) / np.linalg.norm(star)
    X = rng.standard_normal((int(alpha * dim), dim)) / math.sqrt(dim)
    t = labels(label, X @ star, rng)
    value, slope = PLAIN[loss]
    if slope is None:
        K = (X * t[:, None]) @ (X * t[:, None]).T / ridge
        found = minimize(
            lambda a: (a @ K @ a / 2 - a.sum(), K @ a - 1.0), np.full(t.size, 0.5), jac=True,
            method="L-BFGS-B", bounds=[(0.0, 1.0)] * t.size,
            options={"maxiter": 5000, "ftol": 1e-13},
        )  # fmt: skip
        w = X.T @ (found.x * t) / ridge
    else:
        found = minimize(
            lambda w: (
                value(X @ w, t).sum() + ridge / 2 * w @ w, X.T @ slope(X @ w, t) + ridge * w
            ),
            np.zeros(dim), jac=True, method="L-BFGS-B", options={"maxiter": 5000, "ftol": 1e-13},
        )  # fmt: skip
        w = found.x
    return w @ star / dim, w @ w / dim, value(X @ w, t).mean()


CASES = [
    ("squared", "sign", SIGN, 2.0, 0.5), ("logistic", "sign", SIGN, 2.0, 0.1),
    ("hinge", "sign", SIGN, 2.0, 0.1), ("logistic", "logit", LOGIT, 3.0, 0.1),
    ("huber", "linear", NOISY, 2.0, 0.2), ("huber", "relu", RELU, 1.5, 0.1),
]  # fmt: skip


def agrees(case, dim, seeds):
    loss, label, model, alpha, ridge = case
    runs = np.array([minimised(loss, label, alpha, ridge, dim, s) for s in range(seeds)])
    found = dmft.erm(model, loss, alpha, ridge)
    theory = np.array([found.M, found.Q, found.train_loss])
    error = runs.std(axis=0, ddof=1) / math.sqrt(seeds)
    return np.abs(runs.mean(axis=0) - theory) / (error + 1.5 * np.abs(theory) / dim)


def test_optimisation_at_small_dimension():
    assert np.all(agrees(CASES[1], 150, 24) < 3.5)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=[f"{c[0]}/{c[1]}" for c in CASES])
def test_optimisation(case):
    assert np.all(agrees(case, 800, 8) < 3.5)


@pytest.mark.parametrize(
    "loss", [sp.Max(0, 1 - y * f), sp.Abs(y - f), sp.log(1 + sp.exp(-y * f)), (y - f) ** 2 / 2,
             sp.Max(0, 1 - y * f) ** 2, sp.Max(0.3 * (y - f), -0.7 * (y - f)) + (y - f) ** 4],
    ids=["hinge", "absolute", "logistic", "square", "squared hinge", "tilted quartic"],
)  # fmt: skip
def test_proximal_operators_are_minima_and_their_slopes_are_differences(loss):
    """p minimises l(p) + (p - omega)^2 / (2 V) on a grid; its slope in omega is a difference."""
    from dmft.model.loss import LABEL, PREDICTION
    from dmft.workflow.static.proximal import Proximal

    operator = Proximal.of(loss.subs({f: PREDICTION, y: LABEL}))
    omega = np.linspace(-3.137, 3.219, 43)
    labels = np.where(np.arange(43) % 2, 1.0, -1.0)
    grid = np.linspace(-6, 6, 240_001)
    for V in (0.4, 1.3):
        p, force, slope = operator(omega, labels, V)
        np.testing.assert_allclose(force, (p - omega) / V, atol=1e-9)
        for n in range(0, 43, 3):
            value = operator.value(grid, np.full(grid.size, labels[n]))
            best = grid[np.argmin(value + (grid - omega[n]) ** 2 / (2 * V))]
            assert p[n] == pytest.approx(best, abs=1e-4)
        up, down = (operator(omega + s, labels, V)[1] for s in (1e-6, -1e-6))
        np.testing.assert_allclose(slope, (up - down) / 2e-6, atol=2e-4)


def test_noisy_labels_have_panels_for_each_node_of_the_noise():
    """Means by Stein's identity: E z^4 = 3, E z^6 + noise = 15.5; shared panels: 77,000 nodes."""
    cube = dmft.Model(LINE, dmft.MultiIndex(z**3, [z]), label_noise=0.5)
    label, huber = label_of(cube, "erm"), Proximal.of(as_loss("huber", kept=()))
    nodes = LabelNodes.seen_by(label, 8, 0.6, 0.7, partial(huber.breaks, V=0.4))
    means = [np.sum(nodes.weight * e) for e in (1.0, nodes.y * nodes.u, nodes.y**2, nodes.clean**2)]
    assert means == pytest.approx([1.0, 3.0, 15.5, 15.0], rel=1e-3)
    assert nodes.u.size < 10_000
