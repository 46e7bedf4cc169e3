"""The contract of all results of `solve`: names, the start that they end in, tables, files."""

import dataclasses
import functools
import pickle

import numpy as np
import pytest
import sympy as sp

import dmft
from dmft.errors import BadParameter, InvalidCovariance
from dmft.solvers.solution import Solution

Z = sp.Symbol("z", real=True)
FIELD, TARGET, LABEL, X, H = sp.symbols("h h_star y x H", real=True)
SQUARE = dmft.Committee(Z**2, width=1)
LINE = dmft.Committee(Z, width=1)
START = dmft.Overlaps([[1.0]], [[0.3]])


@functools.cache
def one_pass():
    eqs = dmft.derive(dmft.Model(SQUARE, SQUARE), dmft.SGD(0.05))
    return eqs, dmft.solve(eqs, START, 1.0)


@functools.cache
def a_map():
    eqs = dmft.derive(dmft.Model(LINE, LINE), dmft.SGD(10, batch_size=1000), dim=1000)
    return eqs, dmft.solve(eqs, START, 4)


def paths():
    eqs = dmft.derive(
        dmft.Model(SQUARE, SQUARE), dmft.SGD(0.05, constraint="sphere"), dim=1000, fluctuations=True
    )
    return eqs, dmft.solve(eqs, START, 1.0, paths=4, dt=0.1, keep_paths=True)


def sequence():
    model = dmft.literature.positional_semantic(1.0, 0.5)
    eqs = dmft.derive(model, dmft.GradientFlow())
    return eqs, dmft.solve(eqs, dmft.Alignment(0.1, 0.2), 1.0)


def descent():
    eqs = dmft.derive(dmft.Model(LINE, LINE), dmft.GradientDescent(0.2, samples_per_dim=2))
    return eqs, dmft.solve(eqs, START, 3)


def flow():
    algorithm = dmft.GradientDescent(1, samples_per_dim=2)
    eqs = dmft.derive(dmft.Model(LINE, LINE), algorithm, scaling="gradient-flow")
    return eqs, dmft.solve(eqs, START, 0.5, points=4)


def two_time():
    glass = dmft.literature.spherical_p_spin(3)
    return glass, dmft.solve(glass, None, 1.0)


def simulation():
    model = dmft.Model(SQUARE, SQUARE)
    runs = dmft.simulate(model, dmft.SGD(0.05), 50, 1.0, 4, START, "overlaps", save_at=3)
    return dmft.derive(model, dmft.SGD(0.05)), runs


def simulated_sequence():
    z = sp.symbols("z1:3", real=True)
    model = dmft.Model(dmft.SequenceNetwork(Z**2, 2), dmft.SequenceTarget(z[0] * z[1], z))
    runs = dmft.simulate(model, dmft.SGD(0.1), 50, 0.1, 4, dmft.Alignment(m=0.5), "overlaps")
    return dmft.derive(model, dmft.SGD(0.1)), runs


def simulated_descent():
    model, algorithm = dmft.Model(LINE, LINE), dmft.GradientDescent(0.2, samples_per_dim=2)
    return dmft.derive(model, algorithm), dmft.simulate(model, algorithm, 50, 2, 4, START)


SIMULATED = (simulation, simulated_sequence, simulated_descent)
CASES = (one_pass, a_map, paths, sequence, descent, flow, two_time, *SIMULATED)


@pytest.fixture(scope="module", params=CASES, ids=[case.__name__ for case in CASES])
def case(request):
    return request.param.__name__, *request.param()


def test_names_are_attributes_and_keys(case):
    _, _, run = case
    assert isinstance(run, Solution)
    assert run.status == "ok"
    assert list(run) == ["t", *run.names]
    for name in run.names:
        np.testing.assert_array_equal(run[name], getattr(run, name))
        assert name in dir(run)
    with pytest.raises(AttributeError, match=f"{type(run).__name__} has no 'nothing'; it has"):
        _ = run.nothing
    with pytest.raises(KeyError, match="has no 'nothing'"):
        run["nothing"]
    if getattr(run, "final", None) is None:
        with pytest.raises(AttributeError, match=r"were not saved|with a larger t_max"):
            _ = run.final
    assert repr(run).startswith(f"{type(run).__name__}(ok: ")
    assert "time_unit" in run.provenance


@pytest.mark.cases(5)
def test_files_and_pickles_hold_an_equal_record(case, tmp_path):
    _, _, run = case
    for again in (pickle.loads(pickle.dumps(run)), dmft.load(run.save(tmp_path / "run.nc"))):
        assert type(again) is type(run)
        assert again == run
    for other in CASES[:2]:
        if other.__name__ != case[0]:
            assert run != other()[1]


