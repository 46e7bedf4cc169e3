"""The population risk of a model, enclosed from its definition: no kernel, no table."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from itertools import combinations_with_replacement
from typing import Any

import numpy as np
import sympy as sp

from dmft.checks import is_array, is_expression, shown
from dmft.errors import BadParameter, ShapeMismatch
from dmft.gaussian.certified.certificate import Certificate, _entry, _exact, _exact_values, enclose
from dmft.gaussian.certified.reduce import checked_law
from dmft.model import FIELD, Committee, Model, MultiIndex, check_identity


def certify_risk(
    model: Model,
    Q: Any,
    M: Any,
    P: Any = None,
    readout: Sequence[Any] | None = None,
    values: Mapping[sp.Symbol, Any] | None = None,
    digits: int = 15,
) -> Certificate:
    """Enclose E(f* - f)^2 / 2 at rational overlaps: one expectation for each pair of units."""
    check_identity(model, "risks are certified")
    given = _exact_values(values or {})
    student, cross = _matrix(Q, "Q"), _matrix(M, "M")
    p, k = cross.shape
    teacher = sp.eye(k) if P is None else _matrix(P, "P")
    if student.shape != (p, p) or teacher.shape != (k, k):
        raise ShapeMismatch(
            f"Q {student.shape}, M {cross.shape} and P {teacher.shape} do not fit "
            "(p, p), (p, k), (k, k)"
        )
    omega = sp.Matrix([[student, cross], [cross.T, teacher]])
    cov = [[_entry(omega[i, j], given) for j in range(p + k)] for i in range(p + k)]
    if any(cov[i][j] != cov[j][i] for i in range(p + k) for j in range(i)):
        raise BadParameter("Q and P must be symmetric, exactly")
    law = checked_law([_entry(sp.S.Zero, given)] * (p + k), cov)
    symbols = [sp.Dummy(f"lambda_{i}", real=True) for i in range(p + k)]
    a = readout if readout is not None else model.student.readout
    units = _units(model.student, symbols[:p], a, -1)
    if isinstance(model.teacher, Committee):
        units += _units(model.teacher, symbols[p:], model.teacher.readout, 1)
    else:
        assert isinstance(model.teacher, MultiIndex)
        renamed = dict(zip(model.teacher.fields, symbols[p:], strict=True))
        units.append((sp.S.One, model.teacher.expr.xreplace(renamed)))
    terms = []
    for m, n in combinations_with_replacement(range(len(units)), 2):
        weight = units[m][0] * units[n][0] * (sp.Rational(1, 2) if m == n else 1)
        integrand = units[m][1] * units[n][1]
        exact = [_exact(sp.sympify(e, strict=True).xreplace(given)) for e in (weight, integrand)]
        terms.append((exact[0], exact[1], symbols, law))
    return enclose(terms, digits)


def _matrix(given: Any, name: str) -> sp.Matrix:
    """Overlaps as a matrix; entries are looked at by `_entry`."""
    if is_array(given) and np.ndim(given) == 2:
        with contextlib.suppress(sp.SympifyError, TypeError, ValueError):
            return sp.Matrix(given)
    raise BadParameter(f"{name} must be a matrix of numbers, got {shown(given)}")


def _units(
    network: Committee, symbols: list[sp.Symbol], readout: Sequence[Any] | None, side: int
) -> list[tuple[sp.Expr, sp.Expr]]:
    """Weight and activation of each hidden unit."""
    width = len(symbols)
    if network.width.is_Integer and int(network.width) != width:
        raise ShapeMismatch(f"the overlaps have {width} units, the network has {network.width}")
    if readout is not None and not all(map(is_expression, readout)):
        raise BadParameter(f"readout must be numbers, got {shown(readout)}")
    a = [sp.S.One] * width if readout is None else list(readout)
    if len(a) != width:
        raise ShapeMismatch(f"readout has {len(a)} entries, expected {width}")
    return [
        (side * sp.sympify(v, strict=True) / width, network.activation.xreplace({FIELD: x}))
        for v, x in zip(a, symbols, strict=True)
    ]
