"""Random declarations: risk, rates and claims of the library against the judge's plane averages.

Nothing that the judge computes with is the library's (`cases`, `plane_quadrature`, `activations`
import NumPy, SciPy and, for declaring, SymPy). The fast test draws a few; the slow one 2,000:

    pytest -m slow tests/judge
"""

from __future__ import annotations

import importlib.util
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sympy as sp

import dmft

HERE = Path(__file__).parent


def _load(name):
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


activations, plane_quadrature, cases = map(_load, ("activations", "plane_quadrature", "cases"))
SEED = 20261127
# What floats may lose, relative to the sum of the sizes of what is added.
ROUNDING = 1e-10
# What is nothing: units of length zero are short ones for the judge, and for the library.
NOTHING = 1e-25
NODES = 1024
# Averages on random nodes claim their error at 99 %: one in a hundred may be larger, none by this.
FACTOR_OF_NODES = 4.0


def declare(case):
    """The library's objects for a case."""
    expression = activations.ACTIVATIONS[case.student].expression
    student = dmft.Committee(expression, case.p, [sp.Rational(x) for x in case.readout])
    if case.several:
        teacher = dmft.MultiIndex(cases.TARGETS[case.teacher].expression, [cases.u_1, cases.u_2])
    else:
        own = activations.ACTIVATIONS[case.teacher].expression
        teacher = dmft.Committee(own, case.k, [sp.Rational(x) for x in case.teacher_readout])
    model = dmft.Model(student, teacher, case.noise)
    constraint = "sphere" if case.sphere else None
    if case.flow:
        return model, dmft.GradientFlow(constraint=constraint)
    return model, dmft.SGD(case.rate, loss=case.loss, constraint=constraint)


def compiled_rates(equations, start):
    """Rates by the generated code, and the risk that it observes."""
    problem = dmft.build(equations)
    values = equations.values(start, {})
    y = problem.pack({"Q": start.Q, "M": start.M})
    numbers = {name: values.scalars[name] for name in problem.parameters}
    par, widths = problem.pack_parameters(numbers, values.arrays), np.array([start.p, start.k])
    out, risk = np.empty_like(y), np.empty(1)
    problem.rhs(0.0, y, widths, par, out)
    problem.observe(0.0, y, widths, par, risk)
    return {**problem.unpack(out, values.widths), "risk": risk[0]}


def judge(number, compiled=False):
    """A case, what the library says of it beside the truth, and whether it used nodes."""
    case = cases.draw(np.random.default_rng([SEED, number]))
    model, algorithm = declare(case)
    Q, M, P = case.overlaps
    true = cases.truth(case)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        risk, start = dmft.population_risk(model), dmft.Overlaps(Q, M, P)
        equations = dmft.derive(model, algorithm)
        # Few nodes: what is judged is their claim.
        random = equations.averages and equations.rule(start, {}).kind == "sobol"
        few = {"nodes": NODES} if random else {}
        values = {**equations.evaluate(start, **few), "risk": risk(Q=Q, M=M, P=P)}
        claims = {**equations.evaluate_error(start, **few), "risk": risk.error(Q=Q, M=M, P=P)}
        if compiled and not equations.averages:
            values.update(compiled_rates(equations, start))
    found = []
    for name in ("risk", "M", "Q"):
        scale = np.asarray(getattr(true, f"{name}_scale"))
        for index in np.ndindex(scale.shape):
            told = (
                np.asarray(x[name])[index] for x in (values, {name: getattr(true, name)}, claims)
            )
            found.append((f"{name}{list(index) or ''}", *map(float, told), float(scale[index])))
    return case, found, bool(equations.averages)


def failures(numbers, compiled=False):
    """What is wrong, in words, and how many claims of 99 % were passed, of how many."""
    wrong, outside, claimed = [], 0, 0
    for number in numbers:
        case, found, on_nodes = judge(number, compiled)
        for name, value, true, claim, scale in found:
            allowed = claim + ROUNDING * scale + NOTHING
            error = abs(value - true)
            if on_nodes and claim > ROUNDING * scale:
                claimed += 1
                outside += error > allowed
                allowed *= FACTOR_OF_NODES
            if not error <= allowed:  # nan is an error
                wrong.append(
                    f"{number}: {name} = {value!r}, truth {true!r}, claim {claim:.1e}, "
                    f"scale {scale:.1e}: {case}"
                )
                break
    return wrong, outside, claimed


def test_the_judge_agrees_with_itself_in_turned_planes():
    """Turning the plane moves every line, cut and node, and no truth."""
    turn = np.array([[np.cos(0.7), -np.sin(0.7)], [np.sin(0.7), np.cos(0.7)]])
    for number in range(6):
        case = cases.draw(np.random.default_rng([SEED + 1, number]))
        if case.units in ("full", "zero"):
            continue
        here, there = cases.truth(case), cases.truth(replace(case, rows=case.rows @ turn))
        assert here.risk == pytest.approx(there.risk, abs=2e-14 * here.risk_scale)
        for name in ("M", "Q"):
            scale = getattr(here, f"{name}_scale")
            difference = np.abs(getattr(here, name) - getattr(there, name))
            assert (difference <= 1e-13 * scale + NOTHING).all(), case


@pytest.mark.slow
def test_the_judge_sees_a_wrong_number():
    """A relative error of 1e-8 is more than any closed form may have."""
    _, found, _ = judge(3)
    assert all(
        abs(value - true) <= claim + ROUNDING * size for _, value, true, claim, size in found
    )
    large = [row for row in found if abs(row[2]) > 0.1 * row[4]]
    assert large
    for _, value, true, claim, size in large:
        assert abs(value * (1 + 1e-8) - true) > claim + ROUNDING * size


@pytest.mark.slow
def test_a_few_random_declarations():
    wrong, _, _ = failures(range(3))
    assert not wrong, "\n".join(wrong)


@pytest.mark.slow
@pytest.mark.parametrize("block", range(40))
def test_random_declarations(block):
    wrong, outside, claimed = failures(range(50 * block, 50 * block + 50))
    assert not wrong, "\n".join(wrong)
    assert outside <= 2 + 0.05 * claimed


@pytest.mark.slow
@pytest.mark.parametrize("block", range(8))
def test_compiled_rates_of_random_declarations(block):
    wrong, _, _ = failures(range(2000 + 10 * block, 2010 + 10 * block), compiled=True)
    assert not wrong, "\n".join(wrong)
