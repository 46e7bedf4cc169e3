"""Figures of runs: what is drawn is what the records hold, checked on the artists."""

import sys
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest
import sympy as sp

pytest.importorskip("matplotlib")

import dmft
from dmft.analysis.escape_paths import EscapeTimes
from dmft.display.plots import plot
from dmft.display.style import symbol, time_label, wants_log
from dmft.errors import BadParameter, MissingExtra
from dmft.names import Status
from dmft.solvers.solution import Values


@dataclass
class Run:
    """A record with the attributes of a trajectory and values that a test can recognise."""

    t: np.ndarray
    p: int = 2
    k: int = 1
    status: Status = Status.OK
    provenance: dict = field(
        default_factory=lambda: {"time_unit": "t = steps * learning_rate / (p d), p fixed"}
    )

    def __post_init__(self):
        rows = np.arange(self.t.size, dtype=float)
        j, r = np.arange(self.p), np.arange(self.k)
        self.M = rows[:, None, None] + 10 * j[:, None] + 100 * r[None, :] + 0.5
        self.Q = rows[:, None, None] + 1000 * (1 + j[:, None] + j[None, :])
        self.risk = np.exp(-rows)

    def __getitem__(self, name):
        return getattr(self, name)


def ensemble(t, p=2, k=1):
    mean = Run(t, p, k)
    stderr = SimpleNamespace(
        M=np.full(mean.M.shape, 0.25), Q=np.full(mean.Q.shape, 0.5), risk=0.1 * mean.risk
    )
    return SimpleNamespace(
        t=t, mean=mean, stderr=stderr, dim=50, counted=(0, 1, 2), provenance=mean.provenance
    )


@pytest.fixture
def folder(tmp_path):
    return tmp_path


def curves(panel):
    return [line.get_ydata() for line in panel.get_lines()]


def test_every_overlap_of_a_trajectory_is_one_line(folder):
    run = Run(np.linspace(0, 4, 5), p=3, k=2)
    overlaps, risk = plot(run, path=folder / "a.png")
    drawn = {tuple(y) for y in curves(overlaps)}
    expected = {tuple(run.M[:, j, r]) for j in range(3) for r in range(2)}
    expected |= {tuple(run.Q[:, j, n]) for j in range(3) for n in range(j + 1)}
    assert drawn == expected
    assert len(curves(overlaps)) == 6 + 6
    np.testing.assert_array_equal(curves(risk)[0], run.risk)
    assert (folder / "a.png").stat().st_size > 1000


def test_simulated_points_carry_their_error_bars_in_the_colour_of_the_line(folder):
    t = np.linspace(0, 4, 5)
    overlaps, risk = plot(Run(t), ensemble(t), path=folder / "a.pdf")
    bars = overlaps.containers
    assert len(bars) == 2 + 3  # M_j1 for two students; Q_jj twice and Q_12
    for bar in bars:
        points, _, (segments,) = bar.lines
        half = 0.5 * np.diff([s[:, 1] for s in segments.get_segments()], axis=1)[:, 0]
        assert set(half.round(12)) <= {0.25, 0.5}
        lines = [
            line
            for line in overlaps.get_lines()
            if np.array_equal(line.get_ydata(), points.get_ydata()) and line is not points
        ]
        assert {line.get_color() for line in lines} == {points.get_color()}
    (segments,) = risk.containers[0].lines[2]
    high = np.array([s[1, 1] for s in segments.get_segments()])
    np.testing.assert_allclose(high, 1.1 * np.exp(-np.arange(5.0)), rtol=1e-12)
    labels = [text.get_text() for text in risk.get_legend().get_texts()]
    assert labels == ["theory", "d = 50: mean of 3 runs ± standard error"]
    assert (folder / "a.pdf").read_bytes().startswith(b"%PDF")


def test_many_saved_times_are_thinned_to_readable_points(folder):
    t = np.concatenate([[0.0], np.geomspace(1e-2, 1e3, 500)])
    overlaps, _ = plot(ensemble(t))
    drawn = overlaps.containers[0].lines[0].get_xdata()
    assert 15 <= drawn.size <= 30
    # Even on the logarithmic axis, ends included.
    assert overlaps.get_xscale() == "log"
    gaps = np.diff(np.log(drawn[drawn > 0.01]))
    assert gaps.max() < 2.5 * np.median(gaps)
    assert drawn[-1] == 1e3


