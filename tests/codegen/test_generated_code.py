"""Generated Numba code against the NumPy reference of the same equations, and its cache."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import sympy as sp

import dmft
from dmft.compiled import direct

Z = sp.Symbol("z", real=True)
B = sp.Symbol("b", positive=True)
MODELS = {
    "erf": ("erf", "erf", None),
    "erf on the sphere": ("erf", "erf", "sphere"),
    "square": ("square", "square", None),
    "he3": ("he3", "he3", None),
    "erf student, he3 teacher": ("erf", "he3", "sphere"),
    "he2 student, erf teacher": ("he2", "erf", None),
}


def compiled_rates(equations, start, **parameters):
    """Rates by the compiled right-hand side."""
    problem = dmft.build(equations)
    values = equations.values(start, parameters)
    y = problem.pack({"Q": start.Q, "M": start.M})
    par = problem.pack_parameters(
        {name: values.scalars[name] for name in problem.parameters}, values.arrays
    )
    widths = np.array([start.p, start.k])
    out, risk = np.empty_like(y), np.empty(1)
    problem.rhs(0.0, y, widths, par, out)
    problem.observe(0.0, y, widths, par, risk)
    return problem.unpack(out, values.widths), risk[0]


@pytest.mark.cases(2)
@pytest.mark.parametrize("name", list(MODELS))
def test_text_equals_reference_at_all_widths(activations, name, generated_code):
    check_all_widths(activations, name)


@pytest.mark.parametrize("name", ["erf", "erf student, he3 teacher"])
def test_compiled_equals_reference_at_all_widths(activations, name):
    check_all_widths(activations, name)


def check_all_widths(activations, name):
    student, teacher, constraint = MODELS[name]
    algorithm = dmft.SGD(0.4, constraint=constraint)
    problems = set()
    for p, k in [(1, 1), (2, 1), (1, 3), (3, 2), (6, 4)]:
        model = dmft.Model(
            dmft.Committee(activations[student], p, np.linspace(0.5, 1.5, p)),
            dmft.Committee(activations[teacher], k, np.linspace(1.2, 0.4, k)),
            0.2,
        )
        equations = dmft.derive(model, algorithm)
        problems.add(dmft.build(equations).source)
        start = dmft.random_overlaps(model, 12, seed=p + k, normalised=True)
        rates, risk = compiled_rates(equations, start)
        reference = equations.evaluate(start)
        scale = 1 + max(np.abs(v).max() for v in reference.values())
        for block in ("Q", "M"):
            np.testing.assert_allclose(rates[block], reference[block], atol=2e-13 * scale)
        assert risk == pytest.approx(
            dmft.population_risk(model)(Q=start.Q, M=start.M, P=start.P, readout=start.readout),
            abs=1e-13 * scale,
        )
    assert len(problems) == 1  # widths and readouts are run-time values


def test_activation_parameter_in_compiled_code(activations):
    model = dmft.Model(dmft.Committee(sp.erf(B * Z), 2), dmft.Committee(activations["erf"], 2), 0.1)
    equations = dmft.derive(model, dmft.SGD(0.5))
    start = dmft.random_overlaps(model, 12, seed=0)
    rates, _ = compiled_rates(equations, start, b=1.3)
    np.testing.assert_allclose(rates["Q"], equations.evaluate(start, b=1.3)["Q"], atol=1e-13)


def test_loops_fuse_only_where_no_value_passes():
    from dmft.codegen.graph import Loop, fuse, render

    def loop(line):
        return Loop("for m in range(p):", [line])

    apart = ["s1 = 0.0", loop("s1 += x[m]"), "s2 = 0.0", loop("s2 += s1 * x[m]")]
    assert len(render(fuse(apart))) == 6
    scaled = ["s1 = 0.0", loop("s1 += x[m]"), "w = 2.0 * s1", loop("t[m] = w * x[m]")]
    assert len(render(fuse(scaled))) == 6
    stale = [loop("t[m] = x[m]"), "w = t[0]", loop("t[m] = y[m]")]
    assert len(render(fuse(stale))) == 5
    together = ["s1 = 0.0", loop("s1 += x[m]"), "w = 2.0 * s1", "s2 = 0.0", loop("s2 += y[m]")]
    assert render(fuse(together)) == [
        "s1 = 0.0",
        "s2 = 0.0",
        "for m in range(p):",
        "    s1 += x[m]",
        "    s2 += y[m]",
        "w = 2.0 * s1",
    ]


def test_bad_states_give_nan_not_numbers(committee_model):
    model = committee_model("erf", "erf", 2, 2)
    equations = dmft.derive(model, dmft.SGD(0.5))
    problem = dmft.build(equations)
    start = dmft.random_overlaps(model, 12, seed=0)
    values = equations.values(start, {})
    par = problem.pack_parameters({n: values.scalars[n] for n in problem.parameters}, values.arrays)
    widths = np.array([2, 2])
    for bad in (np.nan, np.inf, -5.0):
        y = problem.pack({"Q": start.Q, "M": start.M})
        y[0] = bad
        out = np.empty_like(y)
        problem.rhs(0.0, y, widths, par, out)
        assert not np.all(np.isfinite(out))
        assert not problem.domain(y, widths, par, 1e-9) > 0


def test_source_is_readable_and_commented(committee_model):
    source = dmft.build(dmft.derive(committee_model("erf", "erf", 2, 2), dmft.SGD(0.5))).source
    compile(source, "generated", "exec")
    assert "for j in range(p):" in source
    assert "# dM[j,r]/dt" in source
    assert "import math" in source
    assert "y: Q (p, p), M (p, k)" in source


SECOND_PROCESS = """
import sys, sympy as sp, dmft
z = sp.Symbol("z", real=True)
square = dmft.Committee(z**2, 1)
equations = dmft.derive(dmft.Model(square, square, 0.1), dmft.SGD(0.05))
problem = dmft.build(equations)
print(sum(problem.rhs.stats.cache_hits.values()))
"""


@pytest.mark.slow  # as tests/emit/test_module_cache.py and tests/workflow/test_kept_problems.py
def test_second_process_does_not_compile(tmp_path):
    environment = {**os.environ, "DMFT_CACHE_DIR": str(tmp_path)}

    def run():
        result = subprocess.run(
            [sys.executable, "-c", SECOND_PROCESS],
            env=environment, capture_output=True, text=True, check=True,
        )  # fmt: skip
        return result.stdout.split()

    assert run() == ["0"]
    assert run() == ["1"]
    assert list(Path(tmp_path).glob("dmft_equations_*.py"))


def test_index_by_fingerprint_skips_generation(committee_model, monkeypatch):
    module = importlib.import_module("dmft.codegen.build")
    equations = dmft.derive(committee_model("square", "square", 2, 1), dmft.SGD(0.1))
    first = module.stored_source(equations)
    monkeypatch.setattr(module, "generate", lambda _: pytest.fail("generated again"))
    assert module.stored_source(equations) == first


@pytest.mark.slow
@pytest.mark.parametrize(
    ("student", "teacher", "p", "k"),
    [(Z**5, Z**3 - 3 * Z, 2, 1), (Z**8, Z**2, 1, 1)],
    ids=["fifth", "eighth"],
)
def test_long_polynomials_are_summed_diagram_by_diagram(student, teacher, p, k):
    model = dmft.Model(dmft.Committee(student, p), dmft.Committee(teacher, k), 0.1)
    equations = dmft.derive(model, dmft.SGD(0.01))
    start = dmft.random_overlaps(model, dim=30, seed=2)
    source = dmft.build(equations).source
    assert "average_of_polynomials(" in source
    assert source.count("\n") < 1000
    assert direct.native(source, "rhs") is not None  # Numba takes 1 to 2 s
    expected = equations.evaluate(start)
    for name, value in compiled_rates(equations, start)[0].items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-11)
