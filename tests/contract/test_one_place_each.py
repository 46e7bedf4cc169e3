"""A new loss, input law or learning rule is one declaration: nothing else knows of it.

Rules of one's own are in tests/equations/test_own_rules.py and examples/learning_rules.py.
"""

import ast
import re
from pathlib import Path

import numpy as np
import pytest
import sympy as sp
from scipy.special import erf, roots_genlaguerre

import dmft
from dmft.model import loss as losses

Z = sp.Symbol("z", real=True)
NETWORK = dmft.Committee(sp.erf(Z / sp.sqrt(2)), 1)
START = dmft.Overlaps([[0.8]], [[0.3]])


def test_a_loss_with_a_name_is_one_line(monkeypatch):
    """Derived, measured and simulated; models that know no expressions refuse it as one."""
    margin = losses.PREDICTION * losses.LABEL
    monkeypatch.setitem(losses.NAMED, "logistic", sp.log(1 + sp.exp(-margin)))
    model, named = dmft.Model(NETWORK, NETWORK), dmft.SGD(0.5, loss="logistic")
    assert named == dmft.SGD(0.5, loss=losses.NAMED["logistic"])
    found = dmft.derive(model, named).evaluate(START)
    h, star = np.linalg.cholesky(START.Omega) @ np.random.default_rng(0).standard_normal(
        (2, 400_000)
    )
    f, y = erf(h / np.sqrt(2)), erf(star / np.sqrt(2))
    psi = np.sqrt(2 / np.pi) * np.exp(-h * h / 2) * y / (1 + np.exp(f * y))
    move = psi * star
    assert abs(found["M"][0, 0] - move.mean()) < 5 * move.std() / np.sqrt(move.size)
    with pytest.raises(dmft.errors.BadParameter, match='"squared", "correlation", "frobenius", "l'):
        dmft.SGD(0.5, loss="logistics")
    with pytest.raises(dmft.errors.BadParameter, match='"squared", "correlation", "logistic"'):
        dmft.GradientDescent(0.5, 2.0, loss="logistics")


def heavy_tails(freedom, nodes=6):
    """Inputs g sqrt(nu / chi^2_nu), of variances that are nodes of the law of nu / chi^2."""
    points, weights = roots_genlaguerre(nodes, freedom / 2 - 1)
    scales = freedom / (2 * points)
    return dmft.GaussianMixture([[0.0]] * nodes, weights=weights / weights.sum(), scales=scales)


def test_a_law_of_inputs_is_one_function():
    """Student's t with 9 degrees of freedom: rates of one step on inputs that are drawn."""
    freedom, samples = 9, 400_000
    model = dmft.Model(NETWORK, NETWORK, inputs=heavy_tails(freedom))
    found = dmft.derive(model, dmft.SGD(0.5)).evaluate(START)
    rng = np.random.default_rng(1)
    scale = freedom / rng.chisquare(freedom, samples)
    h, star = np.sqrt(scale) * (np.linalg.cholesky(START.Omega) @ rng.standard_normal((2, samples)))
    psi = np.sqrt(2 / np.pi) * np.exp(-h * h / 2)
    psi = psi * (erf(star / np.sqrt(2)) - erf(h / np.sqrt(2)))
    for name, move in (("M", psi * star), ("Q", 2 * psi * h + 0.5 * scale * psi**2)):
        spread = move.std() / np.sqrt(samples)
        assert abs(found[name][0, 0] - move.mean()) < 5 * spread


# Who makes the text of a loop from data: the writer, and what knows of triangles, blocks, chunks.
WRITERS = {"graph.py", "loops.py", "assemble.py", "blocks.py", "chunks.py"}
CODEGEN = Path(dmft.__file__).parent / "codegen"
LOOP = re.compile(r"\bfor\b.*\bin range\(")


def loop_texts(path):
    """Texts in a source file that hold a loop: those with places to fill, and whole ones."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inside = {id(y) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)
              for y in ast.walk(node) if y is not node}  # fmt: skip
    filled, whole = [], []
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            text = "".join(str(getattr(y, "value", "x")) for y in node.values)
            filled += [text] if LOOP.search(text) else []
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            whole += [node.value] if id(node) not in inside and LOOP.search(node.value) else []
    return filled, whole


def test_loops_are_written_in_one_place():
    """Of one pass and of two times, headers, bounds and depth of loops are the same work."""
    assert loop_texts(CODEGEN / "graph.py")[0]
    for path in CODEGEN.rglob("*.py"):
        filled, whole = loop_texts(path)
        if path.parent.name == "export":  # trees of loops, printed in several languages
            continue
        assert not filled or path.name in WRITERS, (path.name, filled)
        # Code that is the same for all models may hold loops; that of two times has none.
        assert not (whole and path.parent.name == "two_time"), (path.name, whole)
