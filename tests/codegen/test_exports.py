"""Exports: every language against the NumPy reference at random states, and what is refused."""

import ast
import ctypes
import functools
import importlib.util
import inspect
import json
import os
import runpy
import shutil
import subprocess
import sys
import types

import numpy as np
import pytest
import sympy as sp
from scipy import special

import dmft
from dmft.codegen.export.jax import Branches
from dmft.codegen.export.jax import functions as functions_for_jax
from dmft.codegen.export.library import library
from dmft.equations.noise.derivatives import jacobian as reference_jacobian

Z = sp.Symbol("z", real=True)
ERF, RELU = sp.erf(Z / sp.sqrt(2)), sp.Max(0, Z)
P_WIDTH, K_WIDTH = sp.symbols("p k", integer=True, positive=True)
NAMES = ("erf", "relu", "he3", "sign", "attention", "readouts")
STEEP = np.array([-1.0, -0.3, 0.0, 0.3, 1.0])
COMPILE = ["-std=c99", "-O1", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror"]


def few(*fast):
    """Names of systems; where each takes seconds, the others wait for the slow tests."""
    return [n if n in fast else pytest.param(n, marks=pytest.mark.slow) for n in NAMES]


def committees(student, teacher, algorithm, widths=(3, 2), **keywords):
    model = dmft.Model(
        dmft.Committee(student, widths[0]), dmft.Committee(teacher, widths[1]), **keywords
    )
    return dmft.derive(model, algorithm)


@functools.cache
def system(name):
    if name == "erf":  # any widths, decided by the arrays
        return committees(ERF, ERF, dmft.SGD(0.5), (P_WIDTH, K_WIDTH), label_noise=0.01)
    if name == "relu":
        return committees(RELU, RELU, dmft.GradientFlow())
    if name == "he3":
        he3 = dmft.hermite(3, Z)
        return committees(he3, he3, dmft.SGD(0.1, constraint="sphere"))
    if name == "sign":
        rate = sp.Symbol("eta", positive=True)
        return committees(ERF, sp.sign(Z), dmft.SGD(rate))
    if name == "attention":
        return dmft.derive(dmft.literature.positional_semantic(0.5, 0.3), dmft.SGD(0.3))
    assert name == "readouts"
    return committees(ERF, ERF, dmft.SGD(0.3, readout_rate=0.2), label_noise=0.01)


def needs(program):
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")


def plain(path, monkeypatch):
    """Module of an exported file where Numba is not installed."""
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "numba", None)
        return runpy.run_path(str(path))


