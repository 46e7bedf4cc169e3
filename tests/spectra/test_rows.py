"""Rows that an optimiser keeps beside the weights: velocities and averaged weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sympy as sp

import dmft

z = sp.Symbol("z", real=True)
ERF = sp.erf(z / sp.sqrt(2))


@pytest.mark.slow
def test_velocities_are_seen_and_kept() -> None:
    """Those of the fields are sums over blocks, and the end of a run is a start."""
    law, unit = dmft.Spectrum([2.0, 0.5], [0.3, 0.7]), dmft.Committee(ERF, 2)
    sgd = dmft.SGD(1.0, momentum=dmft.Momentum(1.5, 0.5))
    equations = dmft.derive(dmft.Model(unit, unit, inputs=law), sgd)
    P = law.fractions[:, None, None] * np.eye(2)
    run = dmft.solve(equations, dmft.Overlaps(P, 0.1 * P, P), 0.5, save_at=3)
    seen = np.einsum("e,teij->tij", law.eigenvalues, run.blocks["block_velocity"])
    assert np.allclose(run.velocity, seen, rtol=0, atol=1e-14)
    again = equations.evaluate(run.final)
    assert again.keys() == {"Q", "M", "velocity_M", "velocity_Q", "velocity"}
    assert np.array_equal(run.final.memory["velocity"], run.blocks["block_velocity"][-1])


def test_a_direct_step_changes_the_floor_of_linear_students() -> None:
    """(19); a heavy ball alone has the floor of SGD."""
    law, kappa, direct, gamma, noise = dmft.Spectrum([2.0, 0.5], [0.3, 0.7]), 0.8, 0.4, 0.5, 0.3
    c, phi, line = law.eigenvalues, law.fractions, dmft.Committee(z, 1)
    rows = phi[:, None, None]
    model = dmft.Model(line, line, label_noise=noise, inputs=law)
    sgd = dmft.SGD(gamma, momentum=dmft.Momentum(kappa, direct))
    start = dmft.Overlaps(0 * rows, 0 * rows, rows)
    run = dmft.solve(dmft.derive(model, sgd), start, 150.0)
    slope = c * phi * (kappa * (1 + direct) + direct**2 * c) / (kappa + direct * c)
    norm = gamma / 2 * slope.sum()
    floor = norm / (1 - norm) * noise / 2
    assert np.isclose(run.risk[-1], floor, rtol=1e-6)
    assert np.isclose(float(dmft.noise_floor(model, sgd)), floor, rtol=1e-12)


@pytest.mark.slow
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
        with pytest.raises(ValueError, match=r"rows|adds velocities"):
            call()
    with pytest.raises(ValueError, match="positive"):
        dmft.Momentum(0.0)
    equations = dmft.derive(model, dmft.SGD(0.1, average=1.0))
    start = dmft.Overlaps(np.eye(2), np.zeros((2, 2)), memory={"velocity": np.eye(2)})
    with pytest.raises(ValueError, match="contains velocity"):
        equations.evaluate(start)
