"""A hyperparameter is declared, registered, derived and simulated in one file each."""

import dataclasses
import re
from pathlib import Path

import pytest
import sympy as sp

import dmft
from dmft.cli.schema import SCHEMA
from dmft.equations.symbols import SYMBOL_LATEX
from dmft.errors import BadParameter
from dmft.model.algorithm import numbers_of, refuse
from dmft.model.hyperparameters import MEMORY, OPTIMISER, REGISTRY

ROOT = Path(dmft.__file__).parent
DECLARED = {"model/algorithm.py", "model/hyperparameters.py"}
PLACES = DECLARED | {
    "equations/update/optimiser.py",
    "simulation/steps/optimiser.py",
}
# Optimisers that scale their steps have rooms of their own: declared, derived, simulated; and the
# dictionary to torch's names. Numbers that they alone have stand there.
SCALED = re.compile(r"model/adaptive|model/torch|model/rule|update/adaptive_|simulation/plan")
OF_SCALED = ("second_moment_rate", "eps", "initial")
# Gradient descent on repeated data has numbers of its own under the same names.
# Files say what schedules are of.
REPEATED_DATA = re.compile(r"descent|two_time|cli/toml|cli/schema")
# Closed forms of noise floors, schedules by control, the explorer and the messages on names of
# other libraries say what they are of.
ANSWERS = re.compile(
    r"aliases|escape/recovery|workflow/(optimal_)?control|model/schedule|explorer/"
)


@pytest.mark.parametrize("name", [name for name in OPTIMISER if name not in OF_SCALED])
def test_four_files_know_it(name):
    files = {path.relative_to(ROOT).as_posix(): path.read_text() for path in ROOT.rglob("*.py")}
    found = {path for path, text in files.items() if re.search(rf"\b{name}\b", text)}
    elsewhere = (REPEATED_DATA, SCALED, ANSWERS)
    # Variances of added noise share one term and one line of the step.
    places = DECLARED if OPTIMISER[name].additive else PLACES
    assert {path for path in found if not any(y.search(path) for y in elsewhere)} == places


def test_three_rooms_know_the_numbers_of_scaled_steps():
    files = {path.relative_to(ROOT).as_posix(): path.read_text() for path in ROOT.rglob("*.py")}
    found = {path for path, text in files.items() if "second_moment_rate" in text}
    places = {"model/algorithm.py", "model/hyperparameters.py", "simulation/steps/optimiser.py"}
    assert {path for path in found if not SCALED.search(path)} <= places


def test_nobody_asks_which_kind_of_model_equations_are_of():
    texts = (path.read_text() for path in ROOT.rglob("*.py"))
    assert not [text for text in texts if re.search(r'family [!=]= "sequence"', text)]


def test_refusals_stand_with_the_declaration():
    heavy = dmft.SGD(0.1, momentum=sp.Symbol("b"))
    assert numbers_of(heavy) == {"momentum": sp.Symbol("b")}
    assert not numbers_of(dmft.GradientFlow())
    refuse(heavy, "sphere")
    for place in ("map", "chain", "sequence", "escape", "repeat"):
        with pytest.raises(BadParameter, match="momentum = b "):
            refuse(heavy, place)
    with pytest.raises(BadParameter, match=r"weight_decay = 0\.1\d* shortens rows"):
        dmft.GradientFlow("sphere", weight_decay=0.1)
    with pytest.raises(BadParameter, match="no friction"):
        dmft.UpdateField(1, fields=sp.symbols("h s y"), learning_rate=1, friction=1)


def rows_of_torch():
    """Rows of the table of docs/optimisers.md, from the registry."""
    for name in ("SGD", "Adam", "AdamW", "RMSprop", "Adagrad"):
        for number in REGISTRY.values():
            for entry in (e for e in number.torch or () if e.optimiser == name):
                cells = (
                    rf"1 - {number.latex} \gamma/(p d)"
                    if factor == MEMORY
                    else sp.latex(sp.Symbol(number.latex) * factor)
                    for factor in (entry.theta, entry.rows)
                )
                where = f"`{name}`: {entry.argument}" + " (its state)" * entry.state
                yield f"| {where} | " + " | ".join(f"${cell}$" for cell in cells) + " |"


def test_page_files_and_latex_read_the_registry():
    page = (ROOT.parent / "docs" / "optimisers.md").read_text(encoding="utf-8")
    assert "\n".join(rows_of_torch()) in page
    keys = SCHEMA["algorithm"].keys
    for name, number in REGISTRY.items():
        assert not number.key or (keys[name].kind, keys[name].text) == (number.key, number.what)
    letters = {symbol.name: latex for symbol, latex in SYMBOL_LATEX.items()}
    assert all(letters[name] == number.latex for name, number in OPTIMISER.items())


