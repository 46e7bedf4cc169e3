"""Thresholds, phases and staircases: shared vectors and the tables of theory/static_limits 3."""

import json
from pathlib import Path

import numpy as np
import pytest
import sympy as sp
from scipy.special import ndtr, xlogy

import dmft
from dmft.errors import BadParameter
from dmft.gaussian.channels.channel import Channel
from dmft.gaussian.channels.declared import label_of, signed_label
from dmft.gaussian.channels.priors import GaussBernoulli
from dmft.workflow.static.bayes import bayes_optimal, state_evolution
from dmft.workflow.static.several_fields import State, free_entropy
from dmft.workflow.static.staircase import staircase
from dmft.workflow.static.thresholds import (
    Thresholds,
    recovery_phase,
    thresholds,
    weak_recovery_of,
)

FILE = Path(__file__).parents[1] / "reference" / "static_limits.json"
VECTORS = json.loads(FILE.read_text(encoding="utf-8"))["vectors"]
z = sp.Symbol("z", real=True)
FIELDS = sp.symbols("z1 z2 z3", real=True)
Z = {"z": z, **{s.name: s for s in FIELDS}}


def model(text, width=1, **options):
    expr = sp.sympify(text, Z) if isinstance(text, str) else text
    fields = [z] if width == 1 else FIELDS[:width]
    return dmft.Model(dmft.Committee(z, 1), dmft.MultiIndex(expr, fields), **options)


def of_kind(kind):
    return [v for v in VECTORS if v["kind"] == kind]


def weak_recovery(declared):
    """Weak recovery of several fields, without the lines of fixed points that `thresholds` adds."""
    return staircase(label_of(declared, "a test")).threshold


def first_step(expr):
    """Weak recovery of a label of one field and of signs of others, and the names it learns."""
    table = signed_label(expr, FIELDS, 0.0, 0.0).around(0.0)[1]
    values, vectors = np.linalg.eigh(table)
    learned = np.diag(vectors[:, -1].reshape(3, 3)) ** 2 > 1e-9
    return 1 / values[-1], [
        z.name for z, is_learned in zip(FIELDS, learned, strict=True) if is_learned
    ]


@pytest.mark.parametrize("vector", of_kind("weak_threshold"), ids=lambda v: str(v["input"]))
def test_weak_recovery_agrees_with_vectors(vector):
    given, wanted = vector["input"], vector["output"]
    noise, expr = given.get("noise", 0), sp.sympify(given["label"], Z)
    if given["k"] == 1:  # without the curve of fixed points that `thresholds` adds
        found = weak_recovery_of(Channel(expr, z, noise))
    elif given["k"] == 3 and len(wanted) > 1:
        found, learned = first_step(expr)
        assert learned == wanted["learned"]
    else:
        found = weak_recovery(model(given["label"], given["k"], label_noise=noise))
    assert float(found) == pytest.approx(wanted["alpha_weak"], rel=vector["rtol"], abs=1e-12)
    if "second_moment" in wanted and found > 0:
        assert 1 / found == pytest.approx(wanted["second_moment"], rel=vector["rtol"])


def with_slow(vectors, labels):
    """The vectors, those of some labels slow: others fail for the same reasons."""
    return [
        pytest.param(v, marks=pytest.mark.slow if v["input"]["label"] in labels else ())
        for v in vectors
    ]


# The stage of the staircase below and the curve of |z| are the fast cases.
SLOW = ("z1**2+sign(z1*z2*z3)", "z**3-3*z")


@pytest.mark.parametrize("vector", with_slow(of_kind("threshold"), SLOW), ids=str)
def test_thresholds_agree_with_vectors(vector):
    given, wanted = vector["input"], vector["output"]
    if "alpha_23" in wanted:
        found = thresholds(model(given["label"], 3))
        first, second = found.staircase
        values = {
            "alpha_perfect_z1": first.jump,
            "q_spinodal": found.spinodals[0][1],
            "alpha_23": second.samples_per_dim,
        }
    else:
        density = given["prior"].partition("(")[2].partition(")")[0]
        prior = GaussBernoulli(float(density)) if density else given["prior"]
        found = thresholds(model(given["label"]), prior)
        values = {
            "alpha_weak": found.weak_recovery,
            "alpha_alg": found.algorithmic,
            "alpha_it": found.information_theoretic,
            "q_spinodal": found.spinodals[-1][1] if found.spinodals else None,
        }
    for name, value in wanted.items():
        assert values[name] == pytest.approx(value, rel=vector["rtol"], abs=1e-12), name


