"""Machine code written without Numba, compared with Numba: the same text gives the same bits."""

import ast
import math
import re
from pathlib import Path

import numpy as np
import pytest
import sympy as sp
from numba.core.sigutils import normalize_signature

import dmft
from dmft.codegen import assemble, diffusion
from dmft.codegen import two_time_sample as sample
from dmft.codegen import two_time_volterra as volterra
from dmft.codegen.build import (
    DIVIDER,
    ONE_STATE,
    SEVERAL_STATES,
    problem_of_functions,
    stored_source,
)
from dmft.codegen.functions import SPECIAL
from dmft.codegen.linearised import compiled_adjoint
from dmft.compiled import direct, records
from dmft.compiled.machine_code import Unknown, code_parts, read_code
from dmft.emit import load_module
from dmft.emit.cache import load_array
from dmft.gaussian.tables.factor_table import factor_table
from dmft.solvers import signatures
from dmft.solvers.problem import covariance_at
from dmft.solvers.two_time import descent_sampled as sampled
from dmft.solvers.two_time import step
from dmft.solvers.two_time.descent_process import Step
from dmft.special import elementary
from dmft.special.averages import field_average
from dmft.workflow.solving.inputs import run_inputs

pytestmark = pytest.mark.compiled
Z = sp.Symbol("z", real=True)
ERF = sp.erf(Z / sp.sqrt(2))
WIDTHS = ((1, 1), (3, 2), (5, 4))


def derived(algorithm, activation=ERF, p=2, k=2):
    """Equations, and the texts of their rates and observables, which are those of all widths."""
    units = (dmft.Committee(activation, width) for width in (p, k))
    equations = dmft.derive(dmft.Model(*units, 1e-3), algorithm)
    return equations, stored_source(equations).split(DIVIDER)[:2]


def states(algorithm, p, k):
    """Packed widths, and states and parameters at random overlaps."""
    equations, _ = derived(algorithm, ERF, p, k)
    given = []
    problem = problem_of_functions(equations, "", {"rhs": None, "observe": None}, 0.0)
    for seed in range(8):
        start = dmft.random_overlaps(equations.model, 9, seed, normalised=True)
        values = equations.values(start, {})
        y = problem.pack({"Q": start.Q, "M": start.M})
        given.append((y, problem.pack_parameters(values.scalars, values.arrays)))
    return np.array([p, k]), *(np.array(rows) for rows in zip(*given, strict=True))


@pytest.mark.parametrize(
    "algorithm",
    [
        dmft.SGD(0.5),
        pytest.param(dmft.SGD(0.5, constraint="sphere"), marks=pytest.mark.slow),
    ],
)
def test_bits_are_those_of_numba_alone_and_in_lanes(algorithm):
    _, texts = derived(algorithm)
    for name, text in zip(("rhs", "observe"), texts, strict=True):
        # Without `direct=True`, Numba compiles what Python calls.
        module = load_module(text.replace(", direct=True", ""), "dmft_judge")
        judge, alone = getattr(module, name), direct.native(text, name)
        lanes = direct.native(text.replace(ONE_STATE, SEVERAL_STATES), name)
        for p, k in WIDTHS:
            widths, y, par = states(algorithm, p, k)
            found, wanted = np.zeros((2, *y.shape))
            for one in range(len(y)):
                judge(0.0, y[one], widths, par[one], wanted[one])
                alone(0.0, y[one], widths, par[one], found[one])
            assert np.any(wanted)
            assert found.tobytes() == wanted.tobytes()
            side_by_side = np.zeros_like(y.T, order="C")
            lanes(0.0, y.T.copy(), widths, par.T.copy(), side_by_side)
            assert side_by_side.T.tobytes() == wanted.tobytes()


HEAD = """
RHS = "void(float64, float64[::1], int64[::1], float64[::1], float64[::1])"

@njit(RHS, **ORDERED)
def rhs(t, y, widths, par, out):
    {line}
"""


