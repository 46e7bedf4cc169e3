"""A number of the optimiser is declared, derived and simulated in one file each."""

import re
from pathlib import Path

import pytest
import sympy as sp

import dmft
from dmft.errors import BadParameter
from dmft.model.algorithm import OPTIMISER, numbers_of, refuse

ROOT = Path(dmft.__file__).parent
PLACES = {"model/algorithm.py", "equations/update/optimiser.py", "simulation/steps/optimiser.py"}
# Optimisers that scale their steps have rooms of their own: declared, derived, simulated; and the
# dictionary to torch's names. Numbers that they alone have stand there.
SCALED = re.compile(r"model/optimisers/|model/rule|update/adaptive/|simulation/scale")
OF_SCALED = ("second_moment_rate", "eps", "initial")
# Gradient descent on repeated data has numbers of its own under the same names.
# Files say what schedules are of.
REPEATED_DATA = re.compile(r"descent|two_time|cli/toml|cli/schema")
# Closed forms of noise floors, schedules by control and the explorer say what they are of.
ANSWERS = re.compile(r"escape/recovery|workflow/control/|model/schedule|explorer/")


@pytest.mark.parametrize("name", [name for name in OPTIMISER if name not in OF_SCALED])
def test_three_files_know_it(name):
    files = {path.relative_to(ROOT).as_posix(): path.read_text() for path in ROOT.rglob("*.py")}
    found = {path for path, text in files.items() if re.search(rf"\b{name}\b", text)}
    elsewhere = (REPEATED_DATA, SCALED, ANSWERS)
    assert {path for path in found if not any(y.search(path) for y in elsewhere)} == PLACES


def test_three_rooms_know_the_numbers_of_scaled_steps():
    files = {path.relative_to(ROOT).as_posix(): path.read_text() for path in ROOT.rglob("*.py")}
    found = {path for path, text in files.items() if "second_moment_rate" in text}
    places = {"model/algorithm.py", "simulation/steps/optimiser.py"}
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
