"""Events of simulated sequence models and descents: against the arrays of runs that went on."""

import numpy as np
import pytest
import sympy as sp

import dmft
from dmft.errors import BadParameter
from dmft.simulation.ensemble import FirstPassage
from dmft.simulation.watched import watched_expression

z = sp.Symbol("z", real=True)
z1, z2 = sp.symbols("z1:3", real=True)
ATTENTION = dmft.Attention(2)
TIED = dmft.Model(ATTENTION, ATTENTION.mixture(sp.Rational(1, 5), [[0.8, 0.2], [0.2, 0.8]]), 0.01,
                  encoding=1)  # fmt: skip
PRODUCT = dmft.SequenceTarget(z1 * z2, [z1, z2])
UNTIED = dmft.Model(dmft.SequenceNetwork(z**2, 2, tied=False), PRODUCT)
SEQUENCES = {
    "tied": (TIED, dmft.Alignment(e=0.3, m=0.4)),
    "untied": (UNTIED, dmft.Alignment(m=[0.3, 0.5])),
}
LINE = dmft.Committee(z, 1)
SQUARES = dmft.Committee(z**2, 2)
DESCENT = dmft.GradientDescent(0.1, samples_per_dim=2)
START = dmft.Overlaps([[1.0]], [[0.1]])


FUNCTIONS = [
    lambda t, s: -s["M"][0, 0],
    lambda t, s: 2.0 - s["M"][0, 0] + s["M"][0, 1] - 1.0,
    lambda t, s: (s["M"][0, 0] / 3.0 - 4.0 / s["M"][0, 1]) * s["M"][0, 0] * 2.0,
    lambda t, s: 2.0 ** s["M"][0, 0] - s["M"][0, 1] ** 3,
    lambda t, s: abs(s["M"][0, 0]) + np.sqrt(s["M"][0, 1]) * np.exp(-s["M"][0, 0]),
    lambda t, s: np.log(s["M"][0, 1]) - np.sin(s["M"][0, 0]) / np.cosh(s["M"][0, 1]),
    lambda t, s: (s["M"] @ s["M"].T)[0, 0] - s["M"].sum(),
]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_functions_are_followed_to_what_they_are_of_numbers(function):
    """Compiled steps watch the expression that a function of (t, state) makes of symbols."""
    M = np.array([[-0.37, 0.83]])
    expr = watched_expression(dmft.Event(function, 0.0), {"M": M.shape}, ())
    entries = {sp.Symbol(f"M[0,{r}]", real=True): M[0, r] for r in range(2)}
    assert expr.free_symbols <= set(entries)
    assert float(expr.subs(entries)) == pytest.approx(function(0.0, {"M": M}), rel=1e-12)


def first(values, threshold, direction):
    """Index of the first step after the start that is at or beyond the threshold, or nan."""
    beyond = (values - threshold) * direction >= 0
    after = np.flatnonzero(beyond[1:])
    return after[0] + 1 if after.size else np.nan


def crossings(runs, values, threshold, direction):
    """The same as times, of (seeds, T) values."""
    steps = [first(row, threshold, direction) for row in values]
    return np.array([np.nan if np.isnan(n) else runs.t[int(n)] for n in steps])


def sequences(case, method, **options):
    """Runs of which every step is saved."""
    model, start = SEQUENCES[case]
    step = 0.2 / 60 / (1 if case == "tied" else 2)
    times = step * np.arange(21)
    return dmft.simulate(
        model, dmft.SGD(0.2), 60, times[-1], 6, start, method, save_at=times, **options
    )


def tied(**options):
    return sequences("tied", "overlaps", **options)


def untied(**options):
    return sequences("untied", "overlaps", **options)