@pytest.mark.parametrize(
    "line",
    [
        "out[0] = math.gamma(y[0])",
        "out[0] = y[0] ** 0.5",
        "out[0] = missing",
        "out[0] = y",
        "out[0] = y.T[0]",
        "out[0] = y[-1]",
        "out[0] = np.int64(y[0])",
        "out[0] = y[0] if t > 0.0 and y[1] > 0.0 else 0.0",
        "for i in range(3, 0, widths[0]): out[0] = 1.0",
        "out[0] = y[0, 0]",
        "while True: out[0] = 1.0",
        "for i in y: out[0] = i",
        "out[0] = max(y)",
        "out[0] = not y[0]",
    ],
)
def test_what_is_not_known_is_refused(line):
    with pytest.raises(Unknown):
        direct.code_from_text(HEAD.format(line=line), "rhs")
    known = HEAD.format(line="out[0] = 1.5 * y[0] - (y[1] if t > 0.0 else -y[1])")
    assert direct.code_from_text(known, "rhs").arguments == (
        "f8",
        "f8[1]",
        "i8[1]",
        "f8[1]",
        "f8[1]",
    )


# What `dmft.special` defines, and what Python, NumPy and LLVM do with numbers that are not plain.
WORDS = """
    fast_exp(a) | fast_tanh(a) | fast_erf(a) | asin(a) | correlation(a, b, c)
    correlation_angle(a, b, c) | correlation_root(a, b, c) | half_tangent(a, b, c)
    inverse_correlation_root(a, b, c) | root_ratio(d, a, b, c, 1.0) | root_ratio(d, a, b, c, 2.0)
    max(a, b) | min(a, b) | max(widths[0], widths[1]) | np.maximum(a, b) | np.minimum(a, b)
    np.sign(a) | math.exp(a) | math.log(a) | math.sin(a) | math.cos(a) | math.erf(a)
    math.asin(a) | math.tanh(a) | a**2 | a**3 | a**7 | a**8 | (-a) ** 11 | twice(a, b) | -math.inf
    1.0 if a > 0.0 and b <= c else d if a < 0.0 or b != c else 3 | y.size
    1.0 if math.isnan(a) else 2.0 | 1.0 if math.isfinite(b) else 2.0
"""
NUMBERS = """
import math
import numpy as np
from dmft.compiled import njit
from dmft.special.elementary import asin
from dmft.special.matrices import field_root, mean_slopes
from dmft.special.elementary import fast_erf, fast_exp, fast_tanh
from dmft.special.orthant import (
    correlation, correlation_angle, correlation_root, half_tangent, inverse_correlation_root,
    root_ratio,
)

ORDERED = dict(cache=True, nogil=True, error_model="numpy", _nrt=False)
RHS = "void(float64, float64[::1], int64[::1], float64[::1], float64[::1])"

@njit(inline="always", error_model="numpy")
def twice(x, y):
    return fast_tanh(x) * y + x**2

@njit(RHS, **ORDERED)
def rhs(t, y, widths, par, out):
    a, b, c, d = y[0], y[1], y[2], y[3]
"""
MATRICES = """
    first, n = widths[0], widths[1]
    arrays = np.empty((3, n, n))
    matrix, root, slopes = arrays[0], arrays[1], arrays[2]
    for i in range(n):
        for j in range(n):
            matrix[i, j] = y[i * n + j]
    field_root(matrix, first, root)
    mean_slopes(matrix, root, first, slopes)
    for i in range(n - 1, -1, -1):
        for j in range(n):
            if i > j:
                continue
            out[i * n + j] = root[i, j] + slopes[j, i]
"""


def both(text, states, widths, size):
    """Results for rows of states: by Numba, and by code without it."""
    judge, alone = load_module(text, "dmft_judge").rhs, direct.native(text, "rhs")
    wanted, found = np.zeros((2, len(states), size))
    for row, y in enumerate(states):
        for function, out in ((judge, wanted), (alone, found)):
            function(0.0, y.copy(), np.array(widths), y.copy(), out[row])
    return wanted, found