@pytest.mark.cases(3)
@pytest.mark.parametrize("name", NAMES)
def test_python(name, tmp_path, monkeypatch):
    path = dmft.export(system(name), tmp_path / "model.py")
    error, passed = plain(path, monkeypatch)["check"]()
    assert passed
    assert error < 1e-12
    assert "import dmft" not in path.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_c(name, tmp_path):
    needs("gcc")
    path = dmft.export(system(name), tmp_path / "model.c")
    program = tmp_path / "model"
    subprocess.run(
        ["gcc", *COMPILE, "-DDMFT_TEST", path, "-lm", "-o", program], check=True, timeout=300
    )
    run = subprocess.run([program], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stdout


@pytest.mark.cases(3)
@pytest.mark.parametrize("name", NAMES)
def test_javascript(name, tmp_path):
    needs("node")
    path = dmft.export(system(name), tmp_path / "model.js")
    run = subprocess.run(["node", path], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "largest relative error" in run.stdout


@pytest.mark.parametrize("name", few("relu"))
def test_jax(name, tmp_path):
    pytest.importorskip("jax")
    error, passed = runpy.run_path(dmft.export(system(name), tmp_path / "m_jax.py"))["check"]()
    assert passed
    assert error < 1e-12


class Places:
    """`a.at[i].set(y)` of JAX: a copy with other entries."""

    def __init__(self, array, index=None):
        self.array, self.index = array, index

    def __getitem__(self, index):
        return Places(self.array, index)

    def set(self, values):
        new = self.array.copy()
        new[self.index] = values
        return new


class Updated(np.ndarray):
    at = property(Places)


@pytest.fixture
def jax_of_numpy(monkeypatch):
    """What exported files take from JAX, by NumPy: their text runs where JAX is not installed."""
    numbers = types.ModuleType("jax.numpy")
    numbers.__dict__.update(vars(np), zeros=lambda shape: np.zeros(shape).view(Updated))
    jax = types.ModuleType("jax")
    jax.jit, jax.numpy = lambda function, **_: function, numbers
    jax.config = types.SimpleNamespace(update=lambda *_: None)
    for name, module in (("jax", jax), ("jax.numpy", numbers), ("jax.scipy.special", special)):
        monkeypatch.setitem(sys.modules, name, module)


@pytest.mark.usefixtures("jax_of_numpy")
@pytest.mark.parametrize("name", few("relu", "sign"))
def test_text_for_jax_is_the_reference(name, tmp_path):
    error, passed = runpy.run_path(dmft.export(system(name), tmp_path / "m_jax.py"))["check"]()
    assert passed
    assert error < 1e-12


def written(lines, folder):
    """What functions in text for JAX are."""
    head = "import jax.numpy as jnp\nimport numpy as np\nfrom jax.scipy.special import erf, erfc\n"
    (folder / "functions.py").write_text(head + "\n".join(lines))
    return runpy.run_path(str(folder / "functions.py"))


def branches(x, y):
    total = x
    if x > 0.0:
        if y > 1.0 and not x > 2.0:
            total += y
        else:
            total = -total if y > 0.0 else 3.0
        if y < -1.0:
            return total * 2.0
    elif y > 0.0 or x < -2.0:
        return min(x, y)
    else:
        total -= abs(y)
    for n in range(3):
        if x > n:
            total += n * y
    return total


@pytest.mark.usefixtures("jax_of_numpy")
def test_choices_for_jax_are_branches_of_python(tmp_path):
    lines = Branches().function(ast.parse(inspect.getsource(branches)).body[0])
    x, y = np.random.default_rng(0).uniform(-3, 3, (2, 200))
    found = written(lines, tmp_path)["branches"](x, y)
    np.testing.assert_array_equal(found, [branches(*one) for one in zip(x, y, strict=True)])


@pytest.mark.filterwarnings("ignore:divide by zero")
@pytest.mark.usefixtures("jax_of_numpy")
def test_branches_of_functions_for_jax(tmp_path):
    """E[sign(h - U) sign(k - V)] in each branch: one integral over U."""
    names = ("two_signs", "bivariate_normal_cdf")
    found = written(functions_for_jax(library(names)), tmp_path)
    u, w = np.polynomial.legendre.leggauss(60)
    h, k = np.array([0.3, -1.2, 0.9, 0.4]), np.array([-0.7, -1.1, 0.2, -0.5])
    for rho in (0.0, 0.5, -0.8, 0.93, -0.93, 0.99, -0.99):
        mean = np.empty(4)
        for n in range(4):
            # Cut where the sign switches and where the error function is steep.
            steep = np.clip(k[n] / (rho or 1.0) + STEEP, -9.0, 9.0)
            cuts = np.unique([-9.0, h[n], *steep, 9.0])
            ends = np.diff(cuts)[:, None] / 2
            x = (cuts[:-1, None] + ends * (1 + u)).ravel()
            inner = special.erf((k[n] - rho * x) / np.sqrt(2 - 2 * rho**2))
            density = np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)
            mean[n] = (ends * w).ravel() @ (np.sign(h[n] - x) * inner * density)
        both = found["bivariate_normal_cdf"](h, k, rho)
        np.testing.assert_allclose(found["two_signs"](h, k, rho), mean, atol=1e-12)
        alone = special.erf(h / np.sqrt(2)) + special.erf(k / np.sqrt(2))
        np.testing.assert_allclose(both, (mean + alone + 1) / 4, atol=1e-12)
    assert np.isnan(found["bivariate_normal_cdf"](0.1, 0.2, 1.1))


@pytest.mark.cases(1)
@pytest.mark.parametrize("name", few("relu", "attention"))
def test_notebook(name, tmp_path, monkeypatch):
    """Its cells run in order, and the solution is that of `dmft.solve`'s equations."""
    pytest.importorskip("matplotlib").use("Agg")
    path = dmft.export(system(name), tmp_path / "model.ipynb")
    cells = json.loads(path.read_text())["cells"]
    assert [c["cell_type"] for c in cells] == ["markdown"] * 2 + ["code"] * 4
    assert "\\begin{align" in "".join(cells[1]["source"])
    code = ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]
    (tmp_path / "cells.py").write_text("\n\n".join(code))
    found = plain(tmp_path / "cells.py", monkeypatch)
    assert found["run"].success
    assert np.isfinite(found["risk"]).all()
    assert found["check"]()[1]


