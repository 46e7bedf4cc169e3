"""Shared fixtures: the models that most tests run on, and the reference vectors."""

import gc
import json
import os
from pathlib import Path

import numpy as np
import pytest
import sympy as sp

import dmft
from dmft.compiled.sealed import Deferred

Z = sp.Symbol("z", real=True)
ACTIVATIONS = {
    "erf": sp.erf(Z / sp.sqrt(2)),
    "square": Z**2,
    "he2": Z**2 - 1,
    "he3": Z**3 - 3 * Z,
}


@pytest.fixture(scope="session", autouse=True)
def _compiled_code_of_this_session(tmp_path_factory):
    """Compile into a fresh cache of all workers, unless a developer names one to keep."""
    if "DMFT_CACHE_DIR" not in os.environ:
        folder = tmp_path_factory.getbasetemp()
        if "PYTEST_XDIST_WORKER" in os.environ:  # each has its own folder below that of the session
            folder = folder.parent
        os.environ["DMFT_CACHE_DIR"] = str(folder / "compiled")


@pytest.fixture(scope="session", autouse=True)
def _few_collections():
    """Numba and SymPy make millions of small objects that live on: a tenth of the time is Python's
    looking through them again and again.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


@pytest.fixture(params=["read", pytest.param("compiled", marks=pytest.mark.slow)])
def generated_code(request, monkeypatch):
    """Generated text run by Python itself; compiled by Numba in the slow suite.

    For tests of what the text says: Python runs a right-hand side of a few neurons in milliseconds,
    and compiling it takes 3 to 10 s. `solve` and whatever takes a function pointer compile anyway.
    """
    if request.param == "compiled":
        return
    compiled_call = Deferred.__call__

    def call(function, *args):
        if not function._wanted or not function.py_func.__module__.startswith("dmft_equations_"):
            return compiled_call(function, *args)
        with np.errstate(all="ignore"):
            return function.py_func(*args)

    monkeypatch.setattr(Deferred, "__call__", call, raising=False)


@pytest.fixture(scope="session")
def activations():
    return ACTIVATIONS


@pytest.fixture(scope="session")
def dynamics_vectors():
    path = Path(__file__).parent / "reference" / "one_pass_dynamics.json"
    return json.loads(path.read_text())


@pytest.fixture(scope="session")
def committee_model():
    """Return a factory of models by activation names, widths, readouts and label noise."""

    def make(student, teacher, p, k, a=None, a_star=None, noise=0.0):
        return dmft.Model(
            dmft.Committee(ACTIVATIONS[student], p, a),
            dmft.Committee(ACTIVATIONS[teacher], k, a_star),
            noise,
        )

    return make