def test_staircase_stage_agrees_with_the_vector():
    (vector,) = of_kind("staircase_stage")
    signs = signed_label(sp.sympify(vector["input"]["label"], Z), FIELDS, 0.0, 0.0)
    q, wanted = vector["input"]["q11"], vector["output"]
    m = signs.channel.information(q)
    others = signs.around(q)[1].reshape(3, 3, 3, 3)[1:, 1:, 1:, 1:]
    largest = np.linalg.eigvalsh(others.reshape(4, 4)).max()
    found = {
        "m11": m,
        "E_G23_squared": largest,
        "alpha_of_q": q / (1 - q) / m,
        "alpha_23": 1 / largest,
    }
    for name, value in wanted.items():
        assert found[name] == pytest.approx(value, rel=vector["rtol"]), name


def test_large_alpha_law_of_signs():
    (vector,) = of_kind("asymptote")
    v = 1e-8
    m = Channel(sp.sign(z), z).information(1 - v, variance=v)
    c = m * np.sqrt(v)
    assert c == pytest.approx(vector["output"]["c"], rel=1e-7)
    # Corrections to c are of order V; the error is sqrt(V)/pi with V = 1/(alpha c)^2.
    assert 1 / (np.pi * c) == pytest.approx(vector["output"]["error_times_alpha"], rel=1e-7)


# The table of theory/static_limits 3.4 beyond the vectors: label, fields, noise, threshold, digits.
WEAK = [
    ("z", 1, 0, 0.0), ("Max(0,z)", 1, 0, 0.0), ("z1+z1*z2", 2, 0, 0.0),
    ("Abs(z)", 1, 0, 0.5), ("sign(Abs(z)-1)", 1, 0, 0.9249580393),
    ("Max(Abs(z),1)", 1, 0, 0.5139913951), ("Abs(z)", 1, 0.5, 1.0831018),
    ("z1*z2", 2, 0, 0.5937511), ("sign(z1*z2*z3)", 3, 0, np.inf),
]  # fmt: skip


@pytest.mark.parametrize(("text", "width", "noise", "value"), WEAK)
def test_table_of_weak_recovery(text, width, noise, value):
    declared = model(text, width, label_noise=noise)
    found = weak_recovery(declared) if width > 1 else thresholds(declared).weak_recovery
    assert float(found) == pytest.approx(value, rel=2e-7, abs=1e-12)
    assert found.proof in ("closed form", "quadrature")


@pytest.mark.slow
def test_directions_of_the_staircase():
    committee = thresholds(model("sign(z1)+sign(z2)", 2))
    np.testing.assert_allclose(committee.trivial, [[np.sqrt(0.5), np.sqrt(0.5)]], atol=1e-9)
    first, second = committee.staircase
    assert first.samples_per_dim == 0
    # Finite-size growth of the antisymmetric mode changes sign at 2.05(2).
    assert second.samples_per_dim == pytest.approx(2.05, abs=0.02)
    np.testing.assert_allclose(np.abs(second.directions), np.sqrt(0.5), atol=1e-6)
    parity = thresholds(model("sign(z1*z2)", 2))
    assert parity.weak_recovery.formula == "pi**2/4"
    assert len(parity.directions) == 2
    flipped = thresholds(model("sign(z1*z2)", 2, label_flip=0.1))
    assert flipped.weak_recovery == pytest.approx(np.pi**2 / 4 / 0.64)


def test_phases_of_phase_retrieval():
    at = {a: recovery_phase(model("Abs(z)"), a) for a in (0.3, 0.9, 1.05, 1.2)}
    assert list(at.values()) == ["impossible", "impossible", "hard", "easy"]
    assert "partial overlap" in at[0.9].message
    assert recovery_phase(model("sign(z)"), 0.1) == "easy"


def test_states_of_phase_retrieval_and_their_files(tmp_path):
    found = bayes_optimal(model("Abs(z)"), 1.05)
    assert [b.stable for b in found.branches] == [False, True, False, True]
    best = bayes_optimal(model("Abs(z)"), 1.05, start="all")
    assert (best.mmse, best.risk) == (0.0, 0.0)
    run = state_evolution(model("Abs(z)"), 1.05)
    assert run.q[-1] == pytest.approx(found.q, abs=1e-6)
    kept = thresholds(model("Abs(z)"))
    for record in (found, run, kept):
        assert dmft.load(record.save(tmp_path / "record.nc")) == record
    assert isinstance(kept, Thresholds)
    assert len(repr(kept)) <= 200


