"""Every public object says what it takes and returns; what users call has an example.

Public are the names of `dmft.__all__`, the methods and properties of the classes among them, and
those of the records that they return. Methods that the library alone calls are not on the site
(`NOT_SHOWN` of `docs/collected.py`) and need one line. `tests/test_examples.py` runs the examples.
"""

import ast
import importlib
import inspect
import re
import typing
from pathlib import Path

import pytest

import dmft

# Records that verbs, methods and attributes of public classes return, by their modules.
RETURNED = {
    "dmft.analysis.boundary": ["BoundaryCurve", "Jump"],
    "dmft.analysis.diagram": ["RegionDiagram"],
    "dmft.analysis.landscape": ["Landscape", "Minimum"],
    "dmft.analysis.sweeps.sweep": ["Points"],
    "dmft.equations.changeable": ["Difference"],
    "dmft.equations.user_terms": ["Indices"],
    "dmft.equations.definitions": ["Definition"],
    "dmft.equations.restrict.regimes": ["Region"],
    "dmft.equations.risk": ["PopulationRisk"],
    "dmft.equations.sequence.risk": ["SequenceRisk"],
    "dmft.equations.two_time.descent": ["DescentEquations"],
    "dmft.equations.two_time.short_times": ["ShortTimes"],
    "dmft.equations.views.explicit": ["ExplicitEquations"],
    "dmft.equations.views.explicit_risk": ["ExplicitRisk"],
    "dmft.gaussian.exponents.coefficients": ["Coefficient"],
    "dmft.gaussian.exponents.learnability": ["LearnabilityRow", "Verdict"],
    "dmft.gaussian.exponents.leaps": ["LeapStep"],
    "dmft.gaussian.exponents.record": ["Witness"],
    "dmft.gaussian.exponents.sequence": ["SequenceExponent"],
    "dmft.gaussian.nodes.series": ["GaussianSeries"],
    "dmft.solvers.solution": ["Values"],
    "dmft.solvers.stochastic.ensemble": ["PassageTimes"],
    "dmft.solvers.trajectory": ["EventRecord"],
    "dmft.workflow.around_fixed_points": ["FixedPointBranch", "LinearNoise"],
    "dmft.workflow.fixed_points": ["Stability"],
    "dmft.workflow.learned_directions": ["LearnedDirection", "LearnedDirections"],
}
SITE = Path(__file__).parents[2] / "docs" / "collected.py"
(NOT_SHOWN,) = (
    ast.literal_eval(line.value)
    for line in ast.parse(SITE.read_text(encoding="utf-8")).body
    if isinstance(line, ast.Assign) and ast.unparse(line.targets[0]) == "NOT_SHOWN"
)
HEADING = re.compile(r"^([A-Z][a-z]+)\n-{3,}$", re.M)


def members(cls):
    """Public methods and properties of a class that this library wrote: name, function, kind."""
    for name in dir(cls):
        if name.startswith("_"):
            continue
        raw = inspect.getattr_static(cls, name)
        if isinstance(raw, property):
            found, kind = raw.fget, "property"
        elif isinstance(raw, classmethod | staticmethod):
            found, kind = raw.__func__, "method"
        elif inspect.isfunction(raw):
            found, kind = raw, "method"
        elif callable(getattr(raw, "func", None)):  # functools.cached_property
            found, kind = raw.func, "property"
        else:
            continue
        if (getattr(found, "__module__", None) or "").startswith("dmft."):
            yield name, found, kind


def public():
    """(name, object, kind, class) of everything that is public, each function once."""
    named = [getattr(dmft, name) for name in dmft.__all__ if name != "__version__"]
    classes = [x for x in named if inspect.isclass(x) and not issubclass(x, Warning)]
    for module, names in RETURNED.items():
        classes += [getattr(importlib.import_module(module), name) for name in names]
    found = {x.__name__: (x, "function", None) for x in named if inspect.isfunction(x)}
    found |= {x.__name__: (x, "class", x) for x in classes}
    for cls in classes:
        for name, function, kind in members(cls):
            found.setdefault(function.__qualname__, (function, kind, cls))
            assert name == function.__name__ or name in vars(cls), (cls, name)
    return [(name, *rest) for name, rest in sorted(found.items())]