# What an algorithm of one pass is beyond a step of its optimiser.
NO_NUMBERS = {"loss", "constraint", "repeat", "psi", "fields", "definitions", "measures"}


@pytest.mark.parametrize("kind", [dmft.SGD, dmft.SignSGD, dmft.Adam, dmft.RMSProp, dmft.AdaGrad])
def test_torch_has_every_number_or_refuses_it(kind):
    """The rate of the readouts was dropped in silence."""
    base = {"learning_rate": 0.5} | ({"initial": 0.25} if kind is dmft.AdaGrad else {})
    plain = kind(**base).as_torch(100, 2)
    if kind in (dmft.Adam, dmft.RMSProp):  # long in steps, short in t: 1 - beta_2 = 1/(3 sqrt d)
        memory = plain["betas"][1] if kind is dmft.Adam else plain["alpha"]
        assert memory == pytest.approx(1 - 1 / 30, rel=1e-12)
    names = {f.name for f in dataclasses.fields(kind)} - NO_NUMBERS
    assert names <= set(REGISTRY)
    values = {"second_moment_rate": 2.0, "beta2": 0.5, "momentum": 0.25, "normalised": True}
    for name in sorted(names - {"learning_rate", "batch_size", "decoupled"}):
        more = {"second_moment_rate": 2.0} if name == "initial" and kind is not dmft.AdaGrad else {}
        try:
            made = kind(**{**base, **more, name: values.get(name, 0.5)})
        except (BadParameter, TypeError):  # it has no such number
            continue
        if any(entry.state for entry in REGISTRY[name].torch or ()) and more:
            continue  # an entry of the state of torch's optimiser
        try:
            found: object = made.as_torch(100, 2)
        except BadParameter as error:
            found = str(error)
        assert found != plain, name
        assert isinstance(found, dict) or found.startswith(f"{name} = ")
    if kind is dmft.SGD:
        own = dmft.UpdateField(sp.Symbol("h"), fields=sp.symbols("h s y"), learning_rate=1)
        with pytest.raises(BadParameter, match="has no counterpart in"):
            own.as_torch(100)
        with pytest.raises(BadParameter, match=r"readout_rate = 0\.3\d* is the learning rate"):
            kind(0.5, readout_rate=0.3).as_torch(100)
        with pytest.raises(BadParameter, match=r"momentum_direct = 0\.5\d* adds a direct step"):
            kind(0.5, momentum=dmft.Momentum(1.0, 0.5)).as_torch(100)
        with pytest.raises(BadParameter, match=r"weight_decay = 0\.1\d* is decoupled"):
            kind(0.5, momentum=0.5, weight_decay=0.1, decoupled=True).as_torch(100)


def test_arguments_of_torch_that_are_no_numbers_of_ours_are_refused():
    for kind, more in (
        (dmft.SGD, {"maximize": True}), (dmft.Adam, {"amsgrad": True}),
        (dmft.RMSProp, {"momentum": 0.5}), (dmft.RMSProp, {"centered": True}),
        (dmft.AdaGrad, {"lr_decay": 0.1}), (dmft.AdaGrad, {"eps": 0.1}),
    ):  # fmt: skip
        (name,) = more
        memory = {dmft.Adam: {"betas": (0.5, 0.9)}, dmft.RMSProp: {"alpha": 0.9}}
        settings = {"lr": 0.01, **memory.get(kind, {}), name: False}
        kind.from_torch(settings, 100)
        with pytest.raises(BadParameter, match=f"{name} = "):
            kind.from_torch({**settings, **more}, 100)


def test_decays_of_torch_come_back():
    settings = {"lr": 0.01, "betas": (0.5, 0.9), "weight_decay": 0.5}
    inside = dmft.Adam.from_torch(settings, 100, width=2)
    assert (inside.decoupled, float(inside.weight_decay)) == (False, 1.0)
    beside = dmft.Adam.from_torch(settings, 100, width=2, decoupled=True)
    assert (beside.decoupled, float(beside.weight_decay)) == (True, 0.5)
    for algorithm in (inside, beside):
        again = algorithm.as_torch(100, 2)
        assert {n: again[n] for n in ("lr", "weight_decay")} == {"lr": 0.01, "weight_decay": 0.5}
