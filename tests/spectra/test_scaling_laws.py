"""Power laws of the risk, largest rates and noise floors with a spectrum."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sympy as sp

import dmft

z = sp.Symbol("z", real=True)
ERF = sp.erf(z / sp.sqrt(2))
LINE = dmft.Committee(z, 1)


def equations_of(alpha: float, b: float, eta: float, dim: int = 10**6) -> Any:
    law = dmft.Spectrum.power_law(alpha, (b - 1) / (2 * alpha), dim)
    return dmft.derive(dmft.Model(LINE, LINE, inputs=law), dmft.SGD(eta * dim))


@pytest.mark.cases(2)
@pytest.mark.parametrize(
    ("alpha", "b", "eta", "regime", "accuracy"),
    [
        (1.5, 1.6, 0.3, "source", 0.03),
        (1.5, 4.0, 0.3, "sgd-noise", 0.03),
        (1.2, 3.0, 0.1, "sgd-noise", 0.06),
    ],
)
def test_prefactors_are_those_of_runs(
    alpha: float, b: float, eta: float, regime: str, accuracy: float
) -> None:
    """The risk at late times; what (12) leaves out falls as powers of t."""
    equations = equations_of(alpha, b, eta)
    law = dmft.scaling_law(equations)
    assert (law.regime, law.how) == (regime, "derived")
    teacher = equations.model.spectrum.teacher
    run = dmft.solve(equations, dmft.Overlaps(0 * teacher, 0 * teacher, teacher), 5000.0)
    assert np.isclose(law(5000.0), run.risk[-1], rtol=accuracy)


def exact_risk(alpha: float, r: float, step: float, dim: int, t: Any, noise: float = 0.0) -> Any:
    """Risk of a linear unit that begins at zero: the exponential of the matrix of
    dv_i/dt = -2 c_i v_i + step c_i (sum c v + noise)/dim, with late ranks in 150 bins."""
    i = np.arange(1.0, dim + 1.0)
    edges = np.unique(np.concatenate([np.arange(150), np.geomspace(150, dim, 151)]).astype(int))
    count, trace, seen = (
        np.add.reduceat(y, edges[:-1]) for y in (0 * i + 1, i**-alpha, i ** -(1 + 2 * r * alpha))
    )
    c, root = trace / count, np.sqrt(count / dim)
    rates, modes = np.linalg.eigh(step * np.outer(c * root, c * root) - 2 * np.diag(c))
    norm = step * trace.sum() / (2 * dim)
    floor = norm / (1 - norm) * noise / 2
    begin = seen / c / root - 2 * floor * dim / trace.sum() * root
    return np.exp(np.outer(t, rates)) @ ((c * root) @ modes * (begin @ modes)) / 2 + floor


@pytest.mark.parametrize("count", [8, pytest.param(40, marks=pytest.mark.slow)])
def test_derived_laws_hold_in_their_windows(count: int) -> None:
    """Random laws compared with the exact solution; three that were off by up to 2.8."""
    rng, close = np.random.default_rng(28), 0
    cases = [(1.43, 0.58, 4, 0.9), (1.5, 0.7, 1, 0.3), (1.16, 0.15, 1, 0.655)]
    draws = rng.uniform((1.05, 0.05, 1, 0.05), (2.4, 1.2, 5, 0.9), (count, 4))
    for alpha, r, batch, norm in [*cases, *draws]:
        law = dmft.Spectrum.power_law(alpha, r, 10**6)
        step = 2 * norm / law.mean
        sgd = dmft.SGD(step * int(batch), batch_size=int(batch))
        found = dmft.scaling_law(dmft.derive(dmft.Model(LINE, LINE, inputs=law), sgd))
        t = np.geomspace(*found.window, 57)
        ratio = exact_risk(alpha, r, step, 10**6, t) / found(t)
        assert found.how == "derived"
        assert np.all(np.abs(np.log(ratio)) < np.log1p(found.error + 0.005)), (alpha, r, norm)
        close += found.error < 0.11 and found.window[1] > 9.9 * found.window[0]
    assert close > count / 2


def test_noise_floors_hold_in_their_windows() -> None:
    law = dmft.Spectrum.power_law(1.5, 0.4, 10**4)
    equations = dmft.derive(dmft.Model(LINE, LINE, label_noise=0.1, inputs=law), dmft.SGD(1e3))
    found = dmft.scaling_law(equations)
    t = np.geomspace(1.0, 1e8, 200)
    ratio = exact_risk(1.5, 0.4, 1e3, 10**4, t, 0.1) / found(t)
    inside = t > found.window[0]
    assert np.all(np.abs(np.log(ratio[inside])) < np.log1p(found.error + 0.005))
    assert abs(ratio[~inside][-1] - 1) > 0.09


def test_velocities_begin_at_zero_too() -> None:
    law = dmft.Spectrum.power_law(1.5, 0.4, 200)
    sgd = dmft.SGD(20.0, momentum=dmft.Momentum(0.8))
    equations = dmft.derive(dmft.Model(LINE, LINE, inputs=law), sgd)
    zero = dmft.Overlaps(0 * law.teacher, 0 * law.teacher, law.teacher)
    found = dmft.scaling_law(equations)
    assert found == dmft.scaling_law(equations, zero)
    assert -0.9 < found.exponent < -0.7


def test_plateaus_are_no_powers() -> None:
    law = dmft.Spectrum.power_law(1.5, 0.4, 200)
    equations = dmft.derive(dmft.Model(LINE, LINE, inputs=law), dmft.SignSGD(3.0))
    with pytest.warns(UserWarning, match="does not fall"):
        found = dmft.scaling_law(equations, window=(100.0, 1000.0))
    assert found.regime == "plateau"
    early = dmft.scaling_law(equations, window=(0.01, 1.0))
    assert "no power of the time" in early.message


@pytest.mark.parametrize("b", [1.6, pytest.param(2.2, marks=pytest.mark.slow)])
def test_fits_agree_with_what_is_derived(b: float) -> None:
    equations = equations_of(1.5, b, 0.3)
    fit = dmft.scaling_law(equations, window=(300.0, 3e4))
    assert fit.how == "fitted"
    assert abs(fit.exponent - dmft.scaling_law(equations).exponent) < 0.01
    assert fit.error < 0.01


def test_noise_ends_the_fall() -> None:
    law = dmft.Spectrum.power_law(1.5, 0.4, 10**5)
    equations = dmft.derive(dmft.Model(LINE, LINE, label_noise=0.1, inputs=law), dmft.SGD(1e4))
    found = dmft.scaling_law(equations)
    assert found.regime == "noise-floor"
    floor = dmft.noise_floor(equations.model, equations.algorithm)
    assert np.isclose(found.prefactor, float(floor), rtol=1e-12)


def test_noise_floors_are_those_of_runs() -> None:
    """Velocities that move the weights at once, and a decay."""
    rows = np.array([0.3, 0.7])[:, None, None]
    law = dmft.Spectrum([2.0, 0.5], [0.3, 0.7], teacher=rows)
    model = dmft.Model(LINE, LINE, label_noise=0.3, inputs=law)
    for sgd in (
        dmft.SGD(0.5, momentum=dmft.Momentum(0.8, 0.4)), dmft.SGD(0.5, weight_decay=0.2)
    ):  # fmt: skip
        start = dmft.Overlaps(0 * rows, 0 * rows, rows)
        run = dmft.solve(dmft.derive(model, sgd), start, 80.0, save_at=[80.0])
        assert np.isclose(run.risk[-1], float(dmft.noise_floor(model, sgd)), rtol=1e-6)


def test_largest_rates_with_a_spectrum() -> None:
    """2 n_b over the mean eigenvalue for one linear unit; runs near the solution on either side."""
    law = dmft.Spectrum([2.0, 0.5], [0.3, 0.7])
    assert dmft.maximal_learning_rate(dmft.Model(LINE, LINE, inputs=law), dmft.SGD(1.0)) == sp.S(
        2
    ) / sp.Rational(95, 100)
    unit = dmft.Committee(ERF, 2)
    plain = float(dmft.maximal_learning_rate(dmft.Model(unit, unit), dmft.SGD(1.0)))
    P = law.fractions[:, None, None] * np.eye(2)
    seen = dmft.Spectrum(law.eigenvalues, law.fractions, teacher=P / law.mean)
    limit = float(dmft.maximal_learning_rate(dmft.Model(unit, unit, inputs=seen), dmft.SGD(1.0)))
    assert np.isclose(limit, plain / 0.95)  # fields of variance one


def test_largest_rates_and_floors_of_teachers_whose_fields_have_other_variances() -> None:
    """Modes at the teacher of the spectrum, whose fields have the variance 2.75, and long runs."""
    law, unit = dmft.Spectrum([5.0, 0.5], [0.5, 0.5]), dmft.Committee(ERF, 1)
    model, P = dmft.Model(unit, unit, inputs=law), law.teacher_blocks(1)
    point, sgd = dmft.Overlaps(P, P, P), dmft.SGD(1.0)
    limit, equations = float(dmft.maximal_learning_rate(model, sgd)), dmft.derive(model, sgd)
    for part in (0.999, 1.001):
        found = dmft.stability(equations, point, learning_rate=part * limit)
        assert (found.growth_rate > 0.0) == (part > 1.0)
    noise, slow = {"label_noise": 1e-4, "learning_rate": 0.3 * limit}, dmft.SGD(0.3 * limit)
    run = dmft.solve(equations, point, 300.0, rtol=1e-11, atol=1e-14, save_at=2, **noise)
    floor = dmft.noise_floor(dmft.Model(unit, unit, 1e-4, inputs=law), slow)
    assert run.risk[-1] == pytest.approx(float(floor), rel=1e-3)


# Modes of linear equations are the same at all overlaps.
@pytest.mark.filterwarnings("ignore:the overlaps still move")
@pytest.mark.parametrize(
    "kept",
    [{"weight_decay": 0.3}, {"momentum": dmft.Momentum(2.0, 0.5)}],
    ids=["decay", "momentum"],
)
def test_largest_rates_of_velocities_and_decays(kept: dict[str, Any]) -> None:
    """The sign of the largest mode of the derived Jacobian beside the closed limit."""
    P = np.array([0.4, 1.2])[:, None, None]
    law = dmft.Spectrum([2.0, 0.5], [0.3, 0.7], teacher=P)
    model = dmft.Model(LINE, LINE, inputs=law)
    limit = float(dmft.maximal_learning_rate(model, dmft.SGD(1.0, **kept)))
    equations = dmft.derive(model, dmft.SGD(1.0, **kept))
    for part in (0.99, 1.01):
        found = dmft.stability(equations, dmft.Overlaps(P, P, P), learning_rate=part * limit)
        assert (found.growth_rate > 0.0) == (part > 1.0)


def test_symmetric_rows_stay_symmetric() -> None:
    """What rounding makes of two halves of Q by block grew: this run left the domain at t = 28."""
    student = dmft.Committee(ERF, 2, readout=[3.0, 2.0])
    c = np.geomspace(9.0, 0.01, 12)
    law = dmft.Spectrum(c, np.full(12, 1 / 12), teacher=np.full((12, 1, 1), 0.03))
    model = dmft.Model(student, LINE, label_noise=0.29, inputs=law)
    start = dmft.Overlaps(
        0.09 / 12 * np.tile(np.eye(2), (12, 1, 1)), np.zeros((12, 2, 1)), law.teacher
    )
    run = dmft.solve(dmft.derive(model, dmft.SGD(0.2)), start, 40.0, save_at=3)
    assert str(run.status) == "ok"
    assert np.array_equal(run.block_Q, np.swapaxes(run.block_Q, 2, 3))


def test_where_there_is_no_law() -> None:
    plain = dmft.derive(dmft.Model(LINE, LINE), dmft.SGD(0.5))
    with pytest.raises(ValueError, match="spectrum"):
        dmft.scaling_law(plain)
    with pytest.raises(ValueError, match="unstable"):
        dmft.scaling_law(equations_of(1.5, 1.6, 3.0))
    square = dmft.Committee(z**2, 1)
    law = dmft.Spectrum.power_law(1.5, 0.4, 1000)
    with pytest.raises(ValueError, match="pass a start"):
        dmft.scaling_law(dmft.derive(dmft.Model(square, square, inputs=law), dmft.SGD(1.0)))
