"""Equations of one setting of the page: derived once, with all terms, and with switches on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import sympy as sp

from dmft.emit.formula import parse_expression
from dmft.equations.derive import derive
from dmft.errors import BadParameter, DmftError, NotClosed
from dmft.model import FIELD, Committee, GradientDescent

# A term is multiplied by a parameter of this name and its own.
SWITCH = "keep_"
# What a constraint does follows from the terms that stay.
CONSTRAINTS = ("sphere", "free")
# Characters of a formula that is typed into the page.
LONGEST_FORMULA = 300


@dataclass(frozen=True)
class System:
    """A model, its algorithm and their equations."""

    model: Any
    algorithm: Any
    dim: int | None

    @cached_property
    def equations(self) -> Any:
        """Equations with all their terms."""
        return derived(self.model, self.algorithm, self.dim)

    @cached_property
    def terms(self) -> dict[str, list[str]]:
        """Blocks of each term that can be switched off."""
        found: dict[str, list[str]] = {}
        for block, terms in self.equations.terms.items():
            for name in terms:
                if name not in CONSTRAINTS and block != "risk":
                    found.setdefault(name, []).append(block)
        return found

    @cached_property
    def printed(self) -> dict[tuple[str, ...], dict[str, str]]:
        """LaTeX and text by what is switched off, kept since they take longer than a run."""
        return {}

    @cached_property
    def switched(self) -> Any:
        """Equations in which each term is multiplied by a parameter: one build for all choices."""
        equations = self.equations
        for name, blocks in self.terms.items():
            keep = sp.Symbol(SWITCH + name, real=True)
            for block in blocks:
                equations = equations.replace(block, name, keep * equations.terms[block][name])
        return equations

    def running(self, off: Sequence[str]) -> tuple[Any, dict[str, float]]:
        """Equations to solve, and the values of their switches.

        Raises
        ------
        BadParameter
            For a term that the equations do not have.
        """
        unknown = [name for name in off if name not in self.terms]
        if unknown:
            raise BadParameter(
                f"no term is called {unknown[0]!r:.60}: there are {list(self.terms)}"
            )
        if not off:
            return self.equations, {}
        return self.switched, {SWITCH + name: float(name not in off) for name in self.terms}

    def shown(self, off: Sequence[str]) -> Any:
        """The equations as they are printed: what is switched off is left out."""
        return self.equations.without(*off) if off else self.equations


def derived(model: Any, algorithm: Any, dim: int | None) -> Any:
    """Equations that the page can show.

    Raises
    ------
    BadParameter
        For gradient descent on repeated data, whose equations take seconds to solve.
    """
    if isinstance(algorithm, GradientDescent):
        raise BadParameter(
            "the explorer moves equations of one time (SGD, GradientFlow and other one-pass "
            "rules); those of gradient descent on repeated data are recursions over the whole "
            "history and take seconds: dmft.solve and dmft.plot show them"
        )
    equations = derive(model, algorithm, dim=dim)
    if equations.open_kernels:
        raise NotClosed(f"the equations are not closed: {equations.open_kernels[0]}")
    return equations


def changed(system: System, values: Mapping[str, float], formulas: Mapping[str, str]) -> System:
    """The system at another width, another batch, other activations.

    Raises
    ------
    ExpressionRefused
        For a formula that is not on the whitelist.
    """
    model, algorithm = system.model, system.algorithm
    for part in ("student", "teacher"):
        if part in formulas:
            activation = activation_of(part, formulas[part])
            made = replace(getattr(model, part), activation=activation)
            model = replace(model, **{part: made})
    if "width" in values:
        student = replace(model.student, width=sp.Integer(int(values["width"])))
        model = replace(model, student=student)
    if "batch_size" in values:
        algorithm = replace(algorithm, batch_size=int(values["batch_size"]))
    return System(model, algorithm, system.dim)


def activation_of(part: str, text: str) -> sp.Expr:
    """An activation that was typed into the page, read by the whitelist.

    Raises
    ------
    ExpressionRefused, BadParameter
    """
    if not isinstance(text, str) or len(text) > LONGEST_FORMULA:
        raise BadParameter(f"a formula is a text of at most {LONGEST_FORMULA} characters")
    expression = parse_expression(text, {"z": FIELD})
    if FIELD not in expression.free_symbols:
        raise BadParameter(f"activation of the {part}: {text!r:.80} does not depend on the field z")
    return expression


def activations(model: Any) -> dict[str, str]:
    """Activations that can be typed anew, as the whitelist reads them."""
    found = {}
    for part in ("student", "teacher"):
        network = getattr(model, part, None)
        if isinstance(network, Committee):
            text = formula_text(network.activation)
            if text is not None:
                found[part] = text
    return found


def formula_text(expression: sp.Expr) -> str | None:
    """An activation as text that the whitelist reads back as the same expression, or None.

    Examples
    --------
    >>> import sympy as sp
    >>> formula_text(sp.Max(0, sp.Symbol("z", real=True)))
    'relu(z)'
    """
    text = str(expression.replace(sp.Max, _relu))
    try:
        same = parse_expression(text, {"z": FIELD}) == expression.xreplace(
            {symbol: FIELD for symbol in expression.free_symbols if symbol.name == "z"}
        )
    except DmftError:
        return None
    return text if same else None


def _relu(*arguments: sp.Expr) -> sp.Expr:
    """max(0, x) by the name that files have for it."""
    if len(arguments) == 2 and arguments[0] == 0:
        return sp.Function("relu")(arguments[1])
    return sp.Max(*arguments)