PUBLIC = public()
IDS = [name for name, *_ in PUBLIC]


def pages(function, cls):
    """The docstring of a function, and those of the methods that it overrides."""
    own = [inspect.cleandoc(function.__doc__ or "")]
    for base in cls.__mro__ if cls else ():
        for _, other, _ in [m for m in members(base) if m[0] == function.__name__]:
            own.append(inspect.cleandoc(other.__doc__ or ""))
        inherited = base.__dict__.get(function.__name__)
        inherited = getattr(inherited, "__func__", inherited)
        own.append(inspect.cleandoc(getattr(inherited, "__doc__", None) or ""))
    return own


def sections(page):
    parts = HEADING.split(page)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def described(page):
    """Names that Parameters and Attributes describe, with the numpydoc form of several in one."""
    names = set()
    for title in ("Parameters", "Attributes"):
        for line in sections(page).get(title, "").splitlines():
            if line and not line.startswith(" "):
                names |= {part.strip().lstrip("*") for part in line.split(" : ")[0].split(",")}
    return names


def taken(thing, kind):
    """Names that a call takes."""
    if kind == "class" and "__init__" not in vars(thing) and hasattr(thing, "__dataclass_fields__"):
        return [f.name for f in vars(thing)["__dataclass_fields__"].values() if f.init]
    try:
        parameters = inspect.signature(thing).parameters
    except ValueError:  # of C code
        return []
    # What is called `unknown` is refused with the names that there are.
    return [name for name in parameters if name not in ("self", "cls", "unknown")]


def gives(thing):
    """Whether a function returns something."""
    hint = thing.__annotations__.get("return")
    return hint not in (None, "None", type(None), typing.NoReturn, "NoReturn")


@pytest.mark.parametrize(("name", "thing", "kind", "cls"), PUBLIC, ids=IDS)
def test_a_public_object_is_documented(name, thing, kind, cls):
    found = pages(thing, cls) if kind != "class" else [inspect.cleandoc(thing.__doc__ or "")]
    assert len(found[0].splitlines()[0]) > 2, "a first line"
    if kind == "method" and name.rpartition(".")[2] in NOT_SHOWN:
        return
    if kind != "property":
        assert any(">>>" in page for page in found), "an example"
    if kind in ("function", "method") and gives(thing):
        assert any({"Returns", "Yields"} & set(sections(page)) for page in found), "Returns"
    if kind != "property" and not issubclass(cls or object, (str, tuple)):
        lost = set(taken(thing, kind)) - set().union(*map(described, found))
        assert not lost, f"Parameters lack {sorted(lost)}"


def test_how_many_there_are():
    """A reader that found nothing would pass: the counts of this version, which only grow."""
    kinds = [kind for _, _, kind, _ in PUBLIC]
    counts = {kind: kinds.count(kind) for kind in ("function", "class", "method", "property")}
    assert counts["function"] >= 40
    assert counts["class"] >= 80
    assert counts["method"] >= 150
    assert counts["property"] >= 150


def test_what_is_missing_is_seen():
    class Poor:
        """Only a line."""

        def turn(self, angle: float) -> float:
            """Turn."""
            return angle

    Poor.turn.__module__ = "dmft.made_up"
    assert [(m[0], m[2]) for m in members(Poor)] == [("turn", "method")]
    assert taken(Poor.turn, "method") == ["angle"]
    assert gives(Poor.turn)
    assert described("Parameters\n----------\na, *b : int\n    Words.\nc : str") == {"a", "b", "c"}
    assert set(sections("Line.\n\nReturns\n-------\nint")) == {"Returns"}
