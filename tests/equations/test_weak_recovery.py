"""Effective exponents and weak-recovery times: the theory's table, definitions, simulation."""

import numpy as np
import pytest
import sympy as sp

import dmft
from dmft.equations.escape.weak_recovery import SampleLaw
from dmft.errors import BadParameter
from dmft.gaussian.exponents.coefficients import Coefficient
from dmft.model import FIELD as z

ERF = sp.erf(z / sp.sqrt(2))
RELU = sp.Max(0, z)


def model_of(activation, order, noise=0):
    target = dmft.MultiIndex(sp.expand(dmft.hermite(order, z)), [z])
    return dmft.Model(dmft.Committee(activation, 1), target, noise)


def sgd_of(rho, rate=0.1):
    repeat = None
    if rho != 0:
        repeat = dmft.Lookahead(rho) if rho > 0 else dmft.SharpnessAware(-rho)
    return dmft.SGD(rate, constraint="sphere", repeat=repeat)


# theory/batch_reuse D.3: activation, rho_0, target He_k; e_1, e_2, e_3, E psi^2; samples.
TABLE = [
    ("relu", 0, 2, (0, 0.797885, 0, 1.5), "d log d"),
    ("relu", 0.1, 3, (-0.114166, 0.237651, 0.262127, 2.006513), "d"),
    ("relu", 0.1, 4, (0, 0.09956, 0, 9.00266), "d log d"),
    ("relu", -0.2, 4, (0, -1.11715, 0, 6.85073), "never"),
    ("erf", 0, 3, (0, 0, -1.692569, 2.264441), "d^2"),
    ("erf", 0.1, 3, (-0.123274, -0.224899, -0.789928, 1.4624), "d"),
    ("erf", -0.2, 4, (0, 0.378659, 0, 3.172013), "d log d"),
    ("erf", -0.2, 2, (0, 0.169088, 0, 0.668229), "d log d"),
]
SLOW = {("relu", 0.1, 4), ("relu", -0.2, 4)}


@pytest.mark.cases("('erf', 0.1, 3)", "('relu', 0, 2)")
@pytest.mark.parametrize(
    ("name", "rho", "order", "values", "samples"),
    [
        pytest.param(*row, marks=[pytest.mark.slow] if row[:3] in SLOW else [], id=str(row[:3]))
        for row in TABLE
    ],
)
def test_table_of_effective_exponents(name, rho, order, values, samples):
    activation = {"relu": RELU, "erf": ERF}[name]
    found = dmft.weak_recovery(model_of(activation, order), sgd_of(rho))
    numbers = [*(e.value for e in found.coefficients), found.square.value]
    for number, value in zip(numbers, values, strict=True):
        digits = len(str(value).split(".")[-1]) if value else 6
        assert abs(float(number) - value) < 0.6 * 10.0**-digits
    assert found.samples == samples
    first = next(k for k, value in enumerate(values[:3], start=1) if value)
    assert found.exponent == first
    assert max(e.error for e in found.coefficients) < 1e-8


def test_polynomials_of_high_degree_are_exact_on_nodes():
    """e_2 of z^8/384 is the square of E[z^8 (z^2 - 1)]/384 = (945 - 105)/384."""
    unit = dmft.Committee(z**8 / 384, 1)
    second = dmft.weak_recovery(dmft.Model(unit, unit), dmft.SGD(1e-6, constraint="sphere"))
    value, error = float(second.coefficients[1].value), second.coefficients[1].error
    assert value == pytest.approx((840 / 384) ** 2, abs=max(error, 1e-14))
    assert error < 1e-11


def test_polynomials_are_formulas():
    """The square learns He_3 by looking ahead: e_2 by Gauss-Hermite nodes of the definition."""
    rho, gamma = sp.symbols("rho_0 gamma", positive=True)
    sgd = dmft.SGD(gamma, constraint="sphere", repeat=dmft.Lookahead(rho))
    found = dmft.weak_recovery(model_of(z**2, 3), sgd)
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    h, star = np.meshgrid(nodes, nodes)
    weight = np.outer(weights, weights) / weights.sum() ** 2
    y = star**3 - 3 * star
    for value in (0.02, 0.07):
        field = h + value * 2 * h * (y - h**2)
        psi = 2 * field * (y - field**2)
        numbers = [
            (weight * psi * star).sum(),
            (weight * psi * h * (star**2 - 1)).sum(),
            (weight * psi * (h**2 - 1) * y).sum(),
        ]
        for e, number in zip(found.coefficients, numbers, strict=True):
            assert float(e.value.subs(rho, value)) == pytest.approx(number, rel=1e-10, abs=1e-9)
        square = float(found.square.value.subs(rho, value))
        assert square == pytest.approx((weight * psi**2).sum(), rel=1e-10)
    assert found.exponent == 2
    assert found.growth_rate.has(gamma, rho)
    ratio = found.optimal_learning_rate() - found.coefficients[1].value / found.square.value
    assert sp.simplify(ratio) == 0
    assert "rho_{0}" in found.latex()