def test_numbers_have_numbas_bits():
    rng = np.random.default_rng(0)
    words = [word.strip() for word in WORDS.replace("\n", "|").split("|") if word.strip()]
    text = NUMBERS + "".join(f"    out[{n}] = {word}\n" for n, word in enumerate(words))
    plain = rng.normal(size=(200, 4)) * 10.0 ** rng.integers(-8, 4, size=(200, 4))
    close = np.abs(plain)
    close[:, 2] = np.sqrt(close[:, 0] * close[:, 1]) * (1.0 - 10.0 ** -rng.uniform(1, 17, size=200))
    close[::2, 2] *= -1.0
    odd = [0.0, -0.0, np.nan, np.inf, -np.inf, 1e-310, 1.0, -1.0, -708.5, 709.5, 1e300]
    wanted, found = both(
        text, np.vstack([plain, close, rng.choice(odd, (300, 4))]), (3, 5), len(words)
    )
    for n, word in enumerate(words):
        same = (wanted[:, n] == found[:, n]) | np.isnan(wanted[:, n]) & np.isnan(found[:, n])
        same &= np.isnan(wanted[:, n]) | (np.signbit(wanted[:, n]) == np.signbit(found[:, n]))
        assert np.all(same), word


def test_numbers_that_are_written_out_are_taylors():
    """They stand as numbers, since that is what code without Numba reads of a file."""
    assert tuple(1.0 / math.factorial(n) for n in range(14)) == elementary.C


def test_roots_of_matrices_have_numbas_bits():
    """Covariances of two students and three teachers, some of which the others determine."""
    rng = np.random.default_rng(1)
    shapes = rng.normal(size=(40, 5, 7)) * (rng.random((40, 1, 7)) < 0.6)
    states = (shapes @ shapes.transpose(0, 2, 1)).reshape(40, 25)
    text = NUMBERS.replace(", _nrt=False", "") + MATRICES  # it makes arrays
    wanted, found = both(text, states, (2, 5), 25)
    assert np.any(wanted)
    assert found.tobytes() == wanted.tobytes()


@pytest.mark.cases("relu")
@pytest.mark.parametrize("activation", [ERF, sp.Max(0, Z)], ids=["erf", "relu"])
def test_averages_on_nodes_are_those_of_the_text(activation):
    """What the text says is done by Python itself; the compiler may reorder sums."""
    unit = dmft.Committee(activation, 1)
    equations = dmft.derive(dmft.Model(unit, unit, 0.1), dmft.SGD(0.5, loss="huber"))
    problem = dmft.build(equations)
    assert "function_1" in problem.source
    found, wanted = by_machine_and_by_python(problem, problem.rhs, equations)
    np.testing.assert_allclose(found, wanted, rtol=1e-12)


@pytest.mark.cases(1)
@pytest.mark.parametrize("activation", [Z**2, Z**3 - 3 * Z])
def test_fluctuations_of_paths_are_those_of_the_text(activation):
    unit = dmft.Committee(activation, 1)
    model, sphere = dmft.Model(unit, unit, 0.1), dmft.SGD(0.05, constraint="sphere")
    equations = dmft.derive(model, sphere, dim=500, fluctuations=True)
    problem = dmft.build(equations)
    for function, shape in ((problem.rhs, ()), (problem.diffusion, (2,))):
        found, wanted = by_machine_and_by_python(problem, function, equations, shape)
        np.testing.assert_allclose(found, wanted, rtol=1e-11)


def by_machine_and_by_python(problem, function, equations, more=()):
    """What a function of a problem writes at a start, compiled without Numba and not at all."""
    given = run_inputs(equations, dmft.Overlaps([[1.0]], [[0.3]]), {})
    y = problem.pack(given["state"])
    sizes = np.array([given["widths"][name] for name in problem.widths])
    par = problem.pack_parameters(given["parameters"], given["constants"])
    assert function.native is not None
    found, wanted = np.zeros((2, y.size, *more))
    with np.errstate(all="ignore"):
        function.py_func(0.0, y, sizes, par, wanted)
    function.native(0.0, y, sizes, par, found)
    assert np.any(wanted)
    return found, wanted