QUANTITIES = [
    ("tied", "m", lambda r: r.m, 1),
    ("tied", "m**2 + e**2", lambda r: r.m**2 + r.e**2, 1),
    ("tied", lambda t, s: np.sqrt(s["e"] ** 2) * s["m"], lambda r: np.abs(r.e) * r.m, 1),
    ("tied", sp.Symbol("e") - sp.Symbol("m"), lambda r: r.e - r.m, -1),
    ("tied", "overlap", lambda r: np.abs(r.m), 1),
    ("tied", "risk", lambda r: r.risk, -1),
    ("untied", "m[1] - m[0]", lambda r: r.m[..., 1] - r.m[..., 0], 1),
    ("untied", lambda t, s: s["m"] @ s["m"], lambda r: (r.m**2).sum(-1), 1),
    ("untied", "overlap", lambda r: np.abs(r.m).max(-1), 1),
    ("untied", "risk", lambda r: r.risk, -1),
]


@pytest.mark.cases(4)
@pytest.mark.parametrize("method", ["weights", "overlaps"])
@pytest.mark.parametrize(("case", "quantity", "read", "direction"), QUANTITIES)
def test_sequences_cross_where_their_arrays_do(case, method, quantity, read, direction):
    plain = sequences(case, method)
    values = read(plain.runs)
    # Reached by half of the runs.
    level = direction * float(np.median((direction * values).max(axis=1)))
    expected = crossings(plain, values, level, direction)
    assert np.isfinite(expected).sum() == 3
    noted = sequences(
        case, method, events=dmft.Event(quantity, level, direction, terminal=False), threads=1
    )
    np.testing.assert_array_equal(noted.first_passage.times, expected)
    np.testing.assert_array_equal(noted.runs.m, plain.runs.m)
    assert noted.status == "ok"
    ended = sequences(case, method, events=dmft.Event(quantity, level, direction), threads=2)
    np.testing.assert_array_equal(ended.first_passage.times, expected)
    passed = np.isfinite(expected)
    assert [s == "event" for s in ended.seed_status] == passed.tolist()
    for seed, end in enumerate(expected):
        # Values at the end of a run are not saved, as for committees.
        before = plain.t < (np.inf if np.isnan(end) else end)
        np.testing.assert_array_equal(ended.runs.m[seed][before], plain.runs.m[seed][before])
        assert np.isnan(ended.runs.m[seed][~before]).all()
    horizon = np.where(passed, expected, plain.t[-1])
    np.testing.assert_allclose(ended.first_passage.horizon, horizon)


@pytest.mark.cases(1)
@pytest.mark.parametrize("case", SEQUENCES)
def test_sequences_end_at_a_time(case):
    plain = sequences(case, "overlaps")
    event = dmft.Event("t", 0.71 * plain.t[-1])
    nearest = plain.t[np.argmin(np.abs(plain.t - event.threshold))]
    runs = sequences(case, "overlaps", events=event)
    assert (runs.status, runs.provenance["event"]) == ("event", event.name)
    np.testing.assert_array_equal(runs.first_passage.times, [nearest] * 6)
    inside = plain.t <= nearest
    np.testing.assert_array_equal(runs.runs.m[:, inside], plain.runs.m[:, inside])
    assert np.isnan(runs.runs.m[:, ~inside]).all()


def test_a_first_passage_is_tested_at_every_nth_step():
    plain = sequences("tied", "overlaps")
    reached = np.abs(plain.runs.m)
    level = float(np.median(reached.max(axis=1)))
    passage = FirstPassage("overlap", level, every=7)
    runs = sequences("tied", "overlaps", first_passage=passage)
    np.testing.assert_array_equal(
        runs.first_passage.times,
        [np.nan if np.isnan(n) else plain.t[7 * int(n)]
         for n in (first(row, level, 1) for row in reached[:, ::7])],
    )  # fmt: skip


def descent(algorithm=DESCENT, model=None, start=START, **options):
    model = dmft.Model(LINE, LINE, 0.1) if model is None else model
    return dmft.simulate(model, algorithm, 40, 25, 6, start, **options)


