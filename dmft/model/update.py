"""Declaration of a learning rule of one's own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import sympy as sp

from dmft.errors import BadParameter
from dmft.model.algorithm import SGD
from dmft.model.hyperparameters import DECLARED
from dmft.model.network import FIELD
from dmft.model.rule import Named
from dmft.validation import checked, shown

# The student's output in a rule, and the derivative of its activation at h.
OUTPUT, SLOPE = sp.symbols("f slope", real=True)
# Attributes that runs have.
TAKEN = frozenset(
    {"t", "Q", "M", "P", "readout", "teacher_readout", "risk", "loss", "error_rate"}
    | {"blocks", "observables", "with_fields"}
    | {"status", "message", "error", "provenance", "constants", "events", "final", "method"}
    | {"save", "load", "restore", "steps", "samples", "plot", "to_xarray", "to_pandas", "stages"}
    | {"names", "last_state", "judged_later", "KIND", "COORDINATES"}
    | {"layout", "problem", "quadrature_error", "parameters", "start", "statistics", "widths"}
)


@checked
@dataclass(frozen=True, init=False)
class UpdateField(SGD):
    r"""Any one-pass learning rule: w_j <- w_j + gamma/(p n_b) sum_mu psi_j^mu x^mu / sqrt(d).

    psi is an expression in the symbols of `fields`: the local field h of the neuron, the teacher
    fields, and the label y with its noise. A symbol named ``f`` denotes the student's output, and
    ``slope`` denotes sigma'(h): ``slope * (y - f)`` is SGD on the squared loss. The networks of the
    model define f, y, slope and the risk. Time is t = steps * gamma / (p d).

    Averages have closed forms if psi is a sum of products of functions of single fields or of
    their signs; otherwise they are computed by quadrature, with an error estimate.

    Parameters
    ----------
    psi : sympy.Expr
        Factor of x/sqrt(d), the same expression for every neuron.
    fields : sequence of sympy.Symbol
        (h, h_star, y), with all teacher fields between h and y. A rule that can be implemented
        without access to the teacher does not contain the teacher fields.
    definitions : sequence of (sympy.Symbol, sympy.Expr)
        Abbreviations, in order; each may contain the fields and earlier abbreviations.
    learning_rate, batch_size, constraint, decoupled
        As for `SGD`.
    measures : mapping of str to sympy.Expr
        Expressions in the same symbols by name. The run returns their averages over a fresh sample
        and over neurons as attributes, for example ``run.wrong``.
    **numbers
        Further hyperparameters, like those of `SGD`: `dmft.model.hyperparameters`.

    Raises
    ------
    BadParameter
        If fields are not distinct symbols, or if the rule contains other symbols.

    Examples
    --------
    >>> import sympy as sp, dmft
    >>> h, h_star, y, z = sp.symbols("h h_star y z", real=True)
    >>> hebb = dmft.UpdateField(y, fields=(h, h_star, y), learning_rate=1)
    >>> model = dmft.Model(dmft.Committee(z, 1), dmft.Committee(sp.sign(z), 1))
    >>> rates = dmft.derive(model, hebb).evaluate(dmft.Overlaps([[1.0]], [[0.0]]))
    >>> round(float(rates["M"][0, 0]), 12)  # E[sign(h*) h*]
    0.797884560803
    """

    written_by: ClassVar[Named] = "dmft.equations.update.passes:rule"

    psi: sp.Expr = sp.S.Zero
    fields: tuple[sp.Symbol, ...] = ()
    definitions: tuple[tuple[sp.Symbol, sp.Expr], ...] = ()
    measures: tuple[tuple[str, sp.Expr], ...] = ()

    def __init__(
        self,
        psi: sp.Expr | float,
        *,
        fields: Sequence[sp.Symbol],
        learning_rate: float | sp.Expr,
        definitions: Sequence[tuple[sp.Symbol, sp.Expr]] = (),
        batch_size: int | sp.Expr = 1,
        constraint: Literal["sphere"] | None = None,
        measures: Mapping[str, sp.Expr] | None = None,
        decoupled: bool = False,
        **numbers: float | sp.Expr,
    ) -> None:
        unknown = sorted(set(numbers) - set(DECLARED))
        if unknown:
            raise BadParameter(
                f"UpdateField has no {unknown[0]}; in addition to fields and rates it accepts "
                f"{', '.join(DECLARED)}"
            )
        found = _symbols(fields)
        known, whole = set(found), dict[sp.Expr, sp.Expr]()
        for symbol, value in _pairs(definitions):
            whole[symbol] = _in_symbols(value, known, symbol.name).xreplace(whole)
            known.add(symbol)
        rule = _in_symbols(psi, known, "psi").xreplace(whole)
        measured = {
            _free_name(name): _in_symbols(value, known, f"measure {name}").xreplace(whole)
            for name, value in (measures or {}).items()
        }
        for name, value in (
            ("psi", rule), ("fields", found), ("definitions", tuple(_pairs(definitions))),
            ("learning_rate", learning_rate), ("batch_size", batch_size), ("loss", "squared"),
            ("constraint", constraint), ("repeat", None), ("readout_rate", sp.S.Zero),
            ("measures", tuple(measured.items())), ("clip", None), ("normalised", False),
            ("decoupled", decoupled),
            *({**dict.fromkeys(DECLARED, sp.S.Zero), **numbers}).items(),
        ):  # fmt: skip
            object.__setattr__(self, name, value)
        self.__post_init__()
        object.__setattr__(self, "loss", None)

    def written(self, expr: sp.Expr, slope: sp.Expr) -> sp.Expr:
        """The rule or a measure, with `slope` inserted for the derivative of the activation.

        Parameters
        ----------
        expr : sympy.Expr
            The rule, or one of its measures.
        slope : sympy.Expr
            Derivative of the student's activation, in `FIELD`.

        Returns
        -------
        sympy.Expr
            In the fields of the rule.

        Examples
        --------
        >>> import sympy as sp, dmft
        >>> from dmft.model import FIELD
        >>> from dmft.model.update import SLOPE
        >>> h, h_star, y = sp.symbols("h h_star y", real=True)
        >>> rule = dmft.UpdateField(y * SLOPE, fields=(h, h_star, y), learning_rate=1)
        >>> rule.written(rule.psi, 2 * FIELD)
        2*h*y
        """
        return expr.xreplace({SLOPE: slope.xreplace({FIELD: self.fields[0]})})


def _free_name(name: str) -> str:
    if not (isinstance(name, str) and name.isidentifier()) or name in TAKEN:
        raise BadParameter(
            f"a measure is called {name!r}; its name must be a valid name of an attribute, other "
            f"than {', '.join(sorted(TAKEN))}"
        )
    return name


def _symbols(fields: Iterable[sp.Symbol]) -> tuple[sp.Symbol, ...]:
    found = tuple(fields)
    plain = all(isinstance(field, sp.Symbol) for field in found)
    if len(found) < 3 or not plain or len(set(found)) < len(found):
        raise BadParameter(f"fields must be (h, h_star, ..., y), distinct symbols, got {found}")
    return found


def _pairs(definitions: Iterable[object]) -> list[tuple[sp.Symbol, object]]:
    found = []
    for item in definitions:
        pair = tuple(item) if isinstance(item, tuple | list | sp.Tuple) else ()
        if len(pair) != 2 or not isinstance(pair[0], sp.Symbol):
            raise BadParameter(f"definitions must be pairs (symbol, expression), got {shown(item)}")
        found.append(pair)
    return found


def _in_symbols(value: object, known: set[sp.Symbol], what: str) -> sp.Expr:
    try:
        found = sp.sympify(value, strict=True)
    except (sp.SympifyError, TypeError, ValueError, AttributeError) as error:
        raise BadParameter(f"{what} must be an expression, got {shown(value)}") from error
    if not isinstance(found, sp.Expr) or found.has(sp.I, sp.oo, -sp.oo, sp.zoo, sp.nan):
        raise BadParameter(f"{what} must be a real, finite expression, got {shown(value)}")
    own = {s.name: s for s in (OUTPUT, SLOPE)}
    rule = found.xreplace({s: own[s.name] for s in found.free_symbols - known if s.name in own})
    unknown = sorted(map(str, rule.free_symbols - known - set(own.values())))
    if unknown:
        raise BadParameter(
            f"{what} = {rule} contains {', '.join(unknown)}; it must be an expression in "
            f"{', '.join(sorted(map(str, known)))}, f and slope"
        )
    return rule