@pytest.mark.parametrize("activation", [ERF, sp.tanh(Z), sp.Max(0, Z), Z**3 - 3 * Z])
def test_samples_of_descents_are_those_of_the_text(activation):
    rng = np.random.default_rng(2)
    unit = dmft.Committee(activation, 2)
    descent = dmft.GradientDescent(0.3, samples_per_dim=3)
    problem = dmft.build(dmft.derive(dmft.Model(unit, unit, 0.1), descent))
    h, h_star, readout = rng.normal(size=(2, 9)), rng.normal(size=(2, 9)), np.ones(4)
    par = np.concatenate([readout, rng.random(len(problem.scalars))])
    results = []
    for way in ("native", "py_func"):
        label, g, out = np.empty(9), np.empty((2, 9)), np.empty((1, 9))
        labels, sample = (getattr(f, way) for f in (problem.labels, problem.sample))
        labels(2, h_star, h[0].copy(), par, label)
        sample(h, h_star, label, np.ones(9), par, g, out)
        results.append([label, g, out])
    for found, wanted in zip(*results, strict=True):
        assert np.any(wanted)
        np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("text", "name", "wanted"),
    [
        (assemble.HEADER, "RHS", signatures.RHS_SIGNATURE),
        (diffusion.SIGNATURE, "DIFFUSION", signatures.JACOBIAN_SIGNATURE),
        (sample.TEMPLATE, "SAMPLE", sampled.SAMPLE_SIGNATURE),
        (volterra.TEMPLATE, "PAIR", step.PAIR_SIGNATURE),
        (volterra.TEMPLATE, "SIGNALS", step.SIGNALS_SIGNATURE),
        (volterra.TEMPLATE, "LOCAL", step.LOCAL_SIGNATURE),
    ],
)
def test_addresses_are_called_with_what_the_text_takes(text, name, wanted):
    """Nothing else would notice: code takes what stands where it looks for its arguments."""
    written = re.search(rf"^{name} = (\(.*?\)|\".*?\")$", text, re.DOTALL | re.MULTILINE)
    arguments, result = normalize_signature(ast.literal_eval(written[1]))
    assert (arguments, result) == (wanted.args, wanted.return_type)


CALLS = """
from dmft.special.elementary import erf_mixture_square
from dmft.special.averages import field_average
from dmft.special.orthant import four_signs
from dmft.emit.cache import load_array

TABLE_a = load_array("KEY")
RHS = "void(float64, float64[::1], int64[::1], float64[::1], float64[::1])"

@njit(RHS, cache=True, nogil=True, error_model="numpy", _nrt=True)
def rhs(t, y, widths, par, out):
    c, square = np.empty((3, 3)), np.empty((2, 2))
    for i in range(3):
        for j in range(3):
            c[i, j] = y[3 * i + j]
    erf_mixture_square(c, y[9:12], y[12:20], 2, square)
    for i in range(2):
        for j in range(2):
            out[2 * i + j] = square[i, j]
    s = c[0, 0] + y[20]
    out[4] = four_signs(
        s, c[0, 1], c[0, 2], y[21], c[1, 1], c[1, 2], y[22], c[2, 2], y[23], 1.0 + widths[0])
    out[5] = field_average(TABLE_a, y[20], s)
"""