def test_curves_are_drawn(tmp_path):
    axes = dmft.plot(thresholds(model("Abs(z)")), path=tmp_path / "curve.png")
    marks = [line.get_xdata()[0] for line in axes.lines[2:5]]
    np.testing.assert_allclose(marks, [0.5, 1.0, 1.1284714], rtol=1e-6)
    # q = 0 is stable below weak recovery, and the legend covers no curve.
    np.testing.assert_allclose(axes.lines[5].get_xydata(), [[0.0, 0.0], [0.5, 0.0]], rtol=1e-6)
    box = axes.get_legend().get_window_extent()
    assert box.y1 < axes.bbox.y0
    with pytest.raises(BadParameter, match="no curve"):
        dmft.plot(thresholds(model("z1*sign(z2)", 2)))


def test_lines_are_drawn_into_other_figures():
    import matplotlib.pyplot as plt

    found = thresholds(model("Abs(z)"))
    grid = ("samples_per_dim", [0.5, 1.0, 1.5]), ("ridge", [0.1, 0.2])
    diagram = dmft.phase_diagram(lambda samples_per_dim, ridge: samples_per_dim * ridge, *grid)
    axes = dmft.plot(diagram, lines=[found, dmft.spectral(model("Abs(z)"), 1.0)])
    marks = sorted(line.get_xdata()[0] for line in axes.lines)
    np.testing.assert_allclose(marks, [0.5, 1.0, 1.1284714], rtol=1e-6)
    assert axes.get_xlabel() == r"samples per dimension $\alpha$"
    assert all(text.get_bbox_patch() is not None for text in axes.texts)  # legible on any colour
    assert "horizon" not in str(diagram)  # no point of it has one
    line = dmft.Model(dmft.Committee(z, 1), dmft.Committee(z, 1))
    run = dmft.solve(
        dmft.derive(line, dmft.SGD(0.1)), dmft.Overlaps([[1.0]], [[0.1]], [[1.0]]), 1.0
    )
    end = dmft.erm(line, "squared", 2.0, 0.5)
    overlaps, risk = dmft.plot(run, lines=end)
    assert overlaps.lines[-2].get_ydata()[0] == pytest.approx(end.M, abs=1e-6)
    assert risk.lines[-1].get_ydata()[0] == pytest.approx(end.risk, abs=1e-6)
    with pytest.raises(BadParameter, match="no axis"):
        dmft.plot(run, lines=found)
    plt.close("all")


ERRORS = [v for v in of_kind("fixed_point") if v["input"]["label"] == "sign(z)"]


@pytest.mark.parametrize("vector", ERRORS, ids=lambda v: str(v["input"]))
def test_errors_of_signs_agree_with_vectors(vector):
    given, wanted = vector["input"], vector["output"]
    found = bayes_optimal(model("sign(z)"), given["alpha"], given["prior"])
    assert found.error_rate == pytest.approx(wanted["bayes_error"], rel=vector["rtol"])
    assert found.mmse == pytest.approx(wanted["mmse"], rel=vector["rtol"])


def test_risk_is_the_hermite_series():
    """Values of theory/static_limits 1.4; the series in q^n is another computation."""
    found = bayes_optimal(model("Max(0,z)"), 1.0)
    assert found.risk == pytest.approx(0.063820, abs=5e-7)
    square = bayes_optimal(model("z**2"), 0.8)
    assert square.risk == pytest.approx(0.5 * 2 * (1 - square.q**2), rel=1e-7)


def test_risk_of_signs_of_two_fields():
    """Signs of Gaussians of covariance q have the covariance 2 asin(q)/pi."""
    from dmft.workflow.static.several_fields import claimed, noiseless, risks_of

    q = np.diag([0.6, 0.3])
    first, second = 2 / np.pi * np.arcsin([0.6, 0.3])
    for text, wanted in (
        ("sign(z1)+2*sign(z2)", (1 - first) / 2 + 2 * (1 - second)),
        ("sign(z1*z2)", (1 - first * second) / 2),
    ):
        clean = noiseless(label_of(model(text, 2), "a test"))
        found, error = claimed(risks_of, clean, q, 0.0)
        assert abs(found - wanted) < error < 1e-4 * wanted
        assert found == pytest.approx(wanted, rel=1e-5)


SIGNS = np.array([1.0, -1.0])


