"""What is compiled ahead; that the first run then compiles nothing is tested with the command."""

from importlib import import_module

import pytest
import sympy as sp

import dmft

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
                *(getattr(problem.process, name) for name in STEPS),
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