def test_labels_name_quantities_and_the_time_unit(folder):
    overlaps, risk = plot(Run(np.linspace(0, 1, 3)), title="a run")
    assert risk.get_ylabel() == r"risk $\mathcal{R}$"
    assert overlaps.get_xlabel() == r"time $t = \mathrm{steps}\,\gamma/(pd)$"
    texts = [t.get_text() for t in overlaps.get_legend().get_texts()]
    assert texts == ["$M_{j1}$", "$Q_{jj}$", "$Q_{jl}$"]
    assert overlaps.figure.get_suptitle() == "a run"


def test_simulations_are_drawn_in_steps_next_to_a_map():
    square = dmft.Committee(sp.Symbol("z", real=True) ** 2, 1)
    model, sgd = dmft.Model(square, square), dmft.SGD(1.0, batch_size=100, constraint="sphere")
    start = dmft.Overlaps([[1.0]], [[0.3]])
    run = dmft.solve(dmft.derive(model, sgd, dim=100), start, 10)
    chains = dmft.simulate(model, sgd, 100, 0.1, 2, start, "overlaps", save_at=3)
    overlaps, _ = plot(run, chains)
    assert overlaps.get_xlabel() == "step $t$"
    np.testing.assert_allclose(overlaps.containers[0].lines[0].get_xdata(), [0, 5, 10])


def test_tick_labels_are_values_without_an_offset(folder):
    """Lengths that stay 1 up to rounding read as 1, not as 75 above an offset."""
    run = Run(np.linspace(0.0, 9.0, 10), p=1)
    run.risk = 1 - 1e-7 * run.t
    axes = plot(run, path=folder / "run.png")
    for ax in np.ravel(axes):
        for axis in (ax.xaxis, ax.yaxis):
            assert axis.get_offset_text().get_text() == ""


def test_a_run_that_failed_says_so_in_the_figure(folder):
    run = Run(np.linspace(0, 3, 4), status=Status.LEFT_DOMAIN)
    _, risk = plot(run)
    assert "left domain" in [t.get_text() for t in risk.texts]
    _, risk = plot(Run(np.linspace(0, 3, 4)))
    assert not risk.texts


def test_given_axes_are_used_and_no_global_state_changes(folder):
    import matplotlib
    from matplotlib import pyplot as plt

    before = dict(matplotlib.rcParams)
    numbers = plt.get_fignums()
    figure = matplotlib.figure.Figure()
    axes = figure.subplots(2, 1)
    got = plot(Run(np.linspace(0, 1, 3)), ax=axes, path=folder / "a.svg")
    assert list(got) == list(axes)
    assert dict(matplotlib.rcParams) == before
    assert plt.get_fignums() == numbers
    assert (folder / "a.svg").read_text().startswith("<?xml")


@pytest.mark.parametrize(
    ("records", "options", "reason"),
    [
        ((), {}, "at least one record"),
        ((3,), {}, "not int"),
        ((Run(np.linspace(0, 1, 3)),), {"path": "a.exe"}, "must end in"),
    ],
)
def test_refusals(records, options, reason):
    with pytest.raises(BadParameter, match=reason):
        plot(*records, **options)


def test_missing_matplotlib_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtra, match=r'pip install "dmft\[plot\]"'):
        plot(Run(np.linspace(0, 1, 3)))


def test_symbols_and_axes():
    assert symbol("learning_rate") == r"$\gamma$"
    assert symbol("gamma") == r"$\gamma$"
    assert symbol("s") == "$s$"
    assert symbol("noise_level") == r"$\mathrm{noise}_{\mathrm{level}}$"
    assert time_label("") == "time $t$"
    assert wants_log(np.geomspace(0.1, 1e3, 50))
    assert not wants_log(np.linspace(0, 1e3, 50))