def plain_sums(text, q, noise, flip):
    """Risk, error rate and E log Z of one field by sums over grids of omega, z and y."""
    omega, step = np.linspace(-9, 9, 3001, retstep=True)
    outer = step * np.exp(-(omega**2) / 2) / np.sqrt(2 * np.pi)
    V, omega = 1 - q, np.sqrt(q) * omega
    if text == "sign(z)":
        p = np.array([ndtr(s * omega / np.sqrt(V)) for s in SIGNS])
        seen = (1 - flip) * p + flip * p[::-1]
        entropy = outer @ xlogy(seen, seen).sum(axis=0)
        return 2 * outer @ (p[0] * p[1]), outer @ p.min(axis=0), entropy
    g = {"abs(z)": np.abs, "z**2": np.square, "tanh(2*z)": lambda z: np.tanh(2 * z)}[text]
    z, dz = np.linspace(-8, 8, 801, retstep=True)
    inner = dz * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
    label = g(omega[:, None] + np.sqrt(V) * z)
    risk = 0.5 * outer @ (label**2 @ inner - (label @ inner) ** 2)
    dy, entropy = 0.05 * np.sqrt(noise), 0.0
    y = np.arange(-6.0, min(label.max(), 50.0) + 6.0, dy)
    for weight, values in zip(outer[::6] * 6, label[::6], strict=True):
        if weight > 1e-12:
            Z = np.exp(-((y[:, None] - values) ** 2) / (2 * noise)) @ inner
            Z /= np.sqrt(2 * np.pi * noise)
            entropy += weight * dy * xlogy(Z, Z).sum()
    return risk, None, entropy


@pytest.mark.parametrize(
    ("text", "alpha", "options"),
    [
        ("sign(z)", 1.0, {}),
        ("sign(z)", 2.0, {"label_flip": 0.1}),
        ("abs(z)", 1.5, {"label_noise": 0.3}),
        pytest.param("z**2", 1.2, {"label_noise": 0.5}, marks=pytest.mark.slow),
        pytest.param("tanh(2*z)", 2.0, {"label_noise": 0.2}, marks=pytest.mark.slow),
    ],
)
def test_errors_of_risks_and_free_entropies_cover(text, alpha, options):
    found = bayes_optimal(model(text, **options), alpha)
    noise, flip = (options.get(name, 0.0) for name in ("label_noise", "label_flip"))
    risk, rate, entropy = plain_sums(text, found.q, noise, flip)
    inner = 0.5 * (found.qhat - np.log1p(found.qhat) - found.q * found.qhat)
    # Sums over grids are exact to 1e-9 but for kinks of the label and densities that grow at zero.
    room = {"abs(z)": 1e-7, "z**2": 1e-7}.get(text, 1e-9)
    assert abs(found.risk - risk) <= found.risk_error + room
    assert abs(found.free_entropy - inner - alpha * entropy) <= found.free_entropy_error + room
    assert found.risk_error < 1e-5
    assert found.free_entropy_error < 1e-7
    if rate is None:
        assert (found.error_rate, found.error_rate_error) == (None, 0.0)
    else:
        assert abs(found.error_rate - rate) <= found.error_rate_error + 1e-6 < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("flip", [0.0, 0.1])
def test_errors_of_two_fields_cover(flip):
    """z1 and z2 given omega are independent at a diagonal q: sums over two grids."""
    found = bayes_optimal(model("sign(z1*z2)", 2, label_flip=flip), 3.0, start="informed")
    q = np.diag(found.q)
    assert abs(found.q[0, 1]) < 1e-3
    t, step = np.linspace(-8, 8, 801, retstep=True)
    weight = step * np.exp(-(t**2) / 2) / np.sqrt(2 * np.pi)
    one, two = (ndtr(np.sqrt(a / (1 - a)) * t) for a in q)
    p = np.outer(one, two) + np.outer(1 - one, 1 - two)
    rate = weight @ np.minimum(p, 1 - p) @ weight
    seen = (1 - flip) * p + flip * (1 - p)
    entropy = weight @ (xlogy(seen, seen) + xlogy(1 - seen, 1 - seen)) @ weight
    inner = 0.5 * (np.trace(found.qhat) - np.linalg.slogdet(np.eye(2) + found.qhat)[1])
    inner -= 0.5 * np.trace(found.q @ found.qhat)
    assert abs(found.risk - weight @ (2 * p * (1 - p)) @ weight) < found.risk_error < 1e-3
    assert abs(found.error_rate - rate) < found.error_rate_error < 1e-3
    assert abs(found.free_entropy - inner - 3 * entropy) < found.free_entropy_error < 2e-3


@pytest.mark.parametrize("vector", with_slow(of_kind("fixed_point_k2"), ("z1*z2",)), ids=str)
def test_fixed_points_of_two_fields_agree_with_vectors(vector):
    from dmft.workflow.static.several_fields import NUDGE, fixed_point, several_of

    given = vector["input"]
    channel = several_of(label_of(model(given["label"], 2), "a test"))
    found = fixed_point(channel, given["alpha"], NUDGE * np.eye(2))
    np.testing.assert_allclose(found.overlap, vector["output"]["q"], rtol=vector["rtol"], atol=1e-3)
    assert found.stable


