"""What is compiled ahead; that the first run then compiles nothing is tested with the command."""

from functools import partial
from importlib import import_module
from types import SimpleNamespace

import pytest
import sympy as sp

import dmft
from dmft.cli.main import main
from dmft.errors import BadParameter

Z = sp.Symbol("z", real=True)
LINE = dmft.Committee(Z, 1)
STEPS = ("begin", "fields", "averages", "respond", "advance", "overlaps", "drive")


@pytest.mark.parametrize(
    ("algorithm", "parts"),
    [
        (dmft.SGD(0.1), lambda problem: [problem.rhs, problem.observe, problem.domain]),
        (
            dmft.GradientDescent(0.1, 2),
            lambda problem: [
                problem.labels,
                problem.sample,
                *(getattr(problem.process, name).function for name in STEPS),
            ],
        ),
    ],
    ids=["one pass", "descent"],
)
def test_all_functions_of_a_problem_are_made_ready(algorithm, parts, monkeypatch):
    module, seen = import_module("dmft.workflow.warm"), []
    monkeypatch.setattr(module, "_settled", lambda function: seen.append(function) is None)
    model = dmft.Model(LINE, LINE)
    assert dmft.warm(model, algorithm, progress=False) == len({id(one) for one in seen})
    wanted = parts(dmft.build(dmft.derive(model, algorithm)))
    assert not [one for one in wanted if not any(one is found for found in seen)]


def test_without_a_model_the_functions_of_the_library_are_compiled(monkeypatch):
    module, seen = import_module("dmft.workflow.warm"), []
    names = {f"{f.py_func.__module__}.{f.py_func.__name__}" for f in module.library()}
    for room in ("explicit.advance", "lanes.fly_lanes", "stochastic.schemes.advance_weak"):
        assert any(name.endswith(room) for name in names)
    monkeypatch.setattr(module, "COMMON", ())
    for part, first in (("0", 0), ("1", 2)):
        here = [SimpleNamespace(settle=partial(seen.append, n)) for n in range(4)]
        monkeypatch.setattr(module, "library", partial(list, here))
        module.compile_part(part, "2")
        assert (sorted(seen), seen[0]) == ([0, 1, 2, 3], first)
        seen.clear()


def test_half_of_what_warm_takes_is_refused():
    model = dmft.Model(LINE, LINE)
    for given in ((model, None), (None, dmft.SGD(0.1))):
        with pytest.raises(BadParameter, match="a model with an algorithm, or nothing"):
            dmft.warm(*given)
    with pytest.raises(BadParameter, match="or nothing"):
        dmft.warm(dim=100)
    assert main(["warm", "--set", "a=1"]) == 2


@pytest.mark.slow  # a minute or two where nothing is compiled yet
def test_the_library_is_compiled_by_processes():
    module, said = import_module("dmft.workflow.warm"), []
    assert dmft.warm(progress=lambda part, text: said.append(text)) == len(module.library())
    assert said[-1].endswith(f"of {len(module.library())} functions")