@pytest.mark.slow
def test_run_as_a_script(tmp_path):
    """With Numba where it is installed; one changed digit of a stored value is found."""
    path = dmft.export(system("relu"), tmp_path / "model.py")
    run = subprocess.run(
        [sys.executable, path], capture_output=True, text=True, timeout=600,
        env={**os.environ, "NUMBA_OPT": "0"},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    text = path.read_text()
    place = text.index('"rates": {') + text[text.index('"rates": {') :].index("0.") + 4
    digit = str((int(text[place]) + 1) % 10)
    path.write_text("sys = None\n".join(["", ""]) + text[:place] + digit + text[place + 1 :])
    alone = (
        "import runpy, sys\nsys.modules['numba'] = None\n"
        "runpy.run_path(sys.argv[1], run_name='__main__')"
    )
    run = subprocess.run(
        [sys.executable, "-c", alone, path], capture_output=True, text=True, timeout=600
    )
    assert run.returncode == 1, run.stderr
    assert "Traceback" not in run.stderr


def test_require_in_node(tmp_path):
    needs("node")
    version = subprocess.run(["node", "--version"], capture_output=True, text=True).stdout
    if tuple(map(int, version.strip("v\n").split(".")[:2])) < (20, 19):
        pytest.skip(f"require of ES modules needs node 20.19, this is {version}")
    dmft.export(system("erf"), tmp_path / "model.js")
    (tmp_path / "use.cjs").write_text(
        'const m = require("./model.js");\n'
        "const rates = m.rhs(0, [[1]], [[0.5]], [[1]], null, null, { learning_rate: 0.2 });\n"
        "console.log(JSON.stringify(rates));\n"
        "try { m.rhs(0, [[1]], [[0.5]], [[1]], null, null, { rate: 1 }); }\n"
        "catch (error) { console.log(error.message); }\n"
    )
    run = subprocess.run(
        ["node", "use.cjs"], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    first, second = run.stdout.splitlines()[-2:]
    start = dmft.Overlaps(Q=[[1.0]], M=[[0.5]], P=[[1.0]])
    wanted = system("erf").evaluate(start, learning_rate=0.2)
    rates = json.loads(first)
    for block in ("Q", "M"):
        np.testing.assert_allclose(rates[block], wanted[block], rtol=1e-12)
    assert "unknown parameter rate" in second


def random_overlaps(p, k, seed):
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((p + k, p + k + 3)) / np.sqrt(p + k + 3)
    gram = rows @ rows.T
    return dmft.Overlaps(gram[:p, :p], gram[:p, p:], gram[p:, p:])


def test_widths_are_those_of_the_arrays(tmp_path, monkeypatch):
    found = plain(dmft.export(system("erf"), tmp_path / "model.py"), monkeypatch)
    for p, k in ((1, 3), (4, 2)):
        start = random_overlaps(p, k, p)
        wanted = system("erf").evaluate(start, learning_rate=0.7)
        rates = found["rhs"](0.0, start.Q, start.M, start.P, learning_rate=0.7)
        for block in wanted:
            np.testing.assert_allclose(rates[block], wanted[block], rtol=1e-11, atol=1e-14)


def test_parameters_of_the_python_file(tmp_path, monkeypatch):
    found = plain(dmft.export(system("sign"), tmp_path / "model.py"), monkeypatch)
    state = {"Q": np.eye(3), "M": np.zeros((3, 2)), "P": np.eye(2)}
    with pytest.raises(TypeError, match="eta has no declared value"):
        found["rhs"](0.0, **state)
    with pytest.raises(TypeError, match="unknown parameter 'rate'"):
        found["rhs"](0.0, **state, rate=1.0)


@pytest.mark.cases("readouts")
@pytest.mark.parametrize("name", ["erf", "relu", "he3", "readouts"])
def test_jacobian_in_c(name, tmp_path):
    """Against the derivative of the NumPy reference."""
    needs("gcc")
    path = dmft.export(system(name), tmp_path / "model.c")
    shared = tmp_path / "model.so"
    subprocess.run(["gcc", *COMPILE, "-shared", "-fPIC", path, "-lm", "-o", shared], check=True)
    library = ctypes.CDLL(str(shared))
    p, k = 3, 2
    start = random_overlaps(p, k, 1)
    if name == "he3":
        size = np.sqrt(np.diag(start.Q))
        start = dmft.Overlaps(start.Q / np.outer(size, size), start.M / size[:, None], start.P)
    equations = system(name)
    values = equations.values(start, {})
    trained = equations.algorithm.trains_readout
    state = np.concatenate([start.Q.ravel(), start.M.ravel(), np.ones(p * trained)])
    constants = [start.P, *([] if trained else [np.ones(p)]), np.ones(k)]
    numbers = np.array([values.scalars[n] for n in equations.parameters] or [0.0])
    matrix = np.empty((state.size, state.size))

    def pointer(array):
        return np.ascontiguousarray(array).ctypes.data_as(ctypes.POINTER(ctypes.c_double))

    library.jacobian.argtypes = None
    failed = library.jacobian(
        ctypes.c_double(0.0), p, k, pointer(state), *map(pointer, constants), pointer(numbers),
        matrix.ctypes.data_as(ctypes.POINTER(ctypes.c_double)),
    )  # fmt: skip
    assert failed == 0
    directions = symmetric_directions(p, state.size)
    wanted = reference_jacobian(equations, start, directions)
    np.testing.assert_allclose(directions @ matrix.T, wanted, rtol=1e-9, atol=1e-11)


def symmetric_directions(p, size):
    directions = np.random.default_rng(5).standard_normal((4, size))
    Q = directions[:, : p * p].reshape(-1, p, p)
    directions[:, : p * p] = (Q + Q.transpose(0, 2, 1)).reshape(-1, p * p)
    return directions


def test_jacobian_in_jax(tmp_path):
    jax = pytest.importorskip("jax")
    path = dmft.export(system("erf"), tmp_path / "model_jax.py")
    found = runpy.run_path(str(path))
    start = random_overlaps(3, 2, 1)
    matrix = np.asarray(found["jacobian"](0.0, start.Q, start.M, start.P))
    directions = symmetric_directions(3, 15)
    wanted = reference_jacobian(system("erf"), start, directions)
    np.testing.assert_allclose(directions @ matrix.T, wanted, rtol=1e-9, atol=1e-11)
    fast = jax.jit(lambda Q, M, P: found["rhs"](0.0, Q, M, P))
    rates = system("erf").evaluate(start)
    np.testing.assert_allclose(fast(start.Q, start.M, start.P)["Q"], rates["Q"], rtol=1e-11)


# More systems ------------------------------------------------------------------------------------


def more(name):
    """Equations and the languages that they are exported to."""
    erfs = dmft.Model(dmft.Committee(ERF, 2), dmft.Committee(ERF, 1))
    if name == "four signs":
        return committees(RELU, RELU, dmft.SGD(0.2), (2, 1)), (".py", ".js")
    if name == "tables":
        return committees(sp.tanh(Z), sp.tanh(Z), dmft.GradientFlow(), (2, 1)), (".py",)
    if name == "map":
        batch = dmft.SGD(0.5, batch_size=sp.Symbol("d"))
        return dmft.derive(erfs, batch, dim=1000), (".py", ".js", ".c")
    if name == "decay":
        return committees(ERF, ERF, dmft.SGD(0.2, weight_decay=0.1), (2, 1)), (".py", ".js")
    if name == "rule":
        h, h_star, y = sp.symbols("h h_star y", real=True)
        psi = sp.diff(ERF, Z).subs(Z, h) * y
        rule = dmft.UpdateField(psi, fields=(h, h_star, y), learning_rate=0.2)
        return dmft.derive(erfs, rule), (".py", ".js")
    assert name == "correlation"
    return committees(ERF, sp.sign(Z), dmft.SGD(0.2, loss="correlation"), (2, 1)), (".js", ".c")


@pytest.mark.cases("four signs", "map", "rule")
@pytest.mark.parametrize("name", ["four signs", "tables", "map", "decay", "rule", "correlation"])
def test_more_systems(name, tmp_path, monkeypatch):
    equations, ends = more(name)
    for end in ends:
        path = dmft.export(equations, tmp_path / f"model{end}")
        if end == ".py":
            assert plain(path, monkeypatch)["check"]()[1]
        elif end == ".js" and shutil.which("node"):
            assert subprocess.run(["node", path], timeout=300).returncode == 0
        elif end == ".c" and shutil.which("gcc"):
            program = tmp_path / "model"
            subprocess.run(["gcc", *COMPILE, "-DDMFT_TEST", path, "-lm", "-o", program], check=True)
            assert subprocess.run([program], timeout=300).returncode == 0


def test_what_is_refused(tmp_path):
    with pytest.raises(dmft.errors.BadParameter, match=r"export writes _jax.py, .py, .ipynb"):
        dmft.export(system("erf"), tmp_path / "model.jl")
    four = committees(RELU, RELU, dmft.SGD(0.2), (2, 1))
    for end in (".c", "_jax.py"):
        with pytest.raises(dmft.errors.NotClosed, match="four_signs"):
            dmft.export(four, tmp_path / f"model{end}")
    tanh = committees(sp.tanh(Z), sp.tanh(Z), dmft.GradientFlow(), (2, 1))
    with pytest.raises(dmft.errors.NotClosed, match="pair_average"):
        dmft.export(tanh, tmp_path / "model.js")
    erfs = dmft.Model(dmft.Committee(ERF, 1), dmft.Committee(ERF, 1))
    descent = dmft.derive(erfs, dmft.GradientDescent(0.1, samples_per_dim=2))
    with pytest.raises(dmft.errors.NotClosed, match="two times"):
        dmft.export(descent, tmp_path / "model.py")
    paths = dmft.derive(erfs, dmft.SGD(0.1), dim=100, fluctuations=True)
    with pytest.raises(dmft.errors.NotClosed, match="fluctuations"):
        dmft.export(paths, tmp_path / "model.py")
    assert not list(tmp_path.iterdir())


def test_header_says_what_it_is_of(tmp_path):
    from dmft.display.bibliography import ENTRIES

    text = dmft.export(system("he3"), tmp_path / "model.js").read_text()
    head = text[: text.index("*/")]
    assert system("he3").fingerprint in head
    assert f"dmft {dmft.__version__}" in head
    assert system("he3").time_unit in head
    keys = next(line for line in head.splitlines() if "Sources" in line).split(":")[1]
    assert set(keys.replace(",", " ").split()) <= set(ENTRIES)


def test_export_loads_at_use():
    code = "import sys, dmft; print(any('export' in name for name in sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout.strip() == "False"
    assert importlib.util.find_spec("dmft.codegen.export.system") is not None


def test_letters_are_parameters_of_the_file(tmp_path, monkeypatch):
    """As `dmft.solve` takes them; what follows from them is computed, those of readouts fixed."""
    gamma, b, c, noise = sp.symbols("gamma b c D", real=True)
    student = dmft.Committee(sp.erf(b * Z), 2, [1, c])
    model = dmft.Model(student, dmft.Committee(ERF, 1), noise / 2)
    equations = dmft.derive(model, dmft.SGD(c * gamma, weight_decay=gamma))
    given = {"gamma": 0.5, "b": 0.7, "c": 0.6, "D": 0.3}
    found = plain(dmft.export(equations, tmp_path / "model.py", **given), monkeypatch)
    start = random_overlaps(2, 1, 3)
    for moved in ({}, {"gamma": 0.8, "b": 0.4, "D": 0.1}):
        wanted = equations.evaluate(start, **given | moved)
        rates = found["rhs"](0.0, start.Q, start.M, start.P, **moved)
        for block in wanted:
            np.testing.assert_allclose(rates[block], wanted[block], rtol=1e-11, atol=1e-14)
    with pytest.raises(TypeError, match="unknown parameter 'c'"):
        found["rhs"](0.0, start.Q, start.M, start.P, c=0.1)
    with pytest.raises(dmft.errors.BadParameter, match="unknown parameter 'rate'"):
        dmft.export(equations, tmp_path / "other.py", **given, rate=1.0)


def test_moments_of_signs_are_refused(tmp_path):
    equations = committees(RELU, Z**3, dmft.SGD(0.2, loss="correlation"), (2, 1))
    for end in (".py", ".js", ".c"):
        with pytest.raises(dmft.errors.NotClosed, match=r"SignsMoment\) is not exported"):
            dmft.export(equations, tmp_path / f"model{end}")


def test_readouts(tmp_path, monkeypatch):
    """Declared ones are defaults; symbols have no value in a file."""
    a = sp.Symbol("a", real=True)

    def flow(readout):
        student, teacher = dmft.Committee(ERF, 2, readout=readout), dmft.Committee(ERF, 1)
        return dmft.derive(dmft.Model(student, teacher), dmft.GradientFlow())

    equations = flow([1, -2])
    found = plain(dmft.export(equations, tmp_path / "model.py"), monkeypatch)
    start = random_overlaps(2, 1, 3)
    rates = found["rhs"](0.0, start.Q, start.M, start.P)
    np.testing.assert_allclose(rates["Q"], equations.evaluate(start)["Q"], rtol=1e-12, atol=1e-15)
    with pytest.raises(dmft.errors.BadParameter, match="has no values"):
        dmft.export(flow([1, a]), tmp_path / "other.py")