REFUSED = [
    (dmft.Model(dmft.Committee(z, 1), dmft.MultiIndex(sp.Symbol("a") * z, [z])), "has no value"),
    (dmft.Model(dmft.Committee(z, 1), dmft.Committee(z, 1),
                inputs=dmft.Spectrum([1, 2], [0.5, 0.5])), "inputs"),
    (dmft.Model(dmft.Committee(z, 1), dmft.Committee(z, sp.Symbol("k"))), "numeric teacher width"),
]  # fmt: skip


@pytest.mark.parametrize(("declared", "words"), REFUSED)
def test_other_models_are_refused(declared, words):
    with pytest.raises(BadParameter, match=words):
        thresholds(declared)


def test_other_arguments_are_refused():
    with pytest.raises(BadParameter, match="samples_per_dim"):
        bayes_optimal(model("z"), -1.0)
    with pytest.raises(BadParameter, match="start must be one of"):
        bayes_optimal(model("z"), 1.0, start="cold")
    with pytest.raises(BadParameter, match="recovered exactly before others"):
        recovery_phase(model("z1*sign(z2)", 2), 1.0)
    with pytest.raises(BadParameter, match="several fields"):
        bayes_optimal(model("z1*z2", 2), 1.0, "rademacher")
    with pytest.raises(BadParameter, match="piecewise polynomial"):
        thresholds(model("tanh(z1)+tanh(z2)", 2))


def test_claims_of_weak_recovery_cover_exact_values():
    """G = (y/2 - 1) I for y = z1^2 + z2^2, an exponential of mean 2; one field has 1/2 exactly."""
    a, b = FIELDS[:2]
    found = weak_recovery(model(a**2 + b**2, 2))
    assert abs(found - 1.0) < found.error < 1e-9
    # Independent of the fields: E[E[a^2 - 1 | y]^2] of y = |a| - |b|, by sums on a fine grid.
    t, w = np.polynomial.legendre.leggauss(600)
    y, weight = np.concatenate([6 * t - 6, 6 * t + 6]), np.concatenate([6 * w, 6 * w])
    s = (6 * (1 + t))[:, None]
    first, second = np.maximum(y, 0) + s, np.maximum(-y, 0) + s
    law = np.exp(-(first**2 + second**2) / 2) * 2 / np.pi
    mass = 6 * w @ law
    informed = weight @ ((6 * w @ (law * (first**2 - 1))) ** 2 / mass)
    found = weak_recovery(model(sp.Abs(a) - sp.Abs(b), 2))
    assert abs(found * informed - 1) < 1e-11


@pytest.mark.slow  # fast: the claims above
def test_irrational_coefficients_and_rotations():
    """z1^2 + z1 z2 = (c1^2 - ratio c2^2) (1 + sqrt 2)/2 in rotated fields: one threshold."""
    a, b = FIELDS[:2]
    ratio = (sp.sqrt(2) - 1) / (sp.sqrt(2) + 1)
    turned, straight = (weak_recovery(model(e, 2)) for e in (a**2 + a * b, a**2 - ratio * b**2))
    assert turned == pytest.approx(straight, rel=1e-6)
    told = dmft.sample_complexity(model(a**2 + a * b, 2))  # its lines have no spinodal at small q
    assert "0.507647" in str(told)


def test_free_entropy_of_a_gaussian_prior_is_its_integral():
    """log of the integral over w, averaged over w* and noise on nodes; entries add up."""
    x, weight = np.polynomial.hermite_e.hermegauss(30)
    weight /= weight.sum()
    w = np.linspace(-25, 25, 2001)
    prior = np.exp(-w * w / 2) * (w[1] - w[0]) / np.sqrt(2 * np.pi)
    precision, overlap, wanted = np.diag([0.7, 2.5]), np.diag([0.4, 0.8]), 1.5 * -0.2
    for hat, q in zip(precision.diagonal(), overlap.diagonal(), strict=True):
        field = hat * x[:, None] + np.sqrt(hat) * x  # of w* and of the noise
        inside = np.exp(field[..., None] * w - hat * w * w / 2) @ prior
        wanted += weight @ np.log(inside) @ weight - q * hat / 2
    state = State(overlap, precision, 0.0, -0.2, True)
    assert free_entropy(state, 1.5) == pytest.approx(wanted, rel=1e-6)
