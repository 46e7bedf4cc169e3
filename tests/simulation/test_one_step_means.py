"""Means of one step against the exact map (theory/one_pass B.1) and the spherical rates (C)."""

import json
from pathlib import Path

import numpy as np
import pytest
import sympy as sp

from dmft.model import SGD, Committee, Model, Overlaps
from dmft.simulation.ensemble import watch_nothing
from dmft.simulation.jobs import Constants
from dmft.simulation.plan import weights_runner, weights_with_overlaps
from dmft.simulation.risk import choose_rule
from dmft.simulation.simulate import declare_experiment
from dmft.simulation.steps.chain import advance_overlaps, chain_runner
from dmft.simulation.steps.common import factor
from dmft.special.sampling import random_stream

REFERENCE = json.loads((Path(__file__).parents[1] / "reference" / "simulation.json").read_text())
z = sp.Symbol("z", real=True)
ACTIVATIONS = {"erf": sp.erf(z / sp.sqrt(2)), "square": z**2, "relu": sp.Max(0, z)}
# Ten and more means are compared in each test, over fixed seeds.
SIGMAS = 4.0


def experiment_of(case, dim, constraint=None):
    act = ACTIVATIONS[case["act"]]
    student = Committee(act, len(case["Q"]), case["a"])
    model = Model(student, Committee(act, len(case["P"]), case["astar"]), case["Delta"])
    algorithm = SGD(case["gamma"], batch_size=case.get("nb", 1), constraint=constraint)
    start = Overlaps(case["Q"], case["M"], case["P"])
    return declare_experiment(model, algorithm, dim, start, {}), start


def chain_steps(experiment, start, replicas):
    """Overlaps after one step of the chain, (replicas, p, p) and (replicas, p, k)."""
    rule = choose_rule(experiment.student, experiment.teacher)
    constants = Constants(start.P, experiment, rule, watch_nothing(), random_stream(1))
    arguments, (root, pivots) = constants.arguments(0, 1), factor(start.P)
    Q = np.repeat(start.Q[None], replicas, axis=0)
    M = np.repeat(start.M[None], replicas, axis=0)
    for i in range(replicas):
        advance_overlaps(Q[i], M[i], root, pivots, *arguments)
    return Q, M


def weight_steps(experiment, start, replicas):
    rule = choose_rule(experiment.student, experiment.teacher)
    Q, M = [], []
    for i in range(replicas):
        weights = weights_with_overlaps(start, experiment.dim, random_stream(i, 5))
        run = weights_runner(experiment, weights, rule, watch_nothing(), random_stream(i, 6))
        run.advance(0, 1)
        found = run.overlaps()
        new_Q, new_M = found["Q"], found["M"]
        Q.append(new_Q)
        M.append(new_M)
    return np.array(Q), np.array(M)


def assert_mean(samples, truth, scale):
    """Sample mean within its error of the truth, with errors small against `scale`."""
    error = samples.std(axis=0, ddof=1) / np.sqrt(len(samples))
    assert np.all(error < 0.25 * scale)
    assert np.all(np.abs(samples.mean(axis=0) - truth) <= SIGMAS * error + 1e-13)


@pytest.mark.cases(2)
@pytest.mark.parametrize("case", REFERENCE["one_step_exact_map"], ids=lambda c: f"nb{c['nb']}")
@pytest.mark.parametrize(("steps", "replicas"), [(chain_steps, 1200), (weight_steps, 800)])
def test_one_step_means_are_the_exact_map(case, steps, replicas):
    experiment, start = experiment_of(case, case["d"])
    Q, M = steps(experiment, start, replicas)
    assert_mean(M, np.array(case["EM"]), np.abs(np.array(case["EM"]) - start.M).max())
    # The quadratic term, which separates B.1 from the drift alone, must be resolved too.
    quadratic = np.abs(np.array(case["EQ"]) - start.Q).max()
    assert_mean(Q, np.array(case["EQ"]), quadratic)


@pytest.mark.cases(1)
@pytest.mark.parametrize("case", REFERENCE["spherical_rhs"], ids=lambda c: c["act"])
def test_one_spherical_step_has_the_rates_of_the_ode(case):
    # At d = 10^7 the O(1/d) difference between step and rate is invisible.
    experiment, start = experiment_of(case, 10**7, "sphere")
    Q, M = chain_steps(experiment, start, 3000)
    dQ, dM = np.array(case["dQ"]), np.array(case["dM"])
    assert_mean((M - start.M) / experiment.time_step, dM, np.abs(dM).max())
    p = start.p
    off = ~np.eye(p, dtype=bool)
    rates = ((Q - start.Q) / experiment.time_step)[:, off]
    assert_mean(rates, dQ[off], np.abs(dQ[off]).max())
    assert np.all(Q[:, ~off] == 1.0)


def test_label_noise_lifts_perfect_recovery_by_its_exact_amount():
    # psi = sigma'(h) sqrt(Delta) xi, so E dQ = gamma^2 E[psi^2 |x|^2] / d^2; Omega is singular.
    model = Model(Committee(z**2, 1), Committee(z**2, 1), 0.5)
    start = Overlaps([[1.0]], [[1.0]])
    dim, gamma = 12, 0.6
    experiment = declare_experiment(model, SGD(gamma), dim, start, {})
    exact = gamma**2 * 0.5 * 4 * (dim + 2) / dim**2
    for steps, replicas in ((chain_steps, 1100), (weight_steps, 900)):
        Q, M = steps(experiment, start, replicas)
        assert_mean(M - 1.0, np.zeros((1, 1)), 1.0)
        assert_mean(Q - 1.0, np.full((1, 1), exact), exact)


def test_chain_runner_leaves_the_start_alone():
    case = REFERENCE["one_step_exact_map"][0]
    experiment, start = experiment_of(case, 50)
    before = start.Q.copy()
    rule = choose_rule(experiment.student, experiment.teacher)
    run = chain_runner(experiment, start, rule, watch_nothing(), random_stream(0))
    run.advance(0, 5)
    assert np.array_equal(start.Q, before)
    assert not np.array_equal(run.overlaps()["Q"], before)