@pytest.mark.parametrize(
    "repeat",
    [
        dmft.Repeat(2),
        pytest.param(dmft.SharpnessAware(0.2, normalised=True), marks=pytest.mark.slow),
        pytest.param(dmft.Lookahead(0.1), marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_coefficients_are_those_of_the_definition(repeat):
    """Monte Carlo of psi He_{k-1}(h) He_k(h*) with label noise, psi written out here."""
    model = model_of(ERF, 3, sp.Rational(1, 4) if isinstance(repeat, dmft.Lookahead) else 0)
    found = dmft.weak_recovery(model, dmft.SGD(0.3, constraint="sphere", repeat=repeat))
    from scipy.special import erf

    rng = np.random.default_rng(0)
    h, star, xi = rng.standard_normal((3, 200_000))
    y = star**3 - 3 * star + np.sqrt(float(model.label_noise)) * xi

    def psi0(field):
        slope = np.sqrt(2 / np.pi) * np.exp(-(field**2) / 2)
        return slope * (y - erf(field / np.sqrt(2)))

    first = psi0(h)
    if isinstance(repeat, dmft.Repeat):
        psi = first + psi0(h + 0.3 * first)
    elif isinstance(repeat, dmft.Lookahead):
        psi = psi0(h + 0.1 * first)
    else:
        psi = psi0(h - 0.2 * np.sign(first))
    factors = [star, h * (star**2 - 1), (h**2 - 1) * (star**3 - 3 * star)]
    wanted = [*(e.value for e in found.coefficients), found.square.value]
    for value, sample in zip(wanted, (*(psi * f for f in factors), psi**2), strict=True):
        assert abs(sample.mean() - float(value)) < 4 * sample.std() / np.sqrt(sample.size)


def test_times_of_the_theory():
    """theory/batch_reuse D.3, from m = 0: logarithms of d."""
    square = dmft.weak_recovery(model_of(RELU, 2), sgd_of(0, 0.4))
    for dim, value in ((1e3, 7.84), (1e4, 13.62), (1e5, 19.40)):
        assert abs(square.samples_per_dim(dim, 0.1, start="orthogonal") - value) < 0.006
    # A random start is a step of noise ahead: its variance adds to that of the samples.
    assert square.time(1e4, 0.1) < square.time(1e4, 0.1, start="orthogonal")
    assert square.std() == pytest.approx(np.pi / np.sqrt(8) / float(square.growth_rate))


@pytest.mark.slow
def test_time_of_a_cubic_target():
    """theory/batch_reuse D.3: the ode of He_3 (given to 0.003)."""
    cubic = dmft.weak_recovery(model_of(RELU, 3), sgd_of(0.1))
    assert abs(cubic.samples_per_dim(1e3, 0.3) - 23.734) < 0.004


def test_rate_is_that_of_the_equations():
    model, sgd = model_of(ERF, 3), sgd_of(0.1, 0.2)
    found = dmft.weak_recovery(model, sgd)
    equations = dmft.derive(model, sgd)
    for overlap in (0.1, -0.4):
        start = dmft.Overlaps([[1.0]], [[overlap]])
        rate = equations.evaluate(start, nodes=256)["M"][0, 0]
        assert abs(found.rate(overlap) - rate) < 1e-9
    series = (1 - 0.1**2) * sum(
        float(e.value) * 0.1 ** (k - 1) / sp.factorial(k - 1)
        for k, e in enumerate(found.coefficients, start=1)
    )
    assert abs(series - 0.1 * 0.1 * float(found.square.value) - found.rate(0.1)) < 2e-3


@pytest.mark.slow
def test_times_against_chains():
    """He_3 with repetition in O(d) samples, plain He_2 in O(d log d), plain He_3 not."""
    start = dmft.Overlaps([[1.0]], [[0.0]])
    for order, rho, rate, overlap, dims in (
        (3, 0.1, 0.1, 0.3, (1000, 4000)),
        # At d = 1000 the noise of the samples alone is half the threshold.
        (2, 0, 0.4, 0.1, (8000, 32_000)),
    ):
        model, sgd = model_of(RELU, order), sgd_of(rho, rate)
        found = dmft.weak_recovery(model, sgd)
        watched = dmft.FirstPassage("overlap", overlap)
        for dim in dims:
            runs = dmft.simulate(
                model, sgd, dim, 80 * rate, 40, start, "overlaps",
                first_passage=watched, save_at=2,
            )  # fmt: skip
            times = runs.first_passage.times / rate
            assert np.all(np.isfinite(times))
            error = times.std(ddof=1) / np.sqrt(times.size)
            formula = found.samples_per_dim(dim, overlap, start="orthogonal")
            assert abs(times.mean() - formula) < 3.5 * error + 0.03 * formula
    plain = dmft.simulate(
        model_of(ERF, 3), sgd_of(0), 4000, 5.0, 10, start, "overlaps",
        first_passage=dmft.FirstPassage("overlap", 0.3), save_at=2,
    )  # fmt: skip
    assert np.all(np.isnan(plain.first_passage.times))


def test_refusals():
    model = model_of(ERF, 3)
    sgd = sgd_of(0.1)
    with pytest.raises(BadParameter, match="sphere"):
        dmft.weak_recovery(model, dmft.SGD(0.1))
    # Momentum is SGD at twice this rate: dM/dt is that of SGD(0.2), not of SGD(0.1).
    for more in ({"momentum": 0.5}, {"gradient_noise": 0.1}):
        with pytest.raises(BadParameter, match=f"{next(iter(more))} = .* formulas"):
            dmft.weak_recovery(model, dmft.SGD(0.1, constraint="sphere", **more))
    with pytest.raises(BadParameter, match="fixed readouts"):
        dmft.weak_recovery(model, dmft.SGD(0.1, constraint="sphere", readout_rate=1.0))
    wide = dmft.Model(dmft.Committee(ERF, 2), model.teacher)
    with pytest.raises(BadParameter, match="escape_time"):
        dmft.weak_recovery(wide, sgd)
    z1, z2 = sp.symbols("z1 z2", real=True)
    with pytest.raises(BadParameter, match="learnability"):
        dmft.weak_recovery(
            dmft.Model(dmft.Committee(ERF, 1), dmft.MultiIndex(z1 * z2, [z1, z2])), sgd
        )
    rho = sp.Symbol("rho_0", positive=True)
    with pytest.raises(BadParameter, match="rho_0"):
        dmft.weak_recovery(model, dmft.SGD(0.1, constraint="sphere", repeat=dmft.Lookahead(rho)))
    with pytest.raises(BadParameter, match=r"must be a dmft\.SGD"):
        dmft.weak_recovery(model, dmft.GradientFlow())
    plain = dmft.weak_recovery(model, sgd_of(0))
    with pytest.raises(BadParameter, match="exponent 3"):
        plain.time(1000, 0.3)
    with pytest.raises(BadParameter, match="exponent 2"):
        plain.optimal_learning_rate()
    square = dmft.weak_recovery(model_of(RELU, 2), sgd_of(0, 3.0))
    with pytest.raises(BadParameter, match="lower the learning rate"):
        square.time(1000, 0.1)
    with pytest.raises(BadParameter, match="start"):
        square.time(1000, 0.1, start="zero")
    shrinking = dmft.weak_recovery(model_of(ERF, 2), sgd_of(0.2))
    assert shrinking.samples == "never"
    quartic = dmft.hermite(4, z)
    fourth = dmft.Model(dmft.Committee(quartic, 1), dmft.MultiIndex(-quartic, [z]))
    assert dmft.weak_recovery(fourth, sgd_of(0), order=4).samples == "never"
    with pytest.raises(BadParameter, match="e_2"):
        shrinking.maximal_learning_rate()


def test_coefficients_that_are_not_known_decide_nothing(monkeypatch):
    square = dmft.Committee(z**2, 1)
    given = dmft.Model(square, square), dmft.SGD(0.02, constraint="sphere")
    monkeypatch.setattr(SampleLaw, "average", lambda *_: Coefficient(sp.Float(0.1), False, 1e-6))
    assert dmft.weak_recovery(*given, order=2).exponent == 1
    monkeypatch.setattr(SampleLaw, "average", lambda *_: Coefficient(sp.Float(0.1), False, 0.3))
    with pytest.raises(BadParameter, match=r"error of 0\.3"):
        dmft.weak_recovery(*given, order=2)


@pytest.mark.slow
def test_kinks_with_label_noise_are_refused():
    square = dmft.Committee(z**2, 1)
    huber = dmft.SGD(0.02, constraint="sphere", loss="huber")
    assert dmft.weak_recovery(dmft.Model(square, square), huber).exponent == 2
    with pytest.warns(dmft.AccuracyWarning), pytest.raises(BadParameter, match="from zero"):
        dmft.weak_recovery(dmft.Model(square, square, label_noise=1e-3), huber)