DESCENTS = [
    ("M[0,0]/sqrt(Q[0,0]*P[0,0])", lambda r: r.M[..., 0, 0] / np.sqrt(r.Q[..., 0, 0]), 1),
    (lambda t, s: float(s["M"][0, 0] if s["Q"] is not None else 0), lambda r: r.M[..., 0, 0], 1),
    (sp.Symbol("Q_11"), lambda r: r.Q[..., 0, 0], -1),
    (dmft.LargestCosine(), lambda r: np.abs(r.M[..., 0, 0]) / np.sqrt(r.Q[..., 0, 0]), 1),
    ("t/25 + M[0,0]", lambda r: np.arange(26) / 25 + r.M[..., 0, 0], 1),
    ("train_loss", lambda r: np.pad(r.train_loss, ((0, 0), (0, 1)), constant_values=9.0), -1),
]


@pytest.mark.cases(4)
@pytest.mark.parametrize("batch", [None, "bernoulli", "fresh"])
@pytest.mark.parametrize(("quantity", "read", "direction"), DESCENTS)
def test_descents_cross_where_their_arrays_do(quantity, read, direction, batch):
    fraction = {"batch_fraction": 0.5} if batch == "bernoulli" else {}
    algorithm = dmft.GradientDescent(0.1, samples_per_dim=2, batch=batch, **fraction)
    plain = descent(algorithm)
    values = read(plain.runs)
    # Reached by half of the runs; a step before the last, where levels are the ends of runs.
    level = direction * float(np.median((direction * values[:, :-2]).max(axis=1)))
    expected = crossings(plain, values, level, direction)
    assert np.isfinite(expected).sum() >= 3
    event = dmft.Event(quantity, level, direction, terminal=False)
    noted = descent(algorithm, events=event, threads=1)
    np.testing.assert_array_equal(noted.first_passage.times, expected)
    np.testing.assert_array_equal(noted.runs["corr"], plain.runs["corr"])
    ended = descent(algorithm, events=dmft.Event(quantity, level, direction), threads=2)
    np.testing.assert_array_equal(ended.first_passage.times, expected)
    passed = np.isfinite(expected)
    assert [s == "event" for s in ended.seed_status] == passed.tolist()
    np.testing.assert_array_equal(
        ended.first_passage.horizon, np.where(passed, expected, plain.t[-1])
    )
    for seed, end in enumerate(np.where(passed, expected, 25).astype(int)):
        for name in ("M", "Q", "readout"):
            np.testing.assert_array_equal(
                ended.runs[name][seed][: end + 1], plain.runs[name][seed][: end + 1]
            )
            assert np.isnan(ended.runs[name][seed][end + 1 :]).all()
        taken = ended.runs["corr"][seed]
        assert np.isnan(taken[end:]).all()
        np.testing.assert_array_equal(taken[:end, :end], plain.runs["corr"][seed][:end, :end])


@pytest.mark.cases(2)
@pytest.mark.parametrize(("at", "step"), [(0.0, 0), (6.6, 7), (25.0, 25)])
def test_descents_end_at_a_time(at, step):
    plain, runs = descent(), descent(events=dmft.Event("t", at))
    assert (runs.status, runs.provenance["event"]) == ("event", f"t = {at:g}")
    np.testing.assert_array_equal(runs.first_passage.times, [step] * 6)
    np.testing.assert_array_equal(runs.mean.M[: step + 1], plain.mean.M[: step + 1])
    assert np.isnan(runs.mean.M[step + 1 :]).all()
    later = descent(events=dmft.Event("t", 25.6))
    assert later.status == "ok"
    assert later.first_passage.censored.all()


def test_readouts_and_several_neurons_of_descents():
    model = dmft.Model(SQUARES, dmft.Committee(z**2, 1))
    start = dmft.Overlaps(np.eye(2), [[0.3], [0.1]])
    algorithm = dmft.GradientDescent(0.05, samples_per_dim=2, readout_rate=0.1)
    plain = descent(algorithm, model, start)
    values = plain.runs["readout"][..., 1] * plain.runs.M[..., 1, 0] - plain.runs.M[..., 0, 0]
    level = float(np.median(values[:, 1:-2].min(axis=1)))
    event = dmft.Event("readout[1]*M[1, 0] - M_11", level, -1)
    runs = descent(algorithm, model, start, events=event)
    np.testing.assert_array_equal(runs.first_passage.times, crossings(plain, values, level, -1))


