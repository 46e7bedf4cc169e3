"""Descent whose rows are put back on the sphere: steps, terms, files, refusals.

Linear students mode by mode: `test_linear_modes.py`. Limits: `test_sphere_limits.py`. Seeds in d
dimensions:
`tests/agreement/test_descent_against_simulation.py`. Recursions by hand and wrong signs:
`test_process_is_run.py`.
"""

from dataclasses import replace

import numpy as np
import pytest
import sympy as sp

import dmft
from dmft.cli.main import main
from dmft.errors import BadParameter

z = sp.Symbol("z", real=True)
ERF = sp.erf(z / sp.sqrt(2))
LINE = dmft.Committee(z, 1)
PAIR = dmft.Model(
    dmft.Committee(ERF, 2, readout=(2, sp.Rational(-6, 5))), dmft.Committee(ERF, 1), label_noise=0.1
)
START = dmft.Overlaps([[1.0, 0.2], [0.2, 1.0]], [[0.3], [-0.1]], [[1.4]])


def test_one_step_is_that_of_free_rows_over_its_lengths():
    """What a gradient is at the start knows nothing of the sphere."""
    given = {"ridge": 0.1, "batch": "bernoulli", "batch_fraction": 0.5}
    free, bound = (
        dmft.solve(
            dmft.derive(PAIR, dmft.GradientDescent(0.6, 2, constraint=c, **given)), START, 1,
            samples=2**10, scrambles=1,
        )
        for c in (None, "sphere")
    )  # fmt: skip
    length = np.sqrt(np.diag(free.Q[1]))
    np.testing.assert_allclose(bound.M[1], free.M[1] / length[:, None], rtol=1e-12)
    np.testing.assert_allclose(bound.Q[1], free.Q[1] / np.outer(length, length), rtol=1e-12)
    np.testing.assert_allclose(bound.Q2[1, 0], free.Q2[1, 0] / length[:, None], rtol=1e-12)
    assert np.abs(length - 1).max() > 0.05


def test_it_is_printed_and_its_terms_are_those_of_the_step():
    equations = dmft.derive(PAIR, dmft.GradientDescent(0.6, 2, constraint="sphere"))
    assert r"\frac{\tilde{M}^{t + 1}_{j}}{\sqrt{\tilde{Q}^{t + 1}_{j j}}}" in equations.latex()
    assert list(equations.terms["M_free"]) == ["decay", "learning"]
    assert list(equations.terms["M"]) == ["sphere"]
    free = dmft.derive(PAIR, dmft.GradientDescent(0.6, 2))
    assert "tilde" not in free.latex()
    assert "M_free" not in free.symbols
    j = free.indices.of("M")[0]
    foreign = equations.symbols["Q_free"][1, j, j]
    with pytest.raises(BadParameter, match="is not an array of these equations"):
        free.with_term("M", "own", foreign)


def test_small_angles_are_the_flow_on_the_sphere():
    """Two halves of a small step: the error falls with the step, the length stays."""
    runs = []
    for halvings in (0, 1, 2):
        descent = dmft.GradientDescent(0.2 / 2**halvings, 2, constraint="sphere")
        equations = dmft.derive(dmft.Model(LINE, LINE), descent)
        run = dmft.solve(equations, dmft.Overlaps([[1.0]], [[0.1]]), 5 * 2**halvings)
        runs.append(run.M[-1, 0, 0])
    first, second = np.diff(runs)
    assert 1.5 < first / second < 2.8


def test_declaration_files(tmp_path, capsys):
    path = tmp_path / "sphere.toml"
    path.write_text(
        '[student]\nactivation = "z"\nwidth = 1\n[teacher]\nactivation = "z"\nwidth = 1\n'
        '[algorithm]\nkind = "gradient-descent"\nlearning_rate = 0.2\nsamples_per_dim = 2.0\n'
        'constraint = "sphere"\n'
        '[start]\nkind = "overlaps"\nQ = [[1.0]]\nM = [[0.1]]\n[solve]\nt_max = 4\n'
        "[simulate]\ndim = 200\nseeds = 8\n"
    )
    assert main(["simulate", str(path), "--theory", "--json"]) == 0
    assert '"theory"' in capsys.readouterr().out
    path.write_text(path.read_text().replace("[[1.0]]", "[[0.9]]"))
    assert main(["solve", str(path)]) != 0
    assert "requires Q_jj = 1" in capsys.readouterr().err
    path.write_text(path.read_text().replace('"sphere"', '"sphere-gradient"'))
    assert main(["solve", str(path)]) != 0
    assert 'must be "sphere" or None' in capsys.readouterr().err


def test_refusals():
    descent = dmft.GradientDescent(0.6, 2, constraint="sphere")
    equations = dmft.derive(PAIR, descent)
    off = dmft.Overlaps([[1.0, 0.2], [0.2, 0.9]], [[0.3], [-0.1]], [[1.4]])
    for call in (
        lambda: dmft.solve(equations, off, 2),
        lambda: equations.evaluate(off),
        lambda: dmft.simulate(PAIR, descent, 50, 2, 2, off),
    ):
        with pytest.raises(BadParameter, match="requires Q_jj = 1"):
            call()
    with pytest.raises(BadParameter, match='must be "sphere"'):
        dmft.GradientDescent(0.6, 2, constraint="sphere-gradient")
    flow = dmft.derive(dmft.Model(LINE, LINE), descent, scaling="gradient-flow")
    for limit in (lambda: dmft.short_times(equations).evaluate(off),
                  lambda: flow.closed(dmft.Overlaps([[0.9]], [[0.3]]))):  # fmt: skip
        with pytest.raises(BadParameter, match="requires Q_jj = 1"):
            limit()
    with pytest.raises(BadParameter, match="noise is added in finite steps"):
        dmft.derive(PAIR, replace(descent, temperature=0.1), scaling="gradient-flow")


def test_a_row_without_length_is_a_status():
    """eta ridge = 1 leaves the gradient alone, and a student that is not read has none."""
    flat = dmft.Model(dmft.Committee(z, 1, readout=(0,)), LINE)
    equations = dmft.derive(flat, dmft.GradientDescent(1, 2, ridge=1, constraint="sphere"))
    run = dmft.solve(equations, dmft.Overlaps([[1.0]], [[0.1]]), 3)
    assert run.status == "left_domain"
    assert "which cannot be normalised" in run.message
    assert run.t.size == 1
    with pytest.raises(BadParameter, match="a row has no positive length after its step"):
        dmft.short_times(equations).evaluate(dmft.Overlaps([[1.0]], [[0.1]]))


def test_random_starts_of_a_simulation_are_on_the_sphere():
    descent = dmft.GradientDescent(0.3, 2, constraint="sphere", temperature=0.1)
    runs = dmft.simulate(PAIR, descent, 60, 3, 2)
    np.testing.assert_allclose(runs.runs["Q"][..., [0, 1], [0, 1]], 1.0, atol=1e-12)
