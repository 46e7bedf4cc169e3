"""Shapes, units, seeds, threads, first passages, interruption and files of ensembles."""

import pickle
import threading

import numpy as np
import pytest
import sympy as sp

from dmft.model import SGD, Committee, Model, Overlaps, random_overlaps
from dmft.names import Status
from dmft.progress import CANCELLED
from dmft.simulation.ensemble import Ensemble, FirstPassage, PassageTimes
from dmft.simulation.simulate import simulate

z = sp.Symbol("z", real=True)
ERF, SQUARE = sp.erf(z / sp.sqrt(2)), z**2
ERF_22 = Model(Committee(ERF, 2), Committee(ERF, 2), 0.1)
PHASE = Model(Committee(SQUARE, 1), Committee(SQUARE, 1))
SPHERE = SGD(1 / 12, constraint="sphere")
START = Overlaps([[0.9, 0.2], [0.2, 0.7]], [[0.3, -0.1], [0.05, 0.4]], [[1.0, 0.15], [0.15, 0.8]])
METHODS = pytest.mark.parametrize("method", ["weights", "overlaps"])


def same(one, two):
    return all(np.array_equal(one[name], two[name], equal_nan=True) for name in one)


@METHODS
def test_shapes_units_and_start(method):
    runs = simulate(ERF_22, SGD(0.5, batch_size=3), 40, 2.0, 5, START, method, save_at=4)
    assert runs.mean.Q.shape == (4, 2, 2)
    assert runs.stderr.M.shape == (4, 2, 2)
    assert runs.std.readout.tolist() == [[0.0, 0.0]] * 4
    assert runs.runs.risk.shape == (5, 4)
    # One step is gamma / (p d); the saved times are whole steps, closest to those asked for.
    step = 0.5 / (2 * 40)
    assert np.allclose(runs.t, np.rint(np.linspace(0, 2, 4) / step) * step)
    assert np.allclose(runs.steps(), np.rint(runs.steps()))
    assert np.allclose(runs.samples(), 3 * runs.steps(40))
    assert np.allclose(runs.steps(80), 2 * runs.steps())
    # Every seed starts from exactly the given overlaps.
    assert np.allclose(runs.runs.Q[:, 0], START.Q, atol=1e-13)
    assert np.allclose(runs.runs.M[:, 0], START.M, atol=1e-13)
    assert np.allclose(runs.stderr.Q, runs.runs.Q.std(axis=0, ddof=1) / np.sqrt(5))
    assert np.array_equal(runs.mean["risk"], runs.runs.risk.mean(axis=0))


@pytest.mark.cases(2)
@METHODS
@pytest.mark.parametrize("start", [START, None])
def test_number_of_threads_never_changes_a_result(method, start):
    one, three = (
        simulate(ERF_22, SGD(0.5), 30, 1.0, 6, start, method, save_at=3, threads=n) for n in (1, 3)
    )
    assert same(one.runs, three.runs)
    assert same(one.mean, three.mean)


@METHODS
def test_a_seed_means_the_same_run_in_any_company(method):
    many = simulate(ERF_22, SGD(0.5), 30, 1.0, 5, None, method, save_at=[0.2, 1.0])
    alone = simulate(ERF_22, SGD(0.5), 30, 1.0, [3], None, method, save_at=3, keep_runs=True)
    assert np.array_equal(many.runs.Q[3, -1], alone.runs.Q[0, -1])
    assert not np.array_equal(many.runs.Q[3, -1], many.runs.Q[2, -1])
    assert np.all(np.isnan(alone.stderr.Q))


def test_random_start_of_the_chain_is_that_of_random_overlaps():
    runs = simulate(ERF_22, SGD(0.5), 30, 1.0, [7], None, "overlaps", save_at=2)
    assert np.array_equal(runs.runs.M[0, 0], random_overlaps(ERF_22, 30, 7).M)


@METHODS
def test_symbols_take_their_values_by_name(method):
    s, g, b = sp.symbols("s g b", positive=True)
    general = Model(Committee(sp.erf(s * z), 2, (1, b)), Committee(ERF, 2), g / 10)
    special = Model(Committee(sp.erf(z / 2), 2, (1, -0.5)), Committee(ERF, 2), 0.05)
    values = {"s": 0.5, "b": -0.5, "g": 0.5}
    one = simulate(general, SGD(g), 30, 1.0, 3, START, method, save_at=2, **values)
    two = simulate(special, SGD(0.5), 30, 1.0, 3, START, method, save_at=2)
    assert np.allclose(one.runs.Q, two.runs.Q, rtol=1e-12)
    over = simulate(special, SGD(9.0), 30, 1.0, 3, START, method, save_at=2, learning_rate=0.5)
    assert same(over.runs, two.runs)


