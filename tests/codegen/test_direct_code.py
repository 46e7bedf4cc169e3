"""Machine code written without Numba, judged by Numba: the same text gives the same bits."""

import numpy as np
import pytest
import sympy as sp

import dmft
from dmft.codegen.build import (
    DIVIDER,
    ONE_STATE,
    SEVERAL_STATES,
    problem_of_functions,
    stored_source,
)
from dmft.compiled import direct
from dmft.compiled.machine_code import Unknown
from dmft.emit import load_module

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
        "out[0] = math.exp(y[0])",
        "out[0] = y[0] ** 2",
        "out[0] = missing",
        "out[0] = y[0, 0]",
        "out[0] = y[0] if y[0] != y[1] else 0.0",
        "while True: out[0] = 1.0",
        "for i in y: out[0] = i",
        "out[0] = max(y[0], y[1])",
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


def test_functions_of_other_files_are_left_to_numba():
    _, (text, _) = derived(dmft.SGD(0.5), sp.tanh(Z))
    with pytest.raises(Unknown):
        direct.code_from_text(text, "rhs")


def test_damaged_code_is_compiled_again():
    _, (text, _) = derived(dmft.GradientFlow())
    text = f"{text}\n# of this test"
    first = direct.native(text, "rhs").code
    path = dmft.emit.cache_directory() / direct.record(text, "rhs")
    path.write_bytes(path.read_bytes()[:-3] + b"bad")
    direct._NATIVE.pop(path.name)
    assert direct.native(text, "rhs").code == first
    assert direct.is_kept(text, "rhs")
