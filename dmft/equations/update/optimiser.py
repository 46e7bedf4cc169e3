r"""What the numbers of an optimiser make of a step, besides the update field.

Rows have a linear motion of their own, w <- w + gamma/(p d) A w in a step, with A by named term;
and a sample may move the weights in more steps than its own. As d grows what it does in all of
them is what one step at the rate `step_size` does, and time is counted in this rate: the same for
rates, maps, fluctuations, wide limits and sequences, which read nothing else of an optimiser.

The overlaps of all rows, of the whole or by block of a spectrum, make the covariance of the fields.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sympy as sp

from dmft.equations import symbols as x
from dmft.equations.definitions import Definition, define
from dmft.model import SGD, GradientFlow
from dmft.model.algorithm import numbers_of
from dmft.model.hyperparameters import ROWS

zeta, beta = x.numbers["weight_decay"], x.numbers["momentum"]
kappa, alpha = x.numbers["momentum_rate"], x.numbers["momentum_direct"]
mean_rate = x.numbers["average_rate"]


def own_motion(algorithm: SGD | GradientFlow) -> dict[str, sp.Expr]:
    """A by named term: rows move by A w per unit of t; every pass over a sample is a step."""
    found, numbers = dict[str, sp.Expr](), numbers_of(algorithm)
    if "weight_decay" in numbers:
        found["weight_decay"] = -zeta * algorithm.rule.passes
        if is_decoupled(algorithm) and "momentum" in numbers:
            # A heavy ball takes what it remembers 1/(1 - beta) times, and time runs as fast.
            found["weight_decay"] *= 1 - beta
    return found


def is_decoupled(algorithm: SGD | GradientFlow) -> bool:
    """Whether a decay shortens the weights beside the step, and is no part of the gradient."""
    return bool(getattr(algorithm, "decoupled", False))


# Name of the weights among the rows.
WEIGHTS = ""


@dataclass(frozen=True)
class Blocks:
    """Gram matrices of the rows, by block of a spectrum or of all inputs at once."""

    by_block: bool

    def __call__(self, name: str, *indices: sp.Expr) -> sp.Indexed:
        """Entry of the Gram matrix of this name."""
        if self.by_block:
            return sp.IndexedBase(f"block_{name}")[(x.block, *indices)]
        return sp.IndexedBase(name)[indices]

    def entry(self, base: sp.IndexedBase, *indices: sp.Expr) -> sp.Indexed:
        """Entry of another array that has blocks where these have, as its last axis.

        Loops over many blocks are the innermost ones then, along memory.
        """
        return base[(*indices, x.block)] if self.by_block else base[indices]

    def overlap(self, row: str, index: sp.Expr) -> sp.Indexed:
        """Entry of G[row, w*]."""
        return self(f"{row}_M" if row else "M", x.j, index)

    def pair(self, one: str, two: str, j: sp.Expr, l: sp.Expr) -> sp.Indexed:  # noqa: E741
        """Entry (j, l) of G[one, two]; stored once for each pair, the weights second."""
        if one == two:
            return self(one or "Q", j, l)
        if one == WEIGHTS or (two != WEIGHTS and one < two):
            return self.pair(two, one, l, j)
        return self(f"{one}_{two or 'Q'}", j, l)

    def drift(self, base: sp.IndexedBase, row: str, *indices: sp.Expr) -> sp.Indexed:
        """Entry of a part of the drift, as a row of the optimiser meets it."""
        return self.entry(sp.IndexedBase(f"{base.label}_{row}") if row else base, *indices)

    @property
    def gram(self) -> sp.IndexedBase:
        """Gram matrix of the weights and of the teacher's rows."""
        return x.Gram if self.by_block else x.Omega

    def with_row(self, row: str) -> sp.IndexedBase:
        """Gram matrix of a row of the optimiser with the weights and the teacher's rows."""
        return sp.IndexedBase(f"Gram_{row}") if row else self.gram