def test_ended_runs_are_kept_whole_and_go_on_from_where_they_ended(tmp_path):
    line, level = dmft.Model(LINE, LINE, 0.1), 0.5
    chain = dmft.simulate(line, dmft.SGD(0.5), 60, 4.0, 6, START, "overlaps",
                          save_at=7, events=dmft.Event("M[0,0]", level, 1))  # fmt: skip
    descents = descent(events=dmft.Event("M[0,0]", level, 1))
    sequence = tied(events=dmft.Event("m", 0.41, 1))
    for runs in (chain, descents, sequence):
        runs.save(tmp_path / "runs.nc")
        assert dmft.load(tmp_path / "runs.nc") == runs
        assert "event" in runs.seed_status
    for end in (*chain.final, *descents.final):
        assert level <= end.M[0, 0] < level + 0.3
    for end, status in zip(sequence.final, sequence.seed_status, strict=True):
        assert (end.m >= 0.41) == (status == "event")
    for row, step, end in zip(
        descent().runs.M, descents.first_passage.times, descents.final, strict=True
    ):
        np.testing.assert_array_equal(row[int(step)], end.M)
    for runs in (chain, sequence):
        with pytest.raises(BadParameter, match="simulated with events="):
            dmft.escape_time(runs)
    with pytest.raises(BadParameter, match="runs of descents record no escape"):
        dmft.escape_time(descents)


def test_paths_that_ended_between_saved_times_have_no_final_state():
    square = dmft.Committee(z**2, 1)
    paths = dmft.derive(dmft.Model(square, square), dmft.SGD(0.05), dim=1000, fluctuations=True)
    run = dmft.solve(paths, dmft.Overlaps([[1.0]], [[0.5]]), 1.0, paths=2, dt=0.02,
                     keep_paths=True, events=dmft.Event("M[0,0]", 0.55))  # fmt: skip
    with pytest.raises(BadParameter, match="path 0 was ended by an event between saved times"):
        _ = run.final


def test_single_runs_are_left_out_when_asked():
    for run in (descent, tied):
        assert run(keep_runs=False).runs is None


@pytest.mark.parametrize(
    ("run", "quantity", "words"),
    [
        (descent, "risk", "unknown name 'risk' .*train_loss"),
        (descent, "m", "unknown name 'm'"),
        (descent, "M[1,0]", r"there is no M\[1,0\]"),
        (descent, lambda t, state: state["M"][:, 0] * [1, 2], "must return one number"),
        (
            lambda **o: sequences("tied", "overlaps", **o),
            "M[0,0]",
            "available: t, risk, overlap, e, m",
        ),
        (untied, "e", "unknown name 'e'"),
        (tied, sp.Symbol("N"), "no N here; available: t"),
        (tied, "t*m", "not the time"),
        (tied, dmft.LargestCosine(), "e, m, no Largest"),
        (tied, lambda t, s: s["x"], "cannot be traced"),
    ],
)
def test_refusals_say_what_there_is(run, quantity, words):
    with pytest.raises(BadParameter, match=words):
        run(events=dmft.Event(quantity, 0.5))


def test_errors_of_functions_are_theirs():
    with pytest.raises(KeyError, match="risk"):
        descent(events=dmft.Event(lambda t, state: state["risk"], 0.5))


def test_one_event_and_one_way():
    for run in (descent, tied):
        with pytest.raises(BadParameter, match="one event, got 2"):
            run(events=[dmft.Event("t", 1), dmft.Event("t", 2)])
        with pytest.raises(BadParameter, match="not both"):
            run(events=dmft.Event("t", 1), first_passage=FirstPassage("overlap", 0.1))
    with pytest.raises(BadParameter, match=r'events=dmft.Event\("risk", 0.1, -1\)'):
        sequences("tied", "overlaps", first_passage=FirstPassage("risk", 0.1))