def test_escapes_are_marked_on_their_run(folder):
    run = Run(np.linspace(0, 4, 5))
    seen = SimpleNamespace(value=2.5, threshold=0.05, reference="start")
    overlaps, risk = plot(run, seen)
    for panel in (overlaps, risk):
        marks = [line for line in panel.get_lines() if list(line.get_xdata()) == [2.5, 2.5]]
        assert len(marks) == 1
    assert "escape at t = 2.5" in [t.get_text() for t in risk.get_legend().get_texts()]

    class Late:
        threshold, reference = 0.05, "start"

        @property
        def value(self):
            raise AttributeError("not seen")

    _, risk = plot(run, Late())
    assert [t.get_text() for t in risk.get_legend().get_texts()] == ["theory"]
    with pytest.raises(BadParameter, match="on its run"):
        plot(seen)


def specialised(seeds=(0, 1, 1, 0), readouts=(1.0, 1.0)):
    """Runs in which unit `seed` learns the first teacher neuron; noise differs from run to run."""
    t = np.linspace(0, 4, 9)
    learned, lost = np.tanh(t), 0.1 * np.exp(-t)
    M = np.empty((len(seeds), t.size, 2, 2))
    for n, seed in enumerate(seeds):
        M[n, :, seed] = np.stack([learned, lost], axis=1) + 1e-3 * n
        M[n, :, 1 - seed] = np.stack([lost, learned], axis=1) + 1e-3 * n
    Q = M @ M.swapaxes(2, 3)
    values = {"M": M, "Q": Q, "readout": np.broadcast_to(readouts, (len(seeds), t.size, 2))}
    values["risk"] = np.exp(-t) * np.ones((len(seeds), 1))
    record = SimpleNamespace(
        t=t, mean=Values({n: y.mean(0) for n, y in values.items()}), runs=Values(values),
        stderr=Values({n: y.std(0, ddof=1) / 2 for n, y in values.items()}), dim=50,
        counted=tuple(range(len(seeds))), seed_status=(Status.OK,) * len(seeds), provenance={},
    )  # fmt: skip
    run = SimpleNamespace(t=t, M=M[0], Q=Q[0], risk=np.exp(-t), status=Status.OK, provenance={})
    return run, record


def points(panel):
    return [bar.lines[0].get_ydata() for bar in panel.containers]


def test_runs_are_averaged_after_their_equivalent_units_are_permuted():
    """The plain average of M_11 over runs that learn either neuron ends near 1/2."""
    run, record = specialised()
    for records in ((run, record), (record,)):
        overlaps, risk = plot(*records)
        M = points(overlaps)[:4]
        want = [run.M[:, j, r] for r in range(2) for j in range(2)]
        np.testing.assert_allclose(M, np.add(want, 1.5e-3), atol=1e-12)
        np.testing.assert_allclose(points(risk)[0], record.mean.risk)
        # Errors are those of the permuted runs: 0, 1, 2, 3 thousandths.
        (segments,) = overlaps.containers[0].lines[2]
        half = 0.5 * np.diff([s[:, 1] for s in segments.get_segments()], axis=1)
        np.testing.assert_allclose(half, 1e-3 * np.std(range(4), ddof=1) / 2, rtol=1e-9)
    # Units in another order than the theory's are permuted to it.
    other = SimpleNamespace(**{**vars(run), "M": run.M[:, ::-1], "Q": run.Q[:, ::-1, ::-1]})
    M = points(plot(other, record)[0])[:4]
    np.testing.assert_allclose(M, [other.M[:, j, r] + 1.5e-3 for r in (0, 1) for j in (0, 1)])


def test_units_of_different_readouts_are_not_permuted():
    _, record = specialised(readouts=(1.0, -1.0))
    M = points(plot(record)[0])[:4]
    np.testing.assert_array_equal(M, [record.mean.M[:, j, r] for r in (0, 1) for j in (0, 1)])


