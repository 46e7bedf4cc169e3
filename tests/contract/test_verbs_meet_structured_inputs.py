"""Each verb on each kind of structured declaration: it works, or says in words what to do.

Declarations: a spectrum with Adam, clusters x blocks, several outputs with cross-entropy, flipped
labels with the logistic loss. Verbs that are not in the table of refusals work.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sympy as sp

import dmft
from dmft.cli.toml import read_declaration
from dmft.errors import BadParameter, DmftError

Z = sp.Symbol("z", real=True)
ERF = dmft.Committee(sp.erf(Z / sp.sqrt(2)), 1)
ONE = ([[0.6]], [[0.2]], [[1.0]])


def in_blocks() -> dmft.Overlaps:
    return dmft.Overlaps(*(np.array([0.4 * np.array(b), 0.6 * np.array(b)]) for b in ONE))


@cache
def declared(name: str) -> tuple[dmft.Model, dmft.SGD, dmft.Overlaps]:
    if name == "spectrum, Adam":
        law = dmft.Spectrum([2.0, 0.5], [0.4, 0.6])
        return dmft.Model(ERF, ERF, 0.1, inputs=law), dmft.Adam(0.5, eps=0.1), in_blocks()
    if name == "clusters x blocks":
        mixture = dmft.GaussianMixture(
            [[1.0], [-1.0]], [1, -1], [0.4, 0.6], scales=[[1.0, 0.5], [0.5, 1.5]],
            fractions=[0.4, 0.6],
        )  # fmt: skip
        return dmft.Model(ERF, mixture), dmft.SGD(0.5), in_blocks()
    if name == "several outputs":
        classes = dmft.GaussianMixture(np.eye(2), weights=[0.4, 0.6], scales=[1.0, 0.5])
        student = dmft.Committee(Z, 2, [[2.0, 0.0], [0.0, 2.0]])
        start = dmft.Overlaps([[0.5, 0.1], [0.1, 0.4]], [[0.2, 0.1], [-0.1, 0.3]])
        return dmft.Model(student, classes), dmft.SGD(0.5, loss="cross-entropy"), start
    line, sign = dmft.Committee(Z, 1), dmft.Committee(sp.sign(Z), 1)
    flipped = dmft.Model(line, sign, label_flip=0.1)
    return flipped, dmft.SGD(0.5, loss="logistic"), dmft.Overlaps(*ONE)


@cache
def equations(name: str) -> Any:
    model, algorithm, _ = declared(name)
    return dmft.derive(model, algorithm)


@cache
def solved(name: str) -> Any:
    return dmft.solve(equations(name), declared(name)[2], 0.2)


DECLARATIONS = ("spectrum, Adam", "clusters x blocks", "several outputs", "flipped labels")
S, C, O, F = DECLARATIONS  # noqa: E741
Verb = Callable[[str, Path], Any]


def of_model(verb: Any, *others: Any) -> Verb:
    return lambda name, _: verb(*declared(name)[:2], *others)


def of_equations(verb: Any, **options: Any) -> Verb:
    return lambda name, _: verb(equations(name), declared(name)[2], **options)


def exported(suffix: str) -> Verb:
    return lambda name, folder: dmft.export(equations(name), folder / f"rhs{suffix}")


def diagram(verb: Any) -> Verb:
    axes = (("learning_rate", (0.2, 0.5)), ("weight_decay", (0.0, 0.2)))
    return lambda name, _: verb(
        "fixed_point", *axes, equations=equations(name), start=declared(name)[2], t_max=0.3
    )


FAST: dict[str, Verb] = {
    "latex": lambda name, folder: dmft.latex(folder / "all.tex", equations(name)),
    "risk": lambda name, _: dmft.population_risk(declared(name)[0]).latex(),
    "explain": lambda name, _: dmft.explain(equations(name)),
    "explicit": lambda name, _: equations(name).explicit(),
    "export .py": exported(".py"),
    "export .c": exported(".c"),
    "export .js": exported(".js"),
    "export jax": exported("_jax.py"),
    "escape_rate": lambda name, _: dmft.escape_rate(declared(name)[0]),
    "escape_formula": of_model(dmft.escape_formula),
    "maximal_learning_rate": of_model(dmft.maximal_learning_rate),
    "noise_floor": of_model(dmft.noise_floor),
    "weak_recovery": of_model(dmft.weak_recovery),
    "regimes": of_model(dmft.regimes),
    "scaling_law": of_equations(dmft.scaling_law, window=(0.1, 1.0)),
    "map": lambda name, _: dmft.derive(*declared(name)[:2], dim=100),
    "fluctuations": lambda name, _: dmft.derive(*declared(name)[:2], dim=9, fluctuations=True),
    "random_overlaps": lambda name, _: dmft.random_overlaps(declared(name)[0], 100, 0),
}  # fmt: skip
SLOW: dict[str, Verb] = {
    "stability": of_equations(dmft.stability),
    "fixed_points": of_equations(dmft.fixed_points),
    "greedy_schedule": of_equations(dmft.greedy_schedule, t_max=0.3),
    "optimal_schedule": of_equations(dmft.optimal_schedule, t_max=0.3, pieces=3),
    "phases": lambda name, _: dmft.phases(solved(name)),
    "escape_time": lambda name, _: dmft.escape_time(solved(name)),
    "sweep": of_equations(
        lambda e, s: dmft.sweep(
            {"learning_rate": [0.2, 0.5]}, "escape_time", equations=e, start=s, t_max=0.2
        )
    ),
    "phase_diagram": diagram(dmft.phase_diagram),
    "plot": lambda name, _: dmft.plot(solved(name)),
    "files": lambda name, folder: solved(name).save(folder / "run.nc"),
    "weights": lambda name, _: dmft.simulate(
        *declared(name)[:2], 60, 0.1, 2, declared(name)[2], "weights"
    ),
    "overlaps": lambda name, _: dmft.simulate(
        *declared(name)[:2], 60, 0.1, 2, declared(name)[2], "overlaps"
    ),
}  # fmt: skip
WITHOUT = "without inputs=|without a spectrum|isotropic inputs|inputs x ~ N"
OF_ONE = "students of one output"
SGD_HERE = "use dmft.SGD here"
FLIPPED = "label_flip = "
ON_NODES = "averages on nodes|without closed form|not linearised"
# What is refused, by words that are in the sentence.
REFUSED: dict[tuple[str, str], str] = {
    ("explain", S): SGD_HERE, ("explain", C): WITHOUT, ("explain", O): OF_ONE,
    ("explain", F): "a student that is not linear",
    ("explicit", S): WITHOUT, ("explicit", C): WITHOUT, ("explicit", O): OF_ONE,
    **{(f"export {x}", d): "run.to_pandas" for x in (".py", ".c", ".js", "jax") for d in (S, C)},
    **{(f"export {x}", O): ON_NODES for x in (".py", ".c", ".js", "jax")},
    **{(f"export {x}", F): "not exported to" for x in (".c", ".js", "jax")},
    ("escape_rate", S): "teacher=rho", ("escape_rate", C): "use dmft.stability",
    ("escape_rate", O): "use dmft.stability", ("escape_rate", F): FLIPPED,
    **{(verb, d): f"{WITHOUT}|{SGD_HERE}|{OF_ONE}|solve the equations|takes any loss|{FLIPPED}"
       for verb in ("escape_formula", "maximal_learning_rate", "weak_recovery", "regimes")
       for d in DECLARATIONS},
    ("noise_floor", C): WITHOUT, ("noise_floor", O): OF_ONE, ("noise_floor", F): FLIPPED,
    ("noise_floor", S): "solve the equations|use dmft.SGD",
    ("scaling_law", C): "a single spectrum", ("scaling_law", O): "with a spectrum",
    ("scaling_law", F): "with a spectrum",
    ("map", S): WITHOUT, ("map", C): WITHOUT, ("map", O): OF_ONE, ("map", F): "batch_size",
    ("fluctuations", S): WITHOUT, ("fluctuations", C): WITHOUT, ("fluctuations", O): OF_ONE,
    **{("phase_diagram", d): "weight_decay" for d in DECLARATIONS},
    ("overlaps", S): SGD_HERE, ("overlaps", C): WITHOUT,
}  # fmt: skip


def judged(verb: Verb, key: tuple[str, str], folder: Path) -> None:
    if key not in REFUSED:
        assert verb(key[1], folder) is not None
        return
    with pytest.raises(DmftError, match=REFUSED[key]) as refusal:
        verb(key[1], folder)
    # A sentence, not the name of a key.
    assert len(str(refusal.value).split()) > 6


# Formulas of clusters x blocks take 3 s; the other three are printed here, and all that is short of
# these.
@pytest.mark.parametrize(
    ("verb", "name"),
    [
        pytest.param(verb, name, marks=[pytest.mark.slow] if (verb, name) == ("latex", C) else [])
        for verb in FAST
        for name in DECLARATIONS
    ],
)
def test_verbs(verb: str, name: str, tmp_path: Path) -> None:
    judged(FAST[verb], (verb, name), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", DECLARATIONS)
@pytest.mark.parametrize("verb", SLOW)
def test_verbs_that_solve(verb: str, name: str, tmp_path: Path) -> None:
    judged(SLOW[verb], (verb, name), tmp_path)


@pytest.mark.filterwarnings("ignore")
def test_laws_of_powers_are_derived_for_plain_steps_alone() -> None:
    """Signs, clipped steps and wrong labels took the exponent of SGD."""
    line = dmft.Committee(Z, 1)
    tail = dmft.Spectrum.power_law(capacity=1.5, source=0.2, dim=2000)
    assert dmft.scaling_law(dmft.derive(dmft.Model(line, line, inputs=tail), dmft.SGD(1.0))).how
    from dmft.workflow.scaling_law import _is_derived

    for number, algorithm, flip in (
        (True, dmft.SGD(1.0), 0.0),
        (False, dmft.SignSGD(1.0), 0.0),
        (False, dmft.SGD(1.0, clip=0.1), 0.0),
        (False, dmft.SGD(1.0, readout_rate=0.1), 0.0),
        (False, dmft.SGD(1.0), 0.1),
    ):
        model = dmft.Model(line, line, inputs=tail, label_flip=flip)
        assert _is_derived(dmft.derive(model, algorithm), None) is number


@pytest.mark.slow
def test_trained_readouts_on_a_spectrum_are_solved() -> None:
    """They raised a KeyError; the runs of weights are followed at two dimensions."""
    model, start = dmft.Model(ERF, ERF, inputs=dmft.Spectrum([2.0, 0.5], [0.4, 0.6])), in_blocks()
    algorithm = dmft.SGD(0.5, readout_rate=1.0)
    run = dmft.solve(dmft.derive(model, algorithm), start, 1.0, save_at=3)
    for dim in (300, 1200):
        runs = dmft.simulate(model, algorithm, dim, 1.0, 16, start, "weights", save_at=3)
        off = np.abs(runs.mean.readout - run.readout)[1:]
        assert np.all(off < 4.5 * runs.stderr["readout"][1:] + 3.0 / dim)


FILES = {
    S: """
        [student]
        activation = "erf(z/sqrt(2))"
        width = 1
        [teacher]
        activation = "erf(z/sqrt(2))"
        width = 1
        [model]
        label_noise = 0.1
        [inputs]
        eigenvalues = [2.0, 0.5]
        fractions = [0.4, 0.6]
        [algorithm]
        kind = "adam"
        learning_rate = 0.5
        eps = 0.1
    """,
    C: """
        [student]
        activation = "erf(z/sqrt(2))"
        width = 1
        [inputs]
        means = [[1.0], [-1.0]]
        labels = [1, -1]
        weights = [0.4, 0.6]
        scales = [[1.0, 0.5], [0.5, 1.5]]
        fractions = [0.4, 0.6]
        [algorithm]
        kind = "sgd"
        learning_rate = 0.5
    """,
    O: """
        [student]
        activation = "z"
        width = 2
        readout = [[2.0, 0.0], [0.0, 2.0]]
        [inputs]
        means = [[1.0, 0.0], [0.0, 1.0]]
        weights = [0.4, 0.6]
        scales = [1.0, 0.5]
        labels = [0, 1]
        [algorithm]
        kind = "sgd"
        learning_rate = 0.5
        loss = "cross-entropy"
    """,
    F: """
        [student]
        activation = "z"
        width = 1
        [teacher]
        activation = "sign(z)"
        width = 1
        [model]
        label_flip = 0.1
        [algorithm]
        kind = "sgd"
        learning_rate = 0.5
        loss = "logistic"
    """,
}


@pytest.mark.parametrize("name", DECLARATIONS)
def test_files(name: str, tmp_path: Path) -> None:
    """A file declares the same model and algorithm."""
    file = tmp_path / "model.toml"
    file.write_text(FILES[name].replace("        ", ""))
    found = read_declaration(file)
    assert (found.model, found.algorithm) == declared(name)[:2]


def test_own_losses_of_outputs_in_files(tmp_path: Path) -> None:
    text = FILES[O].replace("        ", "")
    file = tmp_path / "model.toml"
    file.write_text(text.replace("cross-entropy", "(f1 - y1)**2 + (f2 - y2)**4"))
    f1, f2, y1, y2 = sp.symbols("f1 f2 y1 y2", real=True)
    loss = (f1 - y1) ** 2 + (f2 - y2) ** 4
    assert read_declaration(file).algorithm == dmft.SGD(0.5, loss=loss)
    with pytest.raises(BadParameter, match="is not a loss of 2 outputs"):
        dmft.derive(declared(O)[0], dmft.SGD(0.5, loss=loss + sp.Symbol("f3", real=True)))