@pytest.mark.slow
def test_functions_and_tables_of_the_library_are_those_of_numba():
    """Arrays, parts of them, numbers and a table are passed on as Numba passes them."""
    key = factor_table(sp.tanh(Z)).key
    table = load_array(key)
    rows = np.random.default_rng(3).normal(size=(20, 3, 5))
    weights = [[0.0, 1.1, 1.0, 0.8, 0.2, 0.7, 1.0, 0.9, 0.3, 0.1, -0.2, 0.1]] * len(rows)
    covariances = (rows @ rows.transpose(0, 2, 1)).reshape(len(rows), 9)
    states = np.hstack([covariances, rows[:, :, 0], weights])
    head = NUMBERS[: NUMBERS.index("ORDERED")]
    wanted, found = both(head + CALLS.replace("KEY", key), states, (2, 5), 6)
    assert np.all(wanted != 0.0)
    # Numba writes them where they are called, and may sum in another order.
    assert found == pytest.approx(wanted, rel=1e-13, abs=1e-14)
    np.testing.assert_array_equal(
        found[:, 5], [field_average(table, y[20], y[0] + y[20]) for y in states]
    )


def test_kept_code_depends_on_the_functions_that_it_calls():
    """A changed function of the library changes the name of the record that holds its code."""
    home = Path(elementary.__file__).parent
    assert {home / f"{file}.py" for file in SPECIAL.values()} <= set(direct._sources())


@pytest.mark.slow
def test_functions_of_arrays_of_several_states_are_left_to_numba():
    _, (text, _) = derived(dmft.SGD(0.5), sp.tanh(Z))
    direct.code_from_text(text, "rhs")
    with pytest.raises(Unknown):
        direct.code_from_text(text.replace(ONE_STATE, SEVERAL_STATES), "rhs")


def test_damaged_code_is_compiled_again():
    _, (text, _) = derived(dmft.GradientFlow())
    text = f"{text}\n# of this test"
    first = direct.native(text, "rhs").code
    path = dmft.emit.cache_directory() / direct.record(text, "rhs")
    path.write_bytes(path.read_bytes()[:-3] + b"bad")
    direct._NATIVE.pop(path.name)
    assert direct.native(text, "rhs").code == first
    assert direct.is_kept(text, "rhs")


def test_code_of_another_version_is_compiled_again():
    """Records of `Code` had other fields, and may have others again."""
    _, (text, _) = derived(dmft.GradientFlow())
    text = f"{text}\n# of versions"
    first, file = direct.native(text, "rhs").code, direct.record(text, "rhs")
    values, arrays = code_parts(first)
    older = {**values["<part>"][1], "result": "", "library": {}}
    for found in (older, {"<part>": ["Code", {"entry": "rhs"}]}, {"<part>": ["Machine", {}]}):
        assert records.store(file, found, arrays)
        assert read_code(file) is None
    direct._NATIVE.pop(file)
    assert direct.native(text, "rhs").code == first
    assert read_code(file) == first


def test_domains_adjoints_and_steps_of_descents_need_no_numba():
    start = dmft.Overlaps([[1.0, 0.2], [0.2, 0.8]], [[0.3], [-0.4]], [[1.1]])
    equations = dmft.derive(dmft.Model(*(dmft.Committee(ERF, n) for n in (2, 1))), dmft.SGD(0.5))
    problem, given = dmft.build(equations), run_inputs(equations, start, {})
    widths = np.array([given["widths"][name] for name in problem.widths])
    par = problem.pack_parameters(given["parameters"], given["constants"])
    y = problem.pack(given["state"])
    assert None not in (problem.domain.native, problem.covariance.native)
    assert np.array_equal(covariance_at(problem, y, widths, par), start.Omega)
    lowest = np.diag(np.linalg.cholesky(start.Omega + 0.1 * np.eye(3))).min() ** 2
    assert problem.domain.native(y, widths, par, 0.1) == pytest.approx(lowest, rel=1e-13)
    assert None not in [function.native for function in compiled_adjoint(equations)]
    descent = dmft.derive(equations.model, dmft.GradientDescent(0.1, 2))
    steps = [y for y in vars(dmft.build(descent).process).values() if isinstance(y, Step)]
    assert len(steps) == 7
    assert None not in [one.function.native for one in steps]
