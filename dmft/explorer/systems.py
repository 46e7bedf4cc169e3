"""Equations of one setting of the page with switches for their terms, and its start."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import sympy as sp
from numpy.typing import NDArray

from dmft.emit.formula import parse_expression
from dmft.equations.derive import derive
from dmft.errors import BadParameter, DmftError, NotClosed
from dmft.model import FIELD, Alignment, Committee, GradientDescent, Overlaps, random_overlaps

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
        """Equations to solve, and the values of their switches."""
        unknown = [name for name in off if name not in self.terms]
        if unknown:
            raise BadParameter(
                f"no term is called {unknown[0]!r:.60}; available: {list(self.terms)}"
            )
        switches = {SWITCH + name: float(name not in off) for name in self.terms}
        # Terms that vanish for this model have none.
        known = self.switched.parameters
        return self.switched, {name: y for name, y in switches.items() if name in known}

    def shown(self, off: Sequence[str]) -> Any:
        """The equations as they are printed: what is switched off is left out."""
        return self.equations.without(*off) if off else self.equations


def derived(model: Any, algorithm: Any, dim: int | None) -> Any:
    """Equations that the page can show."""
    if isinstance(algorithm, GradientDescent):
        raise BadParameter(
            "the explorer supports one-pass rules (SGD, GradientFlow and others); gradient "
            "descent on repeated data takes seconds, because its equations are recursions "
            "over the whole history: use dmft.solve and dmft.plot"
        )
    equations = derive(model, algorithm, dim=dim)
    if equations.open_kernels:
        raise NotClosed(f"the equations are not closed: {equations.open_kernels[0]}")
    return equations


def changed(system: System, values: Mapping[str, float], formulas: Mapping[str, str]) -> System:
    """The system at another width, another batch, other activations."""
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
    """An activation that was typed into the page, read by the whitelist."""
    if not isinstance(text, str) or len(text) > LONGEST_FORMULA:
        raise BadParameter(f"a formula is a string of at most {LONGEST_FORMULA} characters")
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
    """An activation as text that the whitelist reads back as the same expression, or None."""
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


# Of a random start that nobody declared.
DIM, SEED = 1000, 0


def start_spec(model: Any, algorithm: Any, given: Any) -> dict[str, Any]:
    """What a start is made of: drawn at random by default, else what was given."""
    if hasattr(model, "encoding"):
        return _alignment(model, given)
    blocks = getattr(model, "spectrum", None) is not None
    if isinstance(given, Overlaps):
        blocks = given.M.ndim == 3
        return {"kind": "overlaps", "start": given, "blocks": blocks}
    if given is None or isinstance(given, Mapping):
        keys = {"dim": DIM, "seed": SEED, "normalised": algorithm.on_sphere, **(given or {})}
        return {"kind": "random", "blocks": blocks, **keys}
    raise BadParameter(
        f"start must be dmft.Overlaps, or dim and seed of a random one, got {given!r:.80}"
    )


def _alignment(model: Any, given: Any) -> dict[str, Any]:
    if given is None:
        raise BadParameter("a sequence model starts from dmft.Alignment(e, m): pass start=")
    if not isinstance(given, Alignment):
        raise BadParameter(f"start of a sequence model is a dmft.Alignment, got {given!r:.80}")
    parts = {name: np.atleast_1d(getattr(given, name)).tolist() for name in ("e", "m")}
    return {"kind": "alignment", "radius": given.radius, "blocks": False, **parts}


def start_of(
    spec: Mapping[str, Any], model: Any, values: Mapping[str, float], on_sphere: bool
) -> Overlaps | Alignment:
    """The start at the values of the sliders."""
    if spec["kind"] == "alignment":
        e, m = (_read(spec, name, values) for name in ("e", "m"))
        return Alignment(e, m, spec["radius"])
    if spec["kind"] == "random":
        dim, seed = int(values["dim"]), int(values["seed"])
        start = random_overlaps(model, dim, seed, normalised=bool(spec["normalised"]))
    else:
        start = spec["start"]
    size, overlap = values.get("size", 1.0), values.get("overlap", 0.0)
    if on_sphere:
        size = 1.0
    return start if size == 1.0 and overlap == 0.0 else tilted(start, overlap, size)


def _read(spec: Mapping[str, Any], name: str, values: Mapping[str, float]) -> Any:
    if len(spec[name]) == 1:
        return values[name]
    return [values[f"{name}_{n + 1}"] for n in range(len(spec[name]))]


def tilted(start: Overlaps, overlap: float, size: float) -> Overlaps:
    """Rows of the student turned towards the teacher's, each by the same share, then rescaled.

    Equation    w_j -> size |w_j| u_j / |u_j|, u_j = sqrt(1 - c^2) w_j / |w_j| + c w*_r / |w*_r|,
                r = j mod k
    Shapes      start Q (p, p), M (p, k), P (k, k)
    """
    p, k = start.M.shape
    length = np.sqrt(np.diag(start.Q))
    towards = np.zeros((p, k))
    for j in range(p):
        towards[j, j % k] = overlap / np.sqrt(start.P[j % k, j % k])
    own = np.diag(np.sqrt(1.0 - overlap**2) / length)
    Q, M = _combined(own, towards, start)
    scale = size * length / np.sqrt(np.diag(Q))
    Q, M = Q * np.outer(scale, scale), M * scale[:, None]
    np.fill_diagonal(Q, (size * length) ** 2)
    return Overlaps(Q, M, start.P, start.readout)


def _combined(
    own: NDArray[np.float64], towards: NDArray[np.float64], start: Overlaps
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Overlaps of the rows own W + towards W*."""
    across = own @ start.M @ towards.T
    Q = own @ start.Q @ own.T + across + across.T + towards @ start.P @ towards.T
    return Q, own @ start.M + towards @ start.P
