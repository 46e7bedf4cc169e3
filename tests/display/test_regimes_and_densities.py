"""Planes of exponents and distributions of units: drawn, in the right places, refused otherwise."""

import numpy as np
import pytest
import sympy as sp

import dmft
from dmft.display.density import animate_density, plot_density

pytest.importorskip("matplotlib")
z = sp.Symbol("z", real=True)
MODEL = dmft.Model(dmft.Committee(z**2, 3), dmft.Committee(z**2, 1))


def test_regions_are_drawn_where_they_are(tmp_path):
    plane = dmft.regimes(MODEL)
    axes = dmft.plot(plane, path=tmp_path / "plane.png")
    assert (tmp_path / "plane.png").stat().st_size > 5000
    words = {t.get_text().split("\n")[0]: t.get_position() for t in axes.texts}
    for name in ("mean-field", "noise-dominated", "no ode"):
        kappa, delta = words[plane[name].title]
        assert plane.at(dmft.Scaling(-round(kappa, 6), round(delta, 6))).name == name
    # The boundaries cross the axis delta = 0 at 0 and -1/2.
    ends = sorted(line.get_xdata()[0] for line in axes.lines if len(set(line.get_ydata())) > 1)
    assert ends == [-0.5, 0.0]


@pytest.mark.slow
def test_densities_of_a_run(tmp_path):
    start = dmft.Overlaps(np.diag([1.0, 0.9, 0.8]), [[0.1], [-0.2], [0.3]])
    eqs = dmft.derive(MODEL, dmft.GradientFlow(), scaling="mean-field")
    run = dmft.solve(eqs, start, t_max=1.0, save_at=4)
    axes = plot_density(run, at=0)
    points = np.asarray(axes.collections[0].get_offsets())
    np.testing.assert_allclose(points[:, 0], [0.1, -0.2, 0.3])
    np.testing.assert_allclose(points[:, 1] ** 2, [0.99, 0.86, 0.71])
    from PIL import Image

    with Image.open(animate_density(run, tmp_path / "density.gif")) as picture:
        assert picture.n_frames == 4
    full = dmft.solve(dmft.derive(MODEL, dmft.GradientFlow()), start, t_max=0.1)
    with pytest.raises(dmft.errors.BadParameter, match="mean-field"):
        plot_density(full)
    with pytest.raises(dmft.errors.BadParameter, match="gif"):
        animate_density(run, tmp_path / "density.avi")


def test_wide_runs_are_drawn_by_a_sample_of_units(tmp_path):
    rng = np.random.default_rng(0)
    M = 0.1 * rng.standard_normal((200, 1))
    start = dmft.Overlaps(np.eye(200) + M @ M.T, M)
    wide = dmft.Model(dmft.Committee(z**2, 200), dmft.Committee(z**2, 1))
    run = dmft.solve(
        dmft.derive(wide, dmft.GradientFlow(), scaling="mean-field"), start, t_max=1.0, save_at=5
    )
    overlaps, risk = dmft.plot(run)
    assert len(overlaps.lines) == 120
    drawn = [line.get_ydata() for line in overlaps.lines[:60]]
    # From the least to the most aligned unit.
    last = np.abs(run.M[-1, :, 0])
    assert abs(drawn[0][-1]) == last.min()
    assert abs(drawn[-1][-1]) == last.max()
    np.testing.assert_array_equal(risk.lines[0].get_ydata(), run.risk)
    assert "(60 of 200)" in overlaps.get_legend().texts[1].get_text()


@pytest.mark.slow
def test_infinitely_wide_students_are_drawn(tmp_path):
    model = dmft.literature.phase_retrieval(100)
    sgd = dmft.SGD(20, constraint="sphere")
    equations = dmft.derive(model, sgd, scaling="wide-high-dimensional")
    start = dmft.random_overlaps(model, 10_000, seed=0, normalised=True)
    run = dmft.solve(equations, start, t_max=1.0, save_at=11)
    overlaps, risk = dmft.plot(run)
    assert [line.get_label() for line in overlaps.lines] == ["$X$", "$Y$", "$C$"]
    np.testing.assert_array_equal(overlaps.lines[2].get_ydata(), run.coupling[:, 0])
    np.testing.assert_array_equal(risk.lines[0].get_ydata(), run.risk)


def test_two_time_runs_are_drawn(tmp_path):
    run = dmft.solve(dmft.literature.spherical_p_spin(3), None, 5.0, save_at=[1.0, 2.0, 5.0])
    panels = dmft.plot(run)
    assert panels.size == 1 + len(run.pairs)
    (energy,) = [line for line in panels[0].lines if line.get_label() == "$E$"]
    np.testing.assert_array_equal(energy.get_ydata(), run.signals["E"][run.t > 0])
    s, values = run.row(next(iter(run.pairs)), 5.0)
    drawn = panels[1].lines[-1]
    np.testing.assert_array_equal(drawn.get_ydata(), values[s < 5.0])
    np.testing.assert_allclose(drawn.get_xdata(), 5.0 - s[s < 5.0])


def test_curves_of_records_without_time():
    line = dmft.Committee(z, 1)
    model, sgd = dmft.literature.phase_retrieval(1), dmft.SGD(0.02, constraint="sphere")
    (_, curve) = dmft.plot(dmft.weak_recovery(model, sgd)).lines
    m, rate = curve.get_data()
    # dM/dt = M [(4 - 24 gamma)(1 - M^2)] without label noise.
    np.testing.assert_allclose(rate, m * (4 - 24 * 0.02) * (1 - m**2), atol=1e-12)
    found = dmft.state_evolution(dmft.Model(line, line, label_noise=1), 2.0)
    axes = dmft.plot(found)
    np.testing.assert_allclose(axes.lines[1].get_ydata(), found.q)
    assert axes.get_xlabel() == "iteration of AMP"
    x, h = sp.symbols("x h", real=True)
    state = dmft.stationary(dmft.RandomNetwork(-x + h, x, h, output=sp.tanh(x), std=2))
    lags, values = dmft.plot(state).lines[1].get_data()
    assert values[0] == pytest.approx(state.variance)
    np.testing.assert_allclose(values, state.correlation(lags), atol=1e-9)


def test_single_numbers_are_refused_with_an_alternative():
    line = dmft.Committee(z, 1)
    found = dmft.erm(dmft.Model(line, line, label_noise=1), "squared", 2.0, 0.5)
    with pytest.raises(dmft.errors.BadParameter, match=r"not ERM; print shows its numbers.*lines="):
        dmft.plot(found)
