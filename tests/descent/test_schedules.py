"""Parameters that follow the steps: a constant is a constant, seeds, files of steps, refusals.

Exact solutions of linear students under schedules: `test_linear_modes.py`.
"""

import numpy as np
import pytest
import sympy as sp

import dmft
from dmft.errors import BadParameter

z, TIME, OTHER = sp.symbols("z t x", real=True)
ERF = sp.erf(z / sp.sqrt(2))
PAIR = dmft.Model(
    dmft.Committee(ERF, 2, readout=(2, sp.Rational(-6, 5))), dmft.Committee(ERF, 1), label_noise=0.1
)
START = dmft.Overlaps([[1.0, 0.2], [0.2, 1.0]], [[0.3], [-0.1]], [[1.4]])
DESCENT = dmft.GradientDescent(
    0.6, 1.5, ridge=0.1, momentum=0.1, readout_rate=0.1, temperature=0.1, constraint="sphere"
)
SCHEDULES = {
    "learning_rate": 0.9 / (1 + TIME / 2),
    "momentum": TIME / (4 + 2 * TIME),
    "temperature": 0.3 * sp.exp(-TIME),
    "readout_rate": sp.Piecewise((0.4, TIME < 2), (0, True)),
}


@pytest.fixture(scope="module")
def equations():
    return dmft.derive(PAIR, DESCENT)


def test_constants_are_constants(equations):
    """To the bit: the same numbers as expressions that do not change, in runs and seeds."""
    same = {n: sp.Float(v) + sp.Max(0, -1 - TIME) for n, v in (("ridge", 0.2), ("momentum", 0.3))}
    numbers = {"ridge": 0.2, "momentum": 0.3}
    options = {"samples": 2**9, "scrambles": 2}
    plain, followed = (
        dmft.solve(equations, START, 3, **options, **given) for given in (numbers, same)
    )
    np.testing.assert_array_equal(plain.Q2, followed.Q2)
    plain, followed = (
        dmft.simulate(PAIR, DESCENT, 50, 3, 2, START, **given) for given in (numbers, same)
    )
    np.testing.assert_array_equal(plain.runs.Q2, followed.runs.Q2)


def test_steps_of_seeds_follow_them(equations):
    """z of all entries, in 400 dimensions: errors of the seeds and of the samples."""
    theory = dmft.solve(equations, START, 6, samples=2**12, **SCHEDULES)
    truth = dmft.simulate(PAIR, DESCENT, 400, 6, 12, START, **SCHEDULES)
    for key in ("M", "Q", "train_loss", "corr", "Q2", "readout"):
        gap = np.abs(theory[key] - truth.mean[key])
        allowed = 4.5 * np.hypot(truth.stderr[key], theory.error[key]) + 1.5 / 400
        assert np.all(gap < allowed), (key, gap.max())
    constant = dmft.solve(equations, START, 6, samples=2**10)
    assert np.abs(theory.M - constant.M).max() > 0.05
    np.testing.assert_array_equal(theory.readout[2], theory.readout[-1])
    assert truth.provenance["temperature_schedule"] == str(SCHEDULES["temperature"])


def test_interrupted_runs_go_on(equations, tmp_path):
    options = {"samples": 2**9, "scrambles": 2, "threads": 1, **SCHEDULES}
    whole = dmft.solve(equations, START, 4, **options)
    cut = dmft.solve(equations, START, 4, checkpoint=tmp_path / "run", timeout=0.0, **options)
    assert cut.status == "timeout"
    again = dmft.solve(equations, START, 4, checkpoint=tmp_path / "run", **options)
    np.testing.assert_array_equal(again.Q2, whole.Q2)
    other = {**options, "temperature": 0.3 * sp.exp(-(TIME**2))}
    with pytest.raises(BadParameter, match="temperature_schedule"):
        dmft.solve(equations, START, 4, checkpoint=tmp_path / "run", **other)


REFUSED = [
    ({"learning_rate": 0.5 - TIME / 10}, "it must be at least 0"),
    ({"momentum": TIME / 3}, r"must lie in \[0, 1\)"),
    ({"temperature": 1 / (TIME - 2)}, "not a finite number|at least 0"),
    ({"learning_rate": 0.1 * OTHER}, "contains x"),
    ({"learning_rate": 0.1 * sp.Symbol("risk")}, "the risk is computed only after the run"),
]


@pytest.mark.parametrize(("given", "words"), REFUSED)
def test_values_are_checked(equations, given, words):
    for call in (
        lambda: dmft.solve(equations, START, 8, samples=2**9, **given),
        lambda: equations.evaluate(START, 8, **given),
        lambda: dmft.simulate(PAIR, DESCENT, 50, 8, 2, START, **given),
    ):
        with pytest.raises(BadParameter, match=words):
            call()


def test_what_has_one_value_is_refused(equations):
    for name in ("samples_per_dim", "label_noise"):
        with pytest.raises(BadParameter, match="may depend on time are learning_rate"):
            dmft.solve(equations, START, 3, **{name: 1 + TIME})
        with pytest.raises(BadParameter, match=name):
            dmft.simulate(PAIR, DESCENT, 50, 3, 2, START, **{name: 1 + TIME})
    with pytest.raises(BadParameter, match="is a function that does not accept symbols"):
        dmft.solve(equations, START, 3, learning_rate=lambda t: 0.1 if t < 2 else 0.05)
    short = dmft.short_times(dmft.derive(PAIR, dmft.GradientDescent(0.6, 1.5)))
    with pytest.raises(BadParameter, match="short_times takes numbers"):
        short.evaluate(START, 1, learning_rate=0.1 / (1 + TIME))


@pytest.mark.cases(1)
@pytest.mark.parametrize("name", ["momentum", "readout_rate", "label_noise"])
def test_a_parameter_that_nothing_reads_is_refused(name):
    """`momentum=` and `label_noise=` of equations without them were taken and did nothing."""
    plain = dmft.Model(PAIR.student, PAIR.teacher)
    descent = dmft.GradientDescent(0.6, 1.5)
    equations = dmft.derive(plain, descent)
    for call in (
        lambda: dmft.solve(equations, START, 2, **{name: 0.3}),
        lambda: equations.evaluate(START, **{name: 0.3}),
        lambda: dmft.short_times(equations).evaluate(START, 1, **{name: 0.3}),
    ):
        with pytest.raises(BadParameter, match="these equations have"):
            call()
    dmft.solve(equations, START, 1, samples=2**9, **{name: 0.0})