def test_symbolic_widths_are_those_of_the_start():
    p, k = sp.symbols("p k", integer=True, positive=True)
    general = Model(Committee(ERF, p), Committee(ERF, k), 0.1)
    one = simulate(general, SGD(0.5), 30, 1.0, 2, START, "overlaps", save_at=2)
    two = simulate(ERF_22, SGD(0.5), 30, 1.0, 2, START, "overlaps", save_at=2)
    assert same(one.runs, two.runs)


def test_start_may_bring_its_readout():
    start = Overlaps(START.Q, START.M, START.P, readout=[1.0, -0.5])
    declared = Model(Committee(ERF, 2, (1.0, -0.5)), Committee(ERF, 2), 0.1)
    one = simulate(ERF_22, SGD(0.5), 30, 1.0, 2, start, "overlaps", save_at=2)
    two = simulate(declared, SGD(0.5), 30, 1.0, 2, START, "overlaps", save_at=2)
    assert same(one.runs, two.runs)


@pytest.mark.cases(1)
@METHODS
def test_first_passage_is_that_of_the_finely_saved_run(method):
    start = Overlaps([[1.0]], [[0.3]])
    watched = FirstPassage("overlap", 0.5)
    step = (1 / 12) / 25
    every = step * np.arange(round(2.5 / step))
    full = simulate(PHASE, SPHERE, 25, 2.5, 3, start, method, save_at=every)
    first = [every[np.argmax(np.abs(m[:, 0, 0]) >= 0.5)] for m in full.runs.M]
    stopped = simulate(PHASE, SPHERE, 25, 2.5, 3, start, method, save_at=3, first_passage=watched)
    assert np.allclose(stopped.first_passage.times, first)
    assert set(stopped.seed_status) == {Status.EVENT}
    assert np.isnan(stopped.mean.Q[-1]).all()
    # Recorded without stopping, the runs are those that nobody watches.
    go_on = FirstPassage("overlap", 0.5, stop=False)
    kept = simulate(PHASE, SPHERE, 25, 2.5, 3, start, method, save_at=3, first_passage=go_on)
    free = simulate(PHASE, SPHERE, 25, 2.5, 3, start, method, save_at=3)
    assert np.array_equal(kept.first_passage.times, stopped.first_passage.times)
    assert same(kept.runs, free.runs)


@METHODS
def test_risk_passage_is_the_overlap_passage_of_phase_retrieval(method):
    # On the sphere R = 2 (1 - m^2): R <= 0.9 R_0 is |m| >= sqrt(1 - 0.9 (1 - m_0^2)).
    start = Overlaps([[1.0]], [[0.2]])
    level = float(np.sqrt(1 - 0.9 * (1 - 0.2**2)))
    common = (PHASE, SPHERE, 200, 3.0, 5, start, method)
    relative = FirstPassage("risk", 0.9, relative=True)
    by_risk = simulate(*common, save_at=2, first_passage=relative)
    by_overlap = simulate(*common, save_at=2, first_passage=FirstPassage("overlap", level))
    assert np.array_equal(by_risk.first_passage.times, by_overlap.first_passage.times)
    coarse = FirstPassage("overlap", level, every=50)
    later = simulate(*common, save_at=2, first_passage=coarse).first_passage.times
    steps = np.rint(later / by_risk.provenance["time_step_times_dim"] * 200)
    assert np.all(steps % 50 == 0)
    assert np.all(later >= by_risk.first_passage.times)


def test_censored_passages_are_kept_and_means_refused():
    watched = FirstPassage("overlap", 0.95)
    runs = simulate(PHASE, SPHERE, 300, 1.2, 8, None, "overlaps", save_at=2, first_passage=watched)
    times = runs.first_passage
    assert times.censored.any()
    assert runs.seed_status.count(Status.OK) == times.censored.sum()
    with pytest.raises(ValueError, match=r"of 8 runs had not passed"):
        _ = times.mean
    assert times.quantile(1.0) == np.inf
    known = PassageTimes(np.array([1.0, np.nan, 3.0]), np.array([1.0, 5.0, 3.0]))
    assert known.quantile(0.3) == 1.0
    assert known.quantile(0.9) == np.inf


