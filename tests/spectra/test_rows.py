"""Rows that an optimiser keeps beside the weights: velocities and averaged weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sympy as sp

import dmft

z = sp.Symbol("z", real=True)
ERF = sp.erf(z / sp.sqrt(2))
VECTORS = Path(__file__).parents[1] / "reference" / "structured_inputs.json"


def vector(name: str) -> dict[str, Any]:
    found = json.loads(VECTORS.read_text())["vectors"]
    return next(v for v in found if v["name"] == name)


def start_with(gram: Any, row: str, p: int) -> dmft.Overlaps:
    """A start of Gram matrices of weights, of a further row and of the teacher."""
    G = np.array(gram)
    w, u, t = slice(0, p), slice(p, 2 * p), slice(2 * p, G.shape[1])
    memory = {f"{row}_M": G[:, u, t], f"{row}_Q": G[:, u, w], row: G[:, u, u]}
    return dmft.Overlaps(G[:, w, w], G[:, w, t], G[:, t, t], memory=memory)


def model_of(inputs: dict[str, Any]) -> dmft.Model:
    return dmft.Model(
        dmft.Committee(ERF, inputs["p"], inputs["a"]),
        dmft.Committee(ERF, inputs["k"], inputs["at"]),
        label_noise=inputs["Delta"],
        inputs=dmft.Spectrum(inputs["kappa"], inputs["phi"]),
    )


def test_a_velocity_and_a_direct_step_follow_the_vectors() -> None:
    case = vector("traj_direct_plus_momentum")
    inputs, p = case["inputs"], case["inputs"]["p"]
    (_, _), (_, minus_rate) = inputs["state_matrix"]
    direct, rate = inputs["drive"]
    assert rate == -minus_rate
    sgd = dmft.SGD(inputs["gamma"], momentum=dmft.Momentum(rate, direct))
    start = start_with(inputs["G0"], "velocity", p)
    times = inputs["times"]
    run = dmft.solve(dmft.derive(model_of(inputs), sgd), start, times[-1], save_at=times)
    expected = np.array(case["outputs"]["G"])
    w, u, t = slice(0, p), slice(p, 2 * p), slice(2 * p, None)
    for name, part in (
        ("Q", (w, w)), ("M", (w, t)), ("velocity_M", (u, t)), ("velocity_Q", (u, w)),
        ("velocity", (u, u)),
    ):  # fmt: skip
        off = np.abs(run.blocks[f"block_{name}"] - expected[:, :, *part]).max()
        assert off < case["tolerance"], name
    c = np.array(inputs["kappa"])
    seen = np.einsum("e,teij->tij", c, run.blocks["block_velocity"])
    assert np.allclose(run.velocity, seen, rtol=0, atol=1e-14)
    # The end is a start with everything that the state holds.
    again = dmft.derive(model_of(inputs), sgd).evaluate(run.final)
    assert again.keys() == {"Q", "M", "velocity_M", "velocity_Q", "velocity"}
    assert np.array_equal(run.final.memory["velocity"], run.blocks["block_velocity"][-1])


def test_rates_of_averaged_weights_are_those_of_the_vectors() -> None:
    case = vector("rates_ema_erf")
    inputs, p = case["inputs"], case["inputs"]["p"]
    sgd = dmft.SGD(inputs["gamma"], batch_size=inputs["nB"], average=inputs["kappa_a"])
    rates = dmft.derive(model_of(inputs), sgd).evaluate(start_with(inputs["G"], "average", p))
    expected = np.array(case["outputs"]["dG"])
    w, a, t = slice(0, p), slice(p, 2 * p), slice(2 * p, None)
    for name, part in (
        ("Q", (w, w)), ("M", (w, t)), ("average_M", (a, t)), ("average_Q", (a, w)),
        ("average", (a, a)),
    ):  # fmt: skip
        assert np.allclose(rates[name], expected[:, *part], rtol=0, atol=case["tolerance"]), name


@pytest.mark.parametrize("direct", [0.0, 0.4])
def test_floors_of_linear_students_under_momentum(direct: float) -> None:
    """(19): a heavy ball has the floor of SGD; a direct part changes it."""
    inputs = vector("stationary_linear_heavyball")["inputs"]
    c, phi, kappa = np.array(inputs["kappa"]), np.array(inputs["phi"]), inputs["kappa_v"]
    line, rows = dmft.Committee(z, 1), np.array(inputs["rho"])[:, None, None]
    model = dmft.Model(line, line, label_noise=inputs["Delta"], inputs=dmft.Spectrum(c, phi))
    sgd = dmft.SGD(inputs["gamma"], momentum=dmft.Momentum(kappa, direct))
    start = dmft.Overlaps(0 * rows, 0 * rows, rows)
    run = dmft.solve(dmft.derive(model, sgd), start, 150.0)
    slope = c * phi * (kappa * (1 + direct) + direct**2 * c) / (kappa + direct * c)
    norm = inputs["gamma"] / 2 * slope.sum()
    assert np.isclose(run.risk[-1], norm / (1 - norm) * inputs["Delta"] / 2, rtol=1e-6)
    if direct == 0:
        expected = vector("stationary_linear_heavyball")["outputs"]["R"]
        assert np.isclose(run.risk[-1], expected, rtol=0, atol=1e-6)


def test_a_fast_memory_is_sgd() -> None:
    """kappa -> infinity: SGD at gamma (1 + alpha_1), with its noise."""
    unit = dmft.Committee(ERF, 2)
    model, start = (
        dmft.Model(unit, unit, label_noise=0.1),
        dmft.Overlaps([[1.0, 0.1], [0.1, 0.8]], [[0.3, 0.1], [0.0, 0.2]]),
    )
    slow = dmft.SGD(0.4, momentum=dmft.Momentum(4000.0, 0.5))
    run = dmft.solve(dmft.derive(model, slow), start, 1.0, save_at=[1.0])
    # t counts steps * gamma/(p d) of each declared gamma.
    plain = dmft.solve(dmft.derive(model, dmft.SGD(0.6)), start, 1.5, save_at=[1.5])
    assert np.allclose(run.Q, plain.Q, rtol=0, atol=2e-3)
    assert np.allclose(run.M, plain.M, rtol=0, atol=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("spectrum", [None, dmft.Spectrum([2.0, 0.5], [0.3, 0.7])])
@pytest.mark.parametrize(
    "sgd",
    [
        dmft.SGD(2.0, momentum=dmft.Momentum(1.5, 0.5), weight_decay=0.1),
        dmft.SGD(2.0, momentum=dmft.Momentum(1.5), average=0.7),
    ],
)
def test_rows_agree_with_weights_in_finite_dimension(spectrum: Any, sgd: dmft.SGD) -> None:
    student, teacher = dmft.Committee(ERF, 2, [1.5, 1.0]), dmft.Committee(ERF, 1)
    model = dmft.Model(student, teacher, label_noise=0.1, inputs=spectrum)
    start = dmft.random_overlaps(model, 600, 0)
    truth = dmft.simulate(model, sgd, 600, 2.0, 24, start, save_at=3)
    run = dmft.solve(dmft.derive(model, sgd), start, truth.t[-1], save_at=truth.t)
    for name, value in run.blocks.items():
        if name != "readout":
            z_score = (np.abs(value - truth.mean[name]) / truth.stderr[name])[1:]
            assert z_score.max() < 5.0, name


def test_where_rows_are_not_derived_is_said() -> None:
    unit = dmft.Committee(ERF, 2)
    model, ball = dmft.Model(unit, unit), dmft.Momentum(1.0)
    for call in (
        lambda: dmft.SGD(0.1, momentum=ball, constraint="sphere"),
        lambda: dmft.SGD(0.1, momentum=ball, readout_rate=1.0),
        lambda: dmft.SGD(0.1, momentum=ball, repeat=dmft.Repeat(2)),
        lambda: dmft.derive(model, dmft.SGD(0.1, momentum=ball), dim=100, fluctuations=True),
        lambda: dmft.derive(model, dmft.SGD(0.1, average=1.0), scaling="mean-field"),
        lambda: dmft.simulate(model, dmft.SGD(0.1, average=1.0), 100, 1.0, 1, method="overlaps"),
    ):
        with pytest.raises(ValueError, match="rows"):
            call()
    with pytest.raises(ValueError, match="positive"):
        dmft.Momentum(0.0)
    equations = dmft.derive(model, dmft.SGD(0.1, average=1.0))
    start = dmft.Overlaps(np.eye(2), np.zeros((2, 2)), memory={"velocity": np.eye(2)})
    with pytest.raises(ValueError, match="keeps velocity"):
        equations.evaluate(start)