@pytest.mark.parametrize("name", ["s", "saved", "offsets", "C_error"])
def test_functions_of_two_times_may_have_the_names_of_a_file(name, tmp_path):
    t, s = sp.symbols("t s")
    C, own = sp.Function("C"), sp.Function(name)
    rates = {C(t, s): -own(t) * C(t, s)}
    system = dmft.TwoTime(rates=rates, values={C(t, t): 1, own(t): t}, causal=[])
    run = dmft.solve(system, None, 0.5)
    assert dmft.load(run.save(tmp_path / "run.nc")) == run
    data = run.to_xarray()
    np.testing.assert_array_equal(data["C"], run.table("C"))
    if name != "C_error":
        np.testing.assert_array_equal(data[name], run[name])
        assert name in run.to_pandas() or name == "saved"  # a coordinate


@pytest.mark.parametrize("name", ["start_Q", "constant_P", "error_Q"])
def test_measures_may_have_the_names_of_a_file(name, tmp_path):
    psi = dmft.UpdateField(
        TARGET - FIELD, fields=(FIELD, TARGET, LABEL), learning_rate=0.5, measures={name: FIELD**2}
    )
    run = dmft.solve(dmft.derive(dmft.Model(LINE, LINE), psi), START, 0.2)
    assert dmft.load(run.save(tmp_path / "run.nc")) == run
    np.testing.assert_array_equal(run.to_xarray()[name], run[name])


def test_whole_floats_are_options_of_descents():
    wide = dmft.Committee(sp.tanh(Z), width=1)
    eqs = dmft.derive(dmft.Model(wide, LINE), dmft.GradientDescent(0.2, samples_per_dim=2))
    runs = [
        dmft.solve(eqs, START, 2, samples=number(2**8), scrambles=number(2), seed=number(3))
        for number in (int, float)
    ]
    np.testing.assert_array_equal(runs[0].M, runs[1].M)
    limit, known = flow()
    assert dmft.solve(limit, START, 0.5, points=4.0, levels=3.0).M.tolist() == known.M.tolist()
    with pytest.raises(BadParameter, match=r"seed = 1\.5 must be an integer"):
        dmft.solve(eqs, START, 2, seed=1.5)


def test_data_sets_hold_events_and_passages():
    eqs, _ = one_pass()
    seen = [dmft.Event("risk", level, terminal=False) for level in (0.4, 0.3)]
    run = dmft.solve(eqs, START, 20.0, events=seen)
    data = run.to_xarray()
    assert data["event_t"].values.tolist() == [event.t for event in run.events]
    assert data["event_M"].dims == ("event", "p", "k")
    np.testing.assert_array_equal(data["event_M"][1], run.events[1].state["M"])
    assert not [name for name in data if name.startswith("events_")]
    watched = dmft.FirstPassage("risk", 0.9, relative=True)
    runs = dmft.simulate(eqs.model, eqs.algorithm, 50, 20.0, 3, START, first_passage=watched)
    data, found = runs.to_xarray(), runs.first_passage
    assert data["first_passage"].dims == data["watched_until"].dims == ("seed",)
    np.testing.assert_array_equal(data["first_passage"], found.times)
    np.testing.assert_array_equal(data["watched_until"], found.horizon)


def test_complex_values_that_are_not_finite_are_kept(tmp_path):
    network = dmft.RandomNetwork(-X + H, state=X, field=H, std=0.5)
    runs = dmft.simulate(network, dim=4, t_max=0.2, seeds=2, start=0.5, dt=0.1)
    values = np.array([[complex(np.inf, 0), complex(0, -np.inf), complex(np.nan, 1), -1 + 2j]] * 2)
    runs = dataclasses.replace(runs, eigenvalues=values)
    again = dmft.load(runs.save(tmp_path / "runs.nc"))
    assert again == runs
    np.testing.assert_array_equal(again.eigenvalues.view(float), values.view(float))


def test_what_was_reached_is_a_start(case):
    name, eqs, run = case
    if name == "two_time":
        with pytest.raises(AttributeError, match="start at t = 0"):
            _ = run.final
        return
    if name.startswith("simul"):
        assert len(run.final) == len(run.runs[run.names[0]]) == 4
        again = dmft.solve(eqs, run.final[1], 1)
        last = "m" if "sequence" in name else "M"
        np.testing.assert_array_equal(again[last][0], run.runs[last][1, -1])
        return
    if name == "paths":
        assert len(run.final) == 4
        np.testing.assert_array_equal(run.final[2].M, run.paths.M[2, -1])
        again = dmft.solve(eqs, run.final, 0.2, paths=4, dt=0.1)
        np.testing.assert_allclose(again.mean.M[0], run.mean.M[-1], rtol=1e-14)
        return
    again = dmft.solve(eqs, run.final, run.t[1] if name == "flow" else 1)
    assert again.t[0] == 0.0
    for block in ("Q", "M") if name != "sequence" else ("e", "m"):
        np.testing.assert_allclose(again[block][0], run[block][-1], rtol=1e-14)