def test_risk_of_a_diverging_run_ends():
    """The rule of a smooth pair of variance C has sqrt(C) nodes a field: none above 1e4."""
    model = Model(Committee(SQUARE, 1), Committee(sp.sign(z), 1))
    for variance, is_finite in ((1e3, True), (1e9, False)):
        start = Overlaps([[variance]], [[0.1]])
        runs = simulate(model, SGD(1e-9), 100, 1e-9, 1, start, "overlaps", save_at=2)
        assert np.isfinite(runs.runs.risk).all() == is_finite


def test_diverging_seeds_are_counted_and_left_out():
    # Far beyond the stability limit, but over so short a time that some runs survive.
    runs = simulate(PHASE, SGD(1.0), 30, 3.0, 12, Overlaps([[1.0]], [[0.2]]), "overlaps", save_at=4)
    lost = [s in (Status.DIVERGED, Status.NONFINITE) for s in runs.seed_status]
    assert any(lost)
    assert runs.status in (Status.DIVERGED, Status.NONFINITE)
    assert f"{sum(lost)} of 12 seeds" in runs.message or lost.count(True) != 12
    assert "left out of the means" in runs.message
    assert len(runs.counted) == 12 - sum(lost)
    if runs.counted:
        kept = runs.runs.Q[np.logical_not(lost)]
        assert np.array_equal(runs.mean.Q, kept.mean(axis=0))
    else:
        assert np.isnan(runs.mean.Q).all()


def test_interrupt_keeps_finished_seeds():
    def interrupt(fraction, message):
        if not message.startswith("0/"):
            raise KeyboardInterrupt

    # The second seed's run would take minutes.
    runs = simulate(
        ERF_22, SGD(0.01), 4000, 1.0, [0, 1, 2], START, "overlaps",
        save_at=2, threads=1, progress=interrupt,
    )  # fmt: skip
    assert runs.seed_status[0] == Status.OK
    assert runs.seed_status[-1] == Status.INTERRUPTED
    assert runs.status == Status.INTERRUPTED
    assert 0 in runs.counted
    assert 2 not in runs.counted
    assert np.isfinite(runs.mean.Q).all()


def test_an_interrupted_parallel_job_stops_its_simulations():
    flag = threading.Event()
    flag.set()
    token = CANCELLED.set(flag)
    try:
        runs = simulate(ERF_22, SGD(0.5), 30, 1.0, 2, START, "overlaps", save_at=2)
    finally:
        CANCELLED.reset(token)
    assert set(runs.seed_status) == {Status.INTERRUPTED}


def test_failing_progress_function_ends_the_runs():
    def fail(fraction, message):
        raise RuntimeError("no terminal")

    with pytest.raises(RuntimeError, match="no terminal"):
        simulate(ERF_22, SGD(1e-3), 4000, 5.0, 2, START, "overlaps", progress=fail)


def test_files_give_back_the_record(tmp_path):
    watched = FirstPassage("overlap", 0.45, stop=False)
    runs = simulate(
        ERF_22, SGD(0.5), 30, 1.0, 3, START, "overlaps", save_at=3, first_passage=watched
    )
    path = runs.save(tmp_path / "runs.nc")
    back = Ensemble.load(path)
    assert all(same(getattr(back, s), getattr(runs, s)) for s in ("mean", "std", "stderr", "runs"))
    assert np.array_equal(back.first_passage.times, runs.first_passage.times, equal_nan=True)
    plain = ("seeds", "seed_status", "status", "message", "dim", "provenance")
    assert all(getattr(back, name) == getattr(runs, name) for name in plain)
    data = runs.to_xarray()
    assert data.M_stderr.dims == ("t", "p", "k")
    assert np.array_equal(data.Q_runs.sel(seed=2), runs.runs.Q[2])
    lean = simulate(ERF_22, SGD(0.5), 30, 1.0, 3, START, "overlaps", save_at=3, keep_runs=False)
    assert lean.runs is None
    assert Ensemble.load(lean.save(tmp_path / "lean.nc")).runs is None
    assert same(lean.mean, runs.mean)


def test_equal_records_compare_equal(tmp_path):
    watched = FirstPassage("overlap", 0.45, stop=False)

    def run(rate):
        return simulate(
            ERF_22, SGD(rate), 30, 1.0, 2, START, "overlaps", save_at=3, first_passage=watched
        )

    runs = run(0.5)
    assert runs == pickle.loads(pickle.dumps(runs))
    assert runs == Ensemble.load(runs.save(tmp_path / "runs.nc"))
    assert runs != run(0.4)
    assert runs.mean != runs.std
