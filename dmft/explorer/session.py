"""`Session`: a declaration, its controls, and the answers to what the page asks.

A question is a mapping ``{"kind": ..., "values": {...}, "off": [...], "formulas": {...}}``; it is
checked here whole, whoever carried it: names, numbers, terms, lengths. Text is read by the
whitelist parser alone.
"""

from __future__ import annotations

import threading
import traceback
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

from dmft.errors import BadParameter, DmftError
from dmft.explorer import answers
from dmft.explorer.controls import (
    Control,
    network_controls,
    parameter_controls,
    start_controls,
    time_control,
)
from dmft.explorer.systems import System, activations, changed, start_of, start_spec
from dmft.explorer.texts import python_formula, python_text, symbols_of, title_of, toml_text
from dmft.explorer.typed import Typed
from dmft.names import VERSION
from dmft.validation import as_positive

# Systems that are kept derived.
KEPT = 24
ENTRIES = ("kind", "values", "off", "formulas", "x", "y", "measure", "judge")
# Questions that take seconds stand behind each other; those of moves do not wait for them.
SLOW = ("diagram", "simulate")


class Session:
    """A model under an algorithm, explored."""

    def __init__(
        self, model: Any, algorithm: Any, *, start: Any = None, t_max: float = 100.0,
        dim: int | None = None, ranges: Mapping[str, tuple[float, float]] | None = None,
        title: str | None = None, values: Mapping[str, float] | None = None,
        tables: Mapping[str, Any] | None = None, options: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        as_positive(t_max, "t_max")
        system = System(model, algorithm, dim)
        self.is_map = system.equations.kind == "map"
        self.on_sphere = bool(algorithm.on_sphere) if hasattr(algorithm, "on_sphere") else False
        self.spec = start_spec(model, algorithm, start)
        self.title = title or title_of(model, algorithm)
        self.tables, self.options = tables, dict(options or {})
        structure = [c for c in network_controls(model, algorithm) if self._movable(c)]
        self.parameters = parameter_controls(system.equations, values or {}, ranges or {})
        controls = [*self.parameters, *structure, *start_controls(self.spec, self.on_sphere)]
        controls.append(time_control(float(t_max), self.is_map))
        self.controls = {control.name: control for control in controls}
        declared = system.equations.declared
        self.letters = {s.name for value in declared.values() for s in value.free_symbols}
        # The declared width and batch are what the page starts from.
        self.declared = changed(system, self._structure(self.values({})), {})
        self.activations = activations(model)
        self.systems: OrderedDict[Any, System] = OrderedDict()
        self.guard, self.slow = threading.Lock(), threading.Lock()
        self.typed = Typed(self)

    def __getstate__(self) -> dict[str, Any]:
        own = ("systems", "guard", "slow", "typed")
        return {name: value for name, value in self.__dict__.items() if name not in own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.systems = OrderedDict()
        self.guard, self.slow = threading.Lock(), threading.Lock()

    def _movable(self, control: Control) -> bool:
        """Overlaps that were given are of one width; readouts and blocks are, too."""
        return control.name != "width" or self.spec["kind"] == "random"

    # Questions ------------------------------------------------------------------------------

    def reply(self, question: Any, here: bool = False) -> dict[str, Any]:
        """Answer a question; a refusal is under "error".

        Typed formulas are derived in other processes, which are ended after a time, or `here`.
        """
        try:
            return self._answer(question, here)
        except DmftError as error:
            return {"error": str(error)[:2000]}
        except (ArithmeticError, MemoryError) as error:
            return {"error": f"{type(error).__name__}: {error}"[:2000]}
        except Exception as error:  # the page must keep its connection
            traceback.print_exc()
            return {"error": f"dmft has a defect: {type(error).__name__}: {error}"[:2000]}

    def _answer(self, question: Any, here: bool) -> dict[str, Any]:
        kinds = {
            "solve": self._solve,
            "equations": self._equations,
            "simulate": self._simulate,
            "diagram": self._diagram,
            "cancel": None,
        }
        kind = question.get("kind") if isinstance(question, Mapping) else None
        if not isinstance(kind, str) or kind not in kinds:
            raise BadParameter(f"a request is a table with a kind of {', '.join(kinds)}")
        for name in question:
            if name not in ENTRIES:
                raise BadParameter(
                    f"unknown entry {name!r:.60} of a request; known: {', '.join(ENTRIES)}"
                )
        off = question.get("off", [])
        if not isinstance(off, list) or not all(isinstance(name, str) for name in off):
            raise BadParameter("off is a list of names of terms")
        formulas = self._formulas(question.get("formulas", {}))
        answer, key = kinds[kind], tuple(sorted(formulas.items()))
        if answer is None:
            return {"cancelled": self.typed.cancel(key)}
        values = self.values(question.get("values", {}))
        system = self.system(values, formulas)
        if formulas and not here:
            return self.typed.reply(key, question)
        if kind in SLOW:
            with self.slow:
                return answer(question, system, values, sorted(set(off)))
        return answer(question, system, values, sorted(set(off)))

    def _formulas(self, given: Any) -> dict[str, str]:
        """Formulas that are not the declared ones."""
        if not isinstance(given, Mapping) or not set(given) <= set(self.activations):
            raise BadParameter(f"formulas must be among {list(self.activations)}")
        for part, text in given.items():
            if not isinstance(text, str):
                raise BadParameter(f"formula of the {part} must be a string, got {text!r:.60}")
        return {part: text for part, text in given.items() if text != self.activations[part]}

    def values(self, given: Any) -> dict[str, float]:
        """Values of all controls: the given ones, checked, and the declared ones."""
        if not isinstance(given, Mapping):
            raise BadParameter("values are a table of numbers by name")
        found = {name: control.value for name, control in self.controls.items()}
        for name, value in given.items():
            if name not in self.controls:
                raise BadParameter(f"no control is called {name!r:.60}: {list(self.controls)}")
            found[name] = self._checked(self.controls[name], value)
        return found

    def _checked(self, control: Control, value: Any) -> float:
        name, free = control.name, control.group == "parameters" and not control.structure
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e300:
            raise BadParameter(f"{name} is a finite number, got {value!r:.60}")
        if not free and not control.low <= value <= control.high:
            raise BadParameter(
                f"{control.words} lies between {control.low:g} and {control.high:g}, got {value:g}"
            )
        if control.whole and value != int(value):
            raise BadParameter(f"{control.words} is a whole number, got {value!r}")
        return float(value)

    def _structure(self, values: Mapping[str, float]) -> dict[str, float]:
        names = [c.name for c in self.controls.values() if c.structure]
        return {name: values[name] for name in names}

    def system(self, values: Mapping[str, float], formulas: Mapping[str, str]) -> System:
        """The system at these widths and typed activations, derived once."""
        structure = self._structure(values)
        key = (tuple(structure.values()), tuple(sorted(formulas.items())))
        with self.guard:
            found = self.systems.get(key)
            if found is None:
                found = changed(self.declared, structure, formulas)
                self.systems[key] = found
            self.systems.move_to_end(key)
            if len(self.systems) > KEPT:
                self.systems.popitem(last=False)
        return found

    # Answers --------------------------------------------------------------------------------

    def running(self, values: Mapping[str, float]) -> dict[str, float]:
        """Run-time parameters among the values."""
        return {c.name: values[c.name] for c in self.parameters}

    def start(self, system: System, values: Mapping[str, float]) -> Any:
        """Where the student starts."""
        return start_of(self.spec, system.model, values, self.on_sphere)

    def _solve(
        self, question: Any, system: System, values: Mapping[str, float], off: Sequence[str]
    ) -> dict[str, Any]:
        start = self.start(system, values)
        judge = bool(question.get("judge", False))
        return answers.solved(
            system, start, values["t_max"], off, self.running(values), judge, self.options
        )

    def _simulate(
        self, question: Any, system: System, values: Mapping[str, float], off: Sequence[str]
    ) -> dict[str, Any]:
        if off:
            raise BadParameter(
                "runs at finite dimension have all terms: switch these on again: " + ", ".join(off)
            )
        start, dim = self.start(system, values), int(values.get("dim", 1000))
        return answers.simulated(system, start, values["t_max"], dim, self.running(values))

    def _diagram(
        self, question: Any, system: System, values: Mapping[str, float], off: Sequence[str]
    ) -> dict[str, Any]:
        axes: dict[str, list[float]] = {}
        for letter in ("x", "y"):
            axis = question.get(letter)
            if not isinstance(axis, Mapping) or set(axis) != {"name", "values"}:
                raise BadParameter(f"{letter} is an axis: a name and values")
            control = self.controls.get(str(axis["name"]))
            if control is None or not control.axis or not isinstance(axis["values"], list):
                known = [c.name for c in self.controls.values() if c.axis]
                raise BadParameter(f"an axis is one of {known}, got {axis['name']!r:.60}")
            axes[control.name] = [self._checked(control, value) for value in axis["values"]]
        if len(axes) != 2:
            raise BadParameter("a diagram has two different axes")

        def start(moved: Mapping[str, float]) -> Any:
            return self.start(system, {**values, **moved})

        return answers.diagram(
            system, start, values["t_max"], off, self.running(values),
            str(question.get("measure")), axes, self.options,
        )  # fmt: skip

    def _equations(
        self, question: Any, system: System, values: Mapping[str, float], off: Sequence[str]
    ) -> dict[str, Any]:
        key = tuple(off)
        if key not in system.printed:
            system.running(off)  # refuses unknown terms
            shown = system.shown(off)
            system.printed[key] = {"latex": str(shown.latex()), "text": str(shown)}
        return {
            **system.printed[key],
            "terms": system.terms,
            "python": {
                part: python_formula(getattr(system.model, part).activation)
                for part in self.activations
            },
        }

    # Description ----------------------------------------------------------------------------

    def description(self) -> dict[str, Any]:
        """What the page is made of."""
        equations = self.declared.equations
        return {
            "title": self.title,
            "version": VERSION,
            "clock": equations.time_unit,
            "approximation": str(equations.approximation),
            "controls": [c.facts() for c in self.controls.values()],
            "formulas": self.activations,
            "terms": self.declared.terms,
            "measures": answers.MEASURES,
            "symbols": symbols_of(self),
            "start": self.spec["kind"],
            "normalised": bool(self.spec.get("normalised", False)),
            "python": python_text(self),
            "toml": toml_text(self),
            "simulates": hasattr(self.declared.algorithm, "learning_rate"),
        }
