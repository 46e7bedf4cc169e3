r"""Linearised equations of motion, derived from the same symbols.

A state (Q, M) + epsilon (Q', M') moves every definition by epsilon times its derivative; that
derivative is again a sum over neurons of functions of overlaps, for any width.
"""

from __future__ import annotations

from collections.abc import Container, Sequence

import numpy as np
import sympy as sp
from numpy.typing import NDArray

from dmft.equations.averages.passes import on_nodes, with_values
from dmft.equations.definitions import Definition, base_name, used_bases
from dmft.equations.equations import Equations
from dmft.equations.noise.projection import projected
from dmft.equations.reference import evaluate
from dmft.errors import NotClosed
from dmft.gaussian.closed.pair import CorrelationRoot, InverseCorrelationRoot
from dmft.model import Overlaps

EPSILON = sp.Dummy("epsilon", real=True)


def moved(name: str) -> sp.IndexedBase:
    """Base of the displacement of an array."""
    return sp.IndexedBase(f"{name}_moved")


def tangent(definitions: Sequence[Definition]) -> tuple[Definition, ...]:
    r"""Definitions of the rates of a displacement (Q', M') around a state (Q, M).

    Equation    dX'/dt = sum_Y (dF_X/dY) Y' over the entries Y of Q and M
    Shapes      as those of the definitions; displaced arrays are called ``Q_moved``, ...

    Raises
    ------
    NotClosed
        For averages on nodes, and closed forms whose derivative is not known.
    """
    definitions = projected(definitions)
    result: list[Definition] = []
    # What nothing defines and no rate moves is a constant: teachers, eigenvalues, readouts.
    resting = {name for d in definitions for name in used_bases(d.expr)}
    resting -= {d.name for d in definitions}
    moving: set[str] = {"Omega"}
    for d in definitions:
        if d.role == "observable":
            continue
        if d.role == "sample":
            raise NotClosed(
                "averages over all fields of a sample at once (repeated samples, several outputs, "
                "losses without closed averages) are not linearised; solve the equations from near "
                "the point instead"
            )
        if on_nodes(d.expr):
            raise NotClosed(
                f"{d.target} holds an average without closed form; the equations cannot be "
                "linearised in closed form. Drop the term with equations.without(...)"
            )
        terms = tuple((name, _moved_expression(e, resting)) for name, e in d.terms)
        terms = tuple((name, e) for name, e in terms if e != 0)
        if d.role == "block" and terms:
            moving.add(d.name)
        elif d.role == "block" and d.name not in moving:
            resting.add(d.name)
        if d.role != "rate":
            result.append(d)
        if d.name not in resting:
            zero = (("rest", sp.S.Zero),)
            result.append(_displaced(d, terms or zero))
    return tuple(result)


def _displaced(d: Definition, terms: tuple[tuple[str, sp.Expr], ...]) -> Definition:
    """Definition of the displacement of an array; rates keep their names."""
    if d.role == "rate":
        return Definition(d.target, terms, "rate")
    return Definition(moved(d.name)[d.target.indices], terms, d.role)


def _moved_expression(expr: sp.Expr, resting: Container[str]) -> sp.Expr:
    """Derivative along the displacement of all arrays that move."""
    closed = with_values(expr)
    entries = {e for e in closed.atoms(sp.Indexed) if base_name(e) not in resting}
    shifted = closed.xreplace({e: e + EPSILON * moved(base_name(e))[e.indices] for e in entries})
    derivative = sp.diff(shifted, EPSILON)
    if derivative.has(sp.Derivative, sp.Subs):
        raise NotClosed(
            f"the derivative of {expr} is not known in closed form; drop the term with "
            "equations.without(...), or solve the equations from near the point"
        )
    at_rest = derivative.xreplace({EPSILON: sp.S.Zero})
    # Coinciding fields stay parallel when they move: what their vanishing root divides is zero.
    roots = {r**-1: InverseCorrelationRoot(*r.args) for r in at_rest.atoms(CorrelationRoot)}
    return at_rest.xreplace(roots)


def jacobian(
    equations: Equations, point: Overlaps, directions: NDArray[np.float64], **parameters: float
) -> NDArray[np.float64]:
    """Rates of change of displacements of the state, by the NumPy reference.

    Parameters
    ----------
    directions : (n, p p + p k) array
        Displacements of (Q, M), each in C order; those of Q symmetric. A trained readout stands
        behind: (n, p p + p k + p).

    Returns
    -------
    array of the shape of `directions`
        Row a is the Jacobian applied to direction a.
    """
    values = equations.values(point, dict(parameters))
    definitions = tangent(equations.definitions)
    blocks = {"Q": point.Q, "M": point.M}
    if equations.algorithm.trains_readout:
        blocks["readout"] = values.arrays["readout"]
    places = np.cumsum([block.size for block in blocks.values()])[:-1]
    rows = []
    for direction in directions:
        parts = np.split(np.asarray(direction), places)
        moves = {
            f"{name}_moved": part.reshape(block.shape)
            for (name, block), part in zip(blocks.items(), parts, strict=True)
        }
        rates = evaluate(definitions, {**blocks, **moves}, values, "rate")
        rows.append(np.concatenate([rates[name].ravel() for name in blocks]))
    return np.array(rows)
