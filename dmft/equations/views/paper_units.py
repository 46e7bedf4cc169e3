"""Committees in the units of Saad and Solla: outputs are sums of units, time counts samples.

Their student and teacher are K times ours (f = sum_j g(x_j)), their rate is eta = gamma/K^2, their
time alpha = steps/N, their noise and error have K^2 in front (`dmft.literature.saad_solla`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import sympy as sp

from dmft.equations import symbols as x
from dmft.equations.definitions import Definition, mapped
from dmft.errors import BadParameter
from dmft.model import SGD, Committee, Model
from dmft.model.algorithm import numbers_of
from dmft.names import LETTERS, NOTATIONS

Notation = str | Mapping[str, str] | None
SAAD_SOLLA = "saad-solla"
CLOCK = "t = steps / N; K and M of order one as N -> infinity"


@dataclass(frozen=True)
class Subject:
    """What is printed: definitions, what they were derived from, and the notation.

    `fluctuates` is true if there is noise beside the rates, `reduced` are lines
    of what the state of a limit or of a symmetric subspace leaves out.
    """

    model: Model
    definitions: tuple[Definition, ...]
    algorithm: Any = None
    kind: str = "ode"
    fluctuates: bool = False
    reduced: tuple[str, ...] = ()
    time_unit: str = ""
    notation: Notation = None


def outputs_are_sums(subject: Subject) -> bool:
    """Whether equations or a risk are printed in these units: those of the paper's own model."""
    model, algorithm = subject.model, subject.algorithm
    if subject.notation != SAAD_SOLLA or model.inputs is not None:
        return False
    networks = (model.student, model.teacher)
    if not all(isinstance(n, Committee) and n.readout is None for n in networks):
        return False
    if algorithm is None:
        return True
    if not isinstance(algorithm, SGD) or not algorithm.is_plain or algorithm.trains_readout:
        return False
    squared = algorithm.loss == "squared" and algorithm.constraint is None
    plain = squared and not numbers_of(algorithm) and subject.kind == "ode"
    roles = {d.role for d in subject.definitions}
    return plain and not subject.fluctuates and not subject.reduced and roles <= ROLES


ROLES = {"block", "intermediate", "rate", "observable"}


def in_sums(definitions: Sequence[Definition], equal: bool) -> tuple[Definition, ...]:
    """Definitions in these units; `equal` widths are one letter in coefficients."""
    units = {x.gamma: x.gamma * x.p**2, x.Delta: x.Delta / x.p**2}
    factors = {"rate": x.gamma * x.p, "observable": x.p**2}

    def times(d: Definition, expr: sp.Expr) -> sp.Expr:
        return _times(factors[d.role], expr.xreplace(units), equal)

    return tuple(mapped(d, partial(times, d)) if d.role in factors else d for d in definitions)


def _times(factor: sp.Expr, expr: sp.Expr, equal: bool) -> sp.Expr:
    """A product with the factor in front of each sum, what it has of widths cancelled."""
    sums = {s: sp.Dummy() for s in expr.atoms(sp.Sum)}
    total = sp.expand(factor * expr.xreplace(sums))
    total = total.xreplace({x.k: x.p}) if equal else total
    return total.xreplace({y: s for s, y in sums.items()})


def sentence(subject: Subject, letter: Callable[[str], str]) -> str:
    """What the units are, for the reader of a fragment."""
    K, d, eta = letter("p"), letter("dim"), letter("learning_rate")
    parts = ["Outputs are sums over units"]
    if subject.algorithm is not None:
        parts.append(rf"$t = \text{{steps}}/{d}$")
        parts.append(rf"${eta} = \gamma/{K}^2$ is the learning rate")
        if subject.model.label_noise != 0:
            noise = letter("label_noise")
            parts.append(rf"${noise} = {K}^2 \Delta$ the variance of the label noise")
    return ", ".join(parts) + "."


def summed_numbers(subject: Subject, letter: Callable[[str], str]) -> list[str]:
    """Learning rate and noise in these units, with their declared numbers."""
    model, algorithm = subject.model, subject.algorithm
    assert isinstance(algorithm, SGD)
    K = model.student.width
    numbers = {"learning_rate": algorithm.learning_rate / K**2}
    if model.label_noise != 0:
        numbers["label_noise"] = K**2 * sp.nsimplify(model.label_noise)
    return [letter(n) + (f" = {sp.latex(y)}" if y.is_number else "") for n, y in numbers.items()]


def letters_of(notation: Notation) -> dict[str, str]:
    """Letters that differ from ours, by the code names of quantities."""
    if notation is None:
        return {}
    if isinstance(notation, str):
        if notation not in NOTATIONS:
            raise BadParameter(
                f"notation = {notation!r} is not known; available: {sorted(NOTATIONS)}, or a dict "
                'such as {"M": "R", "learning_rate": r"\\eta"}'
            )
        return dict(NOTATIONS[notation])
    short = {"gamma": "learning_rate", "Delta": "label_noise", "a": "readout", "R": "risk"}
    found = {short.get(name, name): letter for name, letter in notation.items()}
    unknown = sorted(set(found) - set(LETTERS))
    if unknown:
        raise BadParameter(
            f"notation has no quantity {unknown[0]!r}; its keys are {', '.join(sorted(LETTERS))}"
        )
    return found


def gram(rows: tuple[str, bool], others: tuple[str, bool], index: str = "") -> str:
    """Overlaps of the rows of two matrices, each a letter and whether it is a single vector."""
    (first, one), (second, two) = rows, others
    first, second = (
        y.replace("^", f"{index}^") if "^" in y else y + index for y in (first, second)
    )
    if one and two:
        return rf"\|{first}\|^2" if first == second else rf"{first} \cdot {second}"
    if one or two:
        return f"{first} {second}" if two else f"{second} {first}"
    base, _, power = second.partition("^")
    return rf"{first} {base}^{{{power}\top}}" if power else rf"{first} {base}^\top"