def test_what_was_built_is_solved_as_its_equations(case):
    name, eqs, run = case
    if name in ("flow", *(each.__name__ for each in SIMULATED)):
        return  # of a flow, the descent that steps through it is built
    given = {"paths": {"paths": 4, "dt": 0.1, "keep_paths": True}}.get(name, {})
    start = {"two_time": None, "sequence": dmft.Alignment(0.1, 0.2)}.get(name, START)
    again = dmft.solve(dmft.build(eqs), start, run.t[-1], **given)
    for block in run.names:
        np.testing.assert_array_equal(again[block], run[block])


def test_paths_that_were_not_kept_have_no_end():
    eqs = dmft.derive(
        dmft.Model(SQUARE, SQUARE), dmft.SGD(0.05, constraint="sphere"), dim=1000, fluctuations=True
    )
    with pytest.raises(AttributeError, match="keep_paths=True"):
        _ = dmft.solve(eqs, START, 0.2, paths=2, dt=0.1).final


def test_two_runs_make_one():
    """From `final`, the rest of the way is what one run over all of it finds."""
    eqs, first = one_pass()
    whole = dmft.solve(eqs, START, 2.0)
    second = dmft.solve(eqs, first.final, 1.0)
    np.testing.assert_allclose(second.M[-1], whole.M[-1], rtol=1e-7)
    np.testing.assert_allclose(second.Q[-1], whole.Q[-1], rtol=1e-7)


def test_perfect_recovery_is_a_start():
    """Its covariance lies below zero by what the tolerances allow: no start that one may write."""
    eqs = dmft.derive(dmft.Model(SQUARE, SQUARE), dmft.SGD(0.05))
    loose = {"rtol": 1e-3, "atol": 1e-5}
    end = dmft.solve(eqs, START, 20.0, **loose).final
    assert np.linalg.eigvalsh(end.Omega)[0] < -1e-8
    with pytest.raises(InvalidCovariance):
        dmft.Overlaps(end.Q, end.M, end.P)
    assert dmft.solve(eqs, end, 1.0, **loose).status == "ok"


def test_tables(case):
    pytest.importorskip("pandas")
    name, _, run = case
    table, data = run.to_pandas(), run.to_xarray()
    assert table.index.name == "t"
    np.testing.assert_array_equal(table.index, run.t)
    blocks = {"sequence": "m", "two_time": "E", "simulated_sequence": "m_mean"}
    averaged = name == "paths" or name.startswith("simul")
    block = blocks.get(name, "M_mean" if averaged else "M")
    column = f"{block}[0,0]" if block.startswith("M") else block
    np.testing.assert_array_equal(table[column], data[block].values.reshape(run.t.size))
    np.testing.assert_array_equal(data["t"], run.t)


OPTIONS = {"rtol": 1e-6, "atol": 1e-6, "save_at": 3, "max_steps": 7, "quadrature_tol": 1e-3}
# Options that other kinds have; the rest are refused, by name.
HAVE = {"paths": {"save_at"}, "descent": set(), "flow": set(), "two_time": {"save_at", "max_steps"}}


def test_options_of_other_kinds_are_refused(case):
    name, eqs, _ = case
    if name.startswith("simul"):
        return
    for option, value in OPTIONS.items():
        if option in HAVE.get(name, OPTIONS):
            continue
        with pytest.raises(BadParameter, match=f"have no option {option}="):
            dmft.solve(eqs, START if name != "two_time" else None, 1, **{option: value})


@pytest.mark.parametrize("system", [None, 3, "equations", dmft.Model(SQUARE, SQUARE)])
def test_what_is_no_system_is_refused(system):
    with pytest.raises(BadParameter, match="equations come from"):
        dmft.solve(system, START, 1.0)


@pytest.mark.parametrize("suffix", [".csv", ".json", ".npz", ".pkl", ".txt", ".mat"])
def test_suffixes_of_other_formats_are_refused(suffix, tmp_path):
    _, run = one_pass()
    with pytest.raises(BadParameter, match=rf"save writes netCDF, not \{suffix}.*to_csv"):
        run.save(tmp_path / f"run{suffix}")
    assert not list(tmp_path.iterdir())
    assert dmft.load(run.save(tmp_path / "run.h5")) == run


def test_tables_have_the_time_as_index_and_a_column_for_each_entry():
    model = dmft.literature.saad_solla(2, 2)
    start = dmft.Overlaps(np.eye(2), [[0.1, 0.0], [0.0, 0.2]])
    run = dmft.solve(dmft.derive(model, dmft.SGD(0.5)), start, 1.0, save_at=3)
    table = run.to_pandas()
    assert table.index.name == "t"
    np.testing.assert_array_equal(table.index, run.t)
    assert {"risk", "M[0,0]", "Q[0,1]", "readout[1]"} <= set(table.columns)
    np.testing.assert_array_equal(table["Q[0,1]"], run.Q[:, 0, 1])
