"""Figures of descents on repeated data, checked on the artists."""

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from dmft.display.plots import plot
from dmft.errors import BadParameter
from dmft.names import Status
from dmft.simulation.descent_runs import DescentEnsemble
from dmft.solvers.solution import Values
from dmft.solvers.two_time.run import DescentRun

T, P, K = 3, 2, 2


def arrays(scale=1.0, response=True):
    rng = np.random.default_rng(1)
    result = {
        "M": rng.standard_normal((T + 1, P, K)), "Q": rng.random((T + 1, P, P)),
        "Q2": 1 + rng.random((T + 1, T + 1, P, P)), "corr": 1 + rng.random((T, T, P, P)),
        "resp": rng.standard_normal((T, T, P, P)), "train_loss": rng.random(T),
        "risk": rng.random(T + 1), "readout": np.ones((T + 1, P)),
    }  # fmt: skip
    if not response:
        del result["resp"], result["risk"]
    return {name: scale * a for name, a in result.items()}


def run(status=Status.OK, **changed):
    values = {**arrays(), **changed}
    error = Values({name: 0.1 + 0 * a for name, a in values.items()})
    return DescentRun(Values(values), error, t=np.arange(T + 1.0), status=status, message="")


def ensemble():
    mean = Values(arrays(2.0, response=False))
    stderr = Values({name: 0.2 + 0 * a for name, a in mean.items()})
    return DescentEnsemble(
        mean,
        stderr,
        stderr,
        (0, 1, 2),
        (Status.OK,) * 3,
        50,
        t=np.arange(T + 1.0),
        status=Status.OK,
        message="",
    )


@pytest.fixture(scope="module")
def drawn_run(tmp_path_factory):
    """A run, its axes and the file that they went to."""
    record, path = run(), tmp_path_factory.mktemp("figures") / "a.png"
    return record, plot(record, path=path), path


def mesh(panel):
    image = panel.collections[0].get_array()
    return np.ma.filled(image, np.nan).reshape(image.shape)


@pytest.mark.slow
def test_curves_and_bands_of_a_run(drawn_run):
    record, axes, path = drawn_run
    assert axes.shape == (2, 3)
    drawn = [line.get_ydata() for line in axes[0, 0].get_lines()]
    for j in range(P):
        for r in range(K):
            assert any(np.array_equal(y, record.M[:, j, r]) for y in drawn)
    for j in range(P):
        for n in range(j + 1):
            assert any(np.array_equal(y, record.Q[:, j, n]) for y in drawn)
    assert np.array_equal(axes[0, 1].get_lines()[0].get_ydata(), record.train_loss)
    assert np.array_equal(axes[0, 2].get_lines()[0].get_ydata(), record.risk)
    band = axes[0, 1].collections[0].get_paths()[0].vertices
    assert np.isclose(band[:, 1].max(), (record.train_loss + 0.1).max())
    assert path.stat().st_size > 10_000


def test_maps_hold_the_first_component_and_are_causal(drawn_run):
    record, axes, _ = drawn_run
    assert np.array_equal(mesh(axes[1, 0]), record.corr[:, :, 0, 0])
    response = mesh(axes[1, 1])
    assert np.all(np.isnan(response[np.triu_indices(T, 1)]))
    assert np.array_equal(np.diag(response), np.diagonal(record.resp[:, :, 0, 0]))
    assert np.array_equal(mesh(axes[1, 2]), record.Q2[:, :, 0, 0])
    assert axes[1, 0].yaxis_inverted()


def test_theory_below_and_simulation_above_the_diagonal():
    theory, truth = run(), ensemble()
    axes = plot(theory, truth)
    shown = mesh(axes[1, 0])
    assert shown[2, 1] == theory.corr[2, 1, 0, 0]
    assert shown[1, 2] == truth.mean["corr"][1, 2, 0, 0]
    bars = [c for panel in axes[0, :2] for c in panel.containers]
    assert len(bars) == P * K + P * (P + 1) // 2 + 1
    assert "d = 50, 3 runs" in axes[0, 1].get_legend().get_texts()[-1].get_text()


def test_simulation_alone_has_no_response_and_other_losses_no_risk():
    axes = plot(ensemble())
    assert not axes[1, 1].axison
    assert not axes[0, 2].axison
    assert np.array_equal(mesh(axes[1, 2]), ensemble().mean["Q2"][:, :, 0, 0])


def test_ends_are_marked():
    axes = plot(run(Status.LEFT_DOMAIN))
    assert any("left domain" in t.get_text() for t in axes[0, 1].texts)


def test_refusals(drawn_run):
    with pytest.raises(BadParameter, match="six axes"):
        plot(run(), ax=drawn_run[1][0])
    with pytest.raises(BadParameter, match="together"):
        plot(run(), object())


def test_entries_that_are_not_known_are_grey_and_set_no_colours():
    """A response of 58 +- 70 is no signal: neither drawn, nor in the range of the colours."""
    record = run(Status.TOLERANCE_NOT_MET)
    record.arrays["resp"][2, 1, 0, 0] = 58.0
    record.error["resp"][2, 1, 0, 0] = 70.0
    axes = plot(record)
    panel = axes[1, 1]
    shown = mesh(panel)
    assert np.isnan(shown[2, 1])
    assert shown[1, 0] == record.resp[1, 0, 0, 0]
    assert panel.collections[0].get_clim()[1] < 10
    grey = np.ma.getmaskarray(panel.collections[1].get_array()).reshape(shown.shape)
    assert np.argwhere(~grey).tolist() == [[2, 1]]
    assert "not known" in panel.get_title()
    # Nothing ended early, and kernels that are known have no grey.
    assert not axes[0, 1].texts
    assert len(axes[1, 0].collections) == 1


def test_a_kernel_of_noise_is_not_drawn():
    record = run(Status.TOLERANCE_NOT_MET)
    record.error["resp"][:] = 100.0
    panel = plot(record)[1, 1]
    assert not panel.axison
    assert "errors exceed the values" in panel.texts[0].get_text()


@pytest.mark.parametrize("width", ["column", "page"])
def test_no_room_is_left_empty_at_a_given_width(width):
    """Panels with their labels fill the rows, and rows follow each other closely."""
    axes = plot(run(), ensemble(), width=width)
    figure = axes[0, 0].figure
    figure.draw_without_rendering()
    boxes = [ax.get_tightbbox() for ax in figure.axes]
    # Colour bars belong to the row of their map.
    levels = np.zeros(int(figure.bbox.height), dtype=bool)
    for box in boxes:
        levels[max(int(box.y0), 0) : int(box.y1)] = True
    empty = np.diff(np.flatnonzero(np.append(levels, True))).max() / figure.dpi
    assert empty < 0.4
    for panel in axes[1]:
        assert panel.bbox.width > (0.2 if width == "column" else 0.18) * figure.bbox.width
    filled = sum(b.width * b.height for b in boxes) / (figure.bbox.width * figure.bbox.height)
    assert filled > 0.75
    note = [t for t in axes[1, 0].texts if "simulation above" in t.get_text()]
    assert len(note) == 1
    assert [ax.get_title().strip() for ax in axes[1]] == ["", "", ""]