@dataclass(frozen=True)
class Motion:
    """Linear motion of the rows that a neuron keeps: dZ_a = sum_b A_ab Z_b dt + g_a (drive).

    `rows` are names, the weights first, whose name is empty; `linear` is A by named term, `drive`
    is g; `inside` names terms of A that are part of the gradient, which scaled steps divide.
    """

    rows: tuple[str, ...]
    linear: Mapping[str, sp.Matrix]
    drive: tuple[sp.Expr, ...]
    inside: frozenset[str] = frozenset()


def motion_of(algorithm: SGD | GradientFlow) -> Motion:
    """Rows of an algorithm and how they move."""
    numbers = numbers_of(algorithm)
    rows, drive = ["", *(row for row, name in ROWS.items() if name in numbers)], {"": sp.S.One}
    linear: dict[str, dict[tuple[str, str], sp.Expr]] = {}
    if "velocity" in rows:
        drive = {"velocity": kappa}
        if "momentum_direct" in numbers:
            drive[""] = alpha
        linear["velocity"] = {("", "velocity"): sp.S.One, ("velocity", "velocity"): -kappa}
    if "average" in rows:
        linear["average"] = {("average", ""): mean_rate, ("average", "average"): -mean_rate}
    own = own_motion(algorithm)
    # As part of the gradient a decay drives what the gradient drives, velocities too.
    driven = {"": sp.S.One} if is_decoupled(algorithm) else drive
    for name, rate in own.items():
        linear[name] = {(row, ""): rate * g for row, g in driven.items()}
    matrices = {
        name: sp.Matrix([[A.get((a, b), sp.S.Zero) for b in rows] for a in rows])
        for name, A in linear.items()
    }
    drives = tuple(drive.get(row, sp.S.Zero) for row in rows)
    inside = frozenset[str]() if is_decoupled(algorithm) else frozenset(own)
    return Motion(tuple(rows), matrices, drives, inside)


def pace(values: Mapping[str, Any]) -> Any:
    """`step_size` over the learning rate, of numbers or symbols by name; 1 for plain steps."""
    # A heavy ball takes a step again and again, 1 + beta + beta^2 + ... times.
    return 1 / (1 - values["momentum"]) if "momentum" in values else 1


def step_size(algorithm: SGD | GradientFlow) -> sp.Expr:
    """The learning rate of plain steps that do the same as d grows."""
    return x.gamma * pace({name: x.numbers[name] for name in numbers_of(algorithm)})


def clock_in_words(algorithm: SGD | GradientFlow, unit: str) -> str:
    """What one unit of time is."""
    size = step_size(algorithm)
    return unit if size == x.gamma else f"{unit}; with {size} in place of gamma"


def block_definitions(by_block: bool = False) -> list[Definition]:
    """Gram matrix of the fields, Omega or those of blocks; the residual coefficients c.

    Those of blocks add up to the covariance Omega, of clusters to the mean over them.
    """
    blocks = Blocks(by_block)
    j, l, r, s, p = x.j, x.l, x.r, x.s, x.p  # noqa: E741
    whole = sp.Sum(x.eigenvalue[x.block] * x.Gram[x.i, x.m, x.block], (x.block, 1, x.blocks))
    entries = [
        (blocks.entry(blocks.gram, j, l), {"students": blocks("Q", j, l)}),
        (blocks.entry(blocks.gram, j, p + r), {"overlap": blocks("M", j, r)}),
        (blocks.entry(blocks.gram, p + r, j), {"overlap": blocks("M", j, r)}),
        (blocks.entry(blocks.gram, p + r, p + s), {"teachers": blocks("P", r, s)}),
        *([(x.Omega[x.i, x.m], {"blocks": whole})] if by_block else []),
        (x.c[j], {"student": -x.a[j] / p}),
        (x.c[p + r], {"teacher": x.a_star[r] / x.k}),
    ]
    return [define(entry, terms, "block") for entry, terms in entries]