def test_simulated_units_stay_on_the_lines_after_they_specialise():
    """Seeds of SGD break the symmetry either way; permuted, all follow the theory."""
    model, sgd = dmft.literature.saad_solla(2, 2), dmft.SGD(1.0)
    start = dmft.Overlaps(np.eye(2), [[0.012, 0.01], [0.01, 0.012]])
    run = dmft.solve(dmft.derive(model, sgd), start, 400.0)
    runs = dmft.simulate(model, sgd, 1000, 400.0, 6, start, "overlaps", save_at=26)
    ends = runs.runs.M[:, -1]
    swapped = ends[:, 0, 0] < ends[:, 0, 1]
    assert 0 < swapped.sum() < 6
    assert np.all(np.abs(runs.mean.M[-1] - run.M[-1]) > 0.1)
    M = np.array([y[-1] for y in points(plot(run, runs)[0])[:4]])
    np.testing.assert_allclose(M, run.M[-1].T.ravel(), atol=0.05)


def test_escape_times_of_many_runs_are_a_distribution():
    times = np.random.default_rng(0).gamma(4.0, 1.0, 400)
    seen = EscapeTimes(times, times, np.full(400, 0.9), "start", np.ones(400))
    ax = plot(seen)
    heights, edges, _ = ax.patches[0].get_data()
    assert np.sum(heights * np.diff(edges)) == pytest.approx(1.0)
    assert ax.lines[0].get_xdata() == [seen.mean] * 2
    words = [t.get_text() for t in ax.get_legend().get_texts()]
    assert words == ["400 runs", rf"mean {seen.mean:.3g} $\pm$ {seen.stderr:.1g}"]
    # A quarter is censored: the area is what escaped, and the median stands for the mean.
    late = np.quantile(times, 0.75)
    cut = np.where(times < late, times, np.nan)
    some = EscapeTimes(cut, np.fmin(times, late), np.full(400, 0.9), "start", np.ones(400))
    ax = plot(some)
    heights, edges, _ = ax.patches[0].get_data()
    assert np.sum(heights * np.diff(edges)) == pytest.approx(0.75)
    assert ax.get_legend().get_texts()[0].get_text() == "400 runs, 100 not escaped"
    assert ax.lines[0].get_xdata()[0] == pytest.approx(np.median(times), rel=0.01)
    # With a run: the median is marked on it.
    _, risk = plot(Run(np.linspace(0, 4, 5)), some)
    assert any("median escape" in t.get_text() for t in risk.get_legend().get_texts())


def test_noise_of_solvers_is_not_drawn_as_structure():
    run = Run(np.linspace(0, 9, 10), p=1)
    noise = 1e-11 * np.random.default_rng(0).standard_normal(10)
    run.M, run.Q = 0.2 + noise[:, None, None], 0.2 - noise[:, None, None]
    run.risk = np.maximum(10.0 ** -np.arange(0, 20, 2), 1e-12 + np.abs(noise))
    overlaps, risk = plot(run)
    assert np.ptp(overlaps.get_ylim()) > 0.05
    assert risk.get_ylim()[0] == pytest.approx(1e-10)
    # What a run at smaller tolerances resolves is drawn.
    run.provenance = {"atol": 1e-14}
    assert plot(run)[1].get_ylim()[0] < 1e-11
    run.provenance, run.risk = {}, np.abs(noise)
    _, risk = plot(run)
    assert risk.get_yscale() == "linear"
    assert np.ptp(risk.get_ylim()) > 0.05


def test_files_have_300_dots_per_inch(folder):
    from matplotlib.image import imread

    axes = plot(Run(np.linspace(0, 4, 5)), path=folder / "a.png", width="column")
    height, width = imread(folder / "a.png").shape[:2]
    assert (width, height) == tuple(np.int64(300 * axes[0].figure.get_size_inches()))


def test_a_schedule_has_no_title_of_diagnostics():
    t = np.linspace(0, 1, 5)
    schedule = SimpleNamespace(
        t=t, value=1 + t, control="learning_rate", interpolation="linear",
        run=Run(t), hamiltonian=-0.0032663 + 1e-10 * t, minimises="risk",
    )  # fmt: skip
    control, risk = plot(schedule)
    assert control.get_title() == risk.get_title() == ""
    assert risk.get_ylabel() == r"risk $\mathcal{R}$"
