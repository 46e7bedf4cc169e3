"""What `simulate` refuses, and how it says so."""

import numpy as np
import pytest
import sympy as sp

import dmft
from dmft.errors import BadParameter, ShapeMismatch
from dmft.model import SGD, Committee, GradientFlow, Model, Momentum, Overlaps, Repeat
from dmft.simulation.clock import Clock
from dmft.simulation.ensemble import FirstPassage
from dmft.simulation.jobs import save_steps
from dmft.simulation.simulate import simulate
from dmft.special.sampling import as_seeds, random_stream

z, s = sp.symbols("z s", real=True)
SQUARE = Model(Committee(z**2, 1), Committee(z**2, 1))
START = Overlaps([[0.8]], [[0.1]])


def run(model=SQUARE, algorithm=None, dim=10, t_max=1.0, seeds=2, start=START, **options):
    return simulate(model, algorithm or SGD(0.1), dim, t_max, seeds, start, **options)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"algorithm": GradientFlow()}, "dmft.SGD or a dmft.GradientDescent"),
        ({"algorithm": SGD(0.1, constraint="sphere")}, r"Q\[0,0\] = .*0.8"),
        ({"algorithm": SGD(s)}, "pass its value: s="),
        ({"algorithm": SGD(s), "s": -1.0}, "must be positive"),
        ({"weight_decay": "0.1*t"}, "for learning_rate= of solve, simulate and escape_time only"),
        ({"unknown": 1.0}, "unknown parameter 'unknown'"),
        ({"label_noise": -1.0}, "non-negative"),
        ({"learning_rate": float("nan")}, "must be a finite number"),
        ({"model": Model(Committee(sp.sign(z), 1), Committee(z, 1))}, "jumps"),
        ({"model": Model(Committee(sp.gamma(z), 1), Committee(z, 1))}, "gamma"),
        (
            {"model": Model(Committee(z**2, sp.Symbol("p")), Committee(z, 1)), "start": None},
            "symbol",
        ),
        ({"dim": 0}, "integer >= 1"),
        ({"dim": 1}, "rank 2"),
        ({"dim": 2.5}, "must be an integer"),
        ({"t_max": 0.0}, "positive and finite"),
        ({"t_max": 1e-4}, "shorter than one step"),
        ({"method": "exact"}, '"weights" or "overlaps"'),
        ({"seeds": 0}, "at least 1"),
        ({"seeds": [1, 1]}, "distinct"),
        ({"threads": 0}, "threads"),
        ({"save_at": [0.5, 0.2]}, "increasing"),
        ({"save_at": [0.5, 1.5]}, r"outside \[0.0, 1.0\]: pass t_max = 1.5"),
        ({"save_at": [0.5, 1.5], "learning_rate": "0.1*risk"}, "pass t_max = 1.5"),
        ({"save_at": 1}, "at least 2"),
        ({"start": [[1.0]]}, "dmft.Overlaps"),
        ({"model": "erf"}, "dmft.Model"),
    ],
)
def test_refusals_name_the_value(options, match):
    with pytest.raises(BadParameter, match=match):
        run(**options)


def test_start_of_other_widths_is_refused():
    with pytest.raises(ShapeMismatch, match="widths"):
        run(start=Overlaps(np.eye(2), np.zeros((2, 1))))


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (("loss", 1.0), "observable"),
        (("risk", 0.0), "positive"),
        (("overlap", 0.5, True), "relative"),
        (("risk", 0.5, False, True, 0), "every"),
    ],
)
def test_first_passage_refusals(arguments, match):
    with pytest.raises(BadParameter, match=match):
        FirstPassage(*arguments)


def test_save_steps_are_nearest_and_unique():
    assert save_steps(1.0, Clock(0.3), [0.0, 0.1, 0.2, 0.95]).tolist() == [0, 1, 3]
    assert save_steps(1.0, Clock(0.25), 101).tolist() == [0, 1, 2, 3, 4]


def test_streams_are_reproducible_and_distinct():
    first = random_stream(3, 1).standard_normal(4)
    assert np.array_equal(first, random_stream(3, 1).standard_normal(4))
    for other in (random_stream(3, 2), random_stream(4, 1), random_stream(3)):
        assert not np.array_equal(first, other.standard_normal(4))
    assert as_seeds(np.int64(2)) == (0, 1)


def test_symbols_of_a_replaced_rate_may_have_values():
    """As in dmft.solve: a file may give gamma in [parameters] and a schedule in [simulate]."""
    same = run(learning_rate=0.2).mean.Q[-1, 0, 0]
    assert run(algorithm=SGD(s), learning_rate=0.2, s=0.7).mean.Q[-1, 0, 0] == same
    run(algorithm=SGD(s), learning_rate="0.2/(1 + t)", s=0.7)
    with pytest.raises(BadParameter, match="unknown parameter 's'"):
        run(s=0.7)


@pytest.mark.parametrize(
    ("declared", "given", "match"),
    [
        ({}, {"momentum": 0.5, "method": "overlaps"}, "does not store"),
        ({}, {"gradient_noise": 0.3, "method": "overlaps"}, "does not contain"),
        ({}, {"average_rate": 1.0, "method": "overlaps"}, "weights"),
        ({"constraint": "sphere"}, {"weight_decay": 0.5}, "fixes their length"),
        ({"repeat": Repeat(2)}, {"momentum": 0.5}, "correlated"),
        ({}, {"momentum_rate": 2.0, "readout_rate": 0.5}, "fixed readouts"),
    ],
)
def test_values_at_run_time_are_refused_like_declared_ones(declared, given, match):
    """The chain of overlaps ignored a momentum and spread the noise in too few directions."""
    start = Overlaps([[1.0]], [[0.1]])
    with pytest.raises(BadParameter, match=match):
        run(algorithm=SGD(0.1, **declared), start=start, **given)


def test_rows_of_an_earlier_run_are_refused():
    """Velocities and averages of `run.final` were replaced by zero and by the weights."""
    line = Committee(z, width=1)
    start = Overlaps([[0.5]], [[0.1]])
    for options in ({"momentum": Momentum(2.0)}, {"average": 1.0}):
        algorithm = SGD(0.5, **options)
        model = Model(line, line)
        end = dmft.solve(dmft.derive(model, algorithm), start, 0.5).final
        with pytest.raises(BadParameter, match="rows of an earlier run"):
            simulate(model, algorithm, 50, 0.1, 2, end)
        plain = simulate(model, SGD(0.5), 50, 0.1, 2, end, save_at=2)
        np.testing.assert_allclose(plain.mean.Q[0], end.Q)
