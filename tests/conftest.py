"""Shared fixtures: the models that most tests run on, and the reference vectors."""

import json
import os
from pathlib import Path

import pytest
import sympy as sp

import dmft

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
