"""Wrong calls of every public function and declaration: refused in words, never a raw error.

Each argument of a good call is replaced by values of wrong types, shapes and sizes. A call may
give a result; an error must be one of ours, or a TypeError or ValueError that our own code raised.
"""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import io
import signal
import traceback
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import sympy as sp

import dmft
from dmft.errors import DmftError

SEED = 14
# Of its processors, so that a busy machine accuses nobody; of the clock where nothing happens.
SECONDS, WAITED = 10, 60
# Steps that somebody asked for, one after the other, until somebody interrupts them.
PATIENT = {(f, y) for f in ("simulate", "simulate (network)") for y in ("dim", "t_max")}
PATIENT |= {("approximate_message_passing", "steps")}
HERE = str(Path(dmft.__file__).parent)
_spec = importlib.util.spec_from_file_location("calls", Path(__file__).with_name("calls.py"))
calls = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(calls)


# What holds results is made by the library; its fields are taken as they are.
RECORDS = {
    "BatchExponents", "Boundary", "Censored", "Certificate", "DescentEnsemble", "DescentRun",
    "Ensemble", "Equations", "EscapeFormula", "EscapeTime", "EscapeTimes", "Explanation",
    "Exponent", "UpdateRule",
    "FixedPoint", "HermiteSeries", "Learnability", "PathEnsemble", "PhaseDiagram", "Phases",
    "Problem", "Quadrature", "Regimes", "ScalingLaw", "Sweep", "Trajectory",
    "TwoTimeRun", "WeakRecovery",
    "BayesOptimal", "ERM", "LyapunovExponent", "MessagePassing", "NetworkEnsemble",
    "NetworkFixedPoint", "NetworkRun", "OptimalRidge", "OutputChannel", "SampleComplexity",
    "Separability", "Spectral", "StateEvolution", "Stationary", "Thresholds",
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One wrong call; the function's name may go on with a system, as in "solve (network)"."""

    function: str
    argument: str
    value: str

    def __str__(self) -> str:
        return f"{self.function}({self.argument} = {self.value})"


def _late(*_):
    raise TimeoutError


def judge(case: Case) -> str:
    """What a wrong call did: "result", "refused", or what is wrong with it."""
    given = dict(
        {**calls.good_calls(), **calls.network_calls(), **calls.rule_calls()}[case.function]
    )
    given[case.argument] = calls.WRONG[case.value]
    if case.value == "other record":
        given[case.argument] = calls.parts()["sgd"]
    function = getattr(dmft, case.function.split()[0])
    positional = [given.pop("records")] if "records" in given else []
    before = {kind: signal.signal(kind, _late) for kind in (signal.SIGALRM, signal.SIGPROF)}
    signal.alarm(WAITED)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", RuntimeWarning)
            function(*positional, **given)
        return "result"
    except TimeoutError:
        return "result" if (case.function, case.argument) in PATIENT else "longer than 10 s"
    except DmftError as error:
        return "refused" if str(error).strip() else "a refusal without words"
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        ours = frames[-1].filename.startswith(HERE) and isinstance(error, TypeError | ValueError)
        if ours and case.argument.split("_")[0].lower() in str(error).lower():
            return "refused"
        # What the user's own function or object raises is the user's.
        if case.value in ("failing function", "broken") and frames[-1].filename == calls.__file__:
            return "refused"
        place = next((f for f in reversed(frames) if f.filename.startswith(HERE)), frames[-1])
        name = Path(place.filename).relative_to(HERE) if HERE in place.filename else "?"
        return f"{type(error).__name__} {name}:{place.lineno} {place.name}: {error!s:.90}"
    finally:
        signal.alarm(0)
        signal.setitimer(signal.ITIMER_PROF, 0)
        for kind, handler in before.items():
            signal.signal(kind, handler)


def drawn(rng: np.random.Generator, count: int, given: dict | None = None) -> list[Case]:
    """Cases of all functions and arguments alike: one draw of a value for each in turn."""
    names, given = list(calls.WRONG), given or calls.good_calls()
    # An enumeration of the standard library looks its values up by itself.
    rows = [(f, argument) for f in given if f != "Status" for argument in given[f]]
    found: dict[Case, None] = {}
    while len(found) < count:
        for row in rng.permutation(len(rows)):
            found[Case(*rows[row], names[int(rng.integers(len(names)))])] = None
    return list(found)[:count]


def survivors(chosen: list[Case]) -> list[str]:
    """What is wrong with which calls."""
    found = [(case, judge(case)) for case in chosen]
    return [f"{case}: {text}" for case, text in found if text not in ("result", "refused")]


def test_every_public_function_is_called_with_every_argument():
    called = {**calls.good_calls(), **calls.network_calls(), **calls.rule_calls()}
    public = {n for n in dmft.__all__ if callable(getattr(dmft, n)) and not n.endswith("Warning")}
    # What `latex` and `cite` take has no name; `explore` makes a page with attacks of its own.
    named = {name for name in called if " " not in name}
    assert public - RECORDS - {"latex", "cite", "explore"} == named
    for name in named - {"Status", "Model"}:
        parameters = inspect.signature(getattr(dmft, name)).parameters.values()
        known = {p.name for p in parameters if p.kind is not p.VAR_KEYWORD}
        assert known <= set(called[name]), name


@pytest.mark.parametrize("name", ["SGD", "solve", "sweep", "simulate", "landscape_boundary"])
def test_good_calls_are_good(name):
    getattr(dmft, name)(**calls.good_calls()[name])


DECLARATIONS = sorted(n for n in set(dmft.__all__) - RECORDS if n[0].isupper() and n != "Status")


def test_wrong_declarations(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(SEED)
    chosen = [case for case in drawn(rng, 2000) if case.function in DECLARATIONS]
    assert len(chosen) > 500
    assert survivors(chosen) == []


def test_wrong_calls(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    chosen = [c for c in drawn(np.random.default_rng(SEED), 900) if c.function[0].islower()]
    assert survivors(chosen[:120]) == []


def test_wrong_calls_of_random_networks():
    for name, call in calls.network_calls().items():
        getattr(dmft, name.split()[0])(**call)
    assert survivors(drawn(np.random.default_rng(SEED), 200, calls.network_calls())) == []


FOUND = [
    Case("stationary", "noise", "1e308"),
    Case("RandomNetwork", "fractions", "empty array"),
    Case("lyapunov_exponent", "t_max", "10**9"),
    Case("solve (network)", "extrapolate", "10**9"),
    Case("simulate (network)", "dt", "inf"),
    Case("learnability", "algorithms", "array of rank 0"),
    Case("certify", "readout", "array of rank 0"),
    Case("TwoTime", "causal", "array of rank 0"),
    Case("Alignment", "m", "ragged"),
    Case("sequence_information_exponent", "encoding", "ragged"),
    Case("landscape_boundary", "high", "10**300"),
    Case("landscape_boundary", "b", "1e308"),
    Case("solve", "label_noise", "10**300"),
    Case("stability", "label_noise", "1e308"),
    Case("plot", "ax", "ragged"),
    Case("escape_formula", "length", "imaginary"),
    Case("linear_noise", "label_noise", "1e308"),
]


def _run():
    line = dmft.Committee(calls.z, 1)
    eqs = dmft.derive(dmft.Model(line, line), dmft.SGD(0.1))
    return line, eqs, dmft.Overlaps([[1.0]], [[0.0]])


def _signs():
    return dmft.Model(_run()[0], dmft.MultiIndex(sp.sign(calls.z), [calls.z]))


RAW = {
    "no folder": lambda: dmft.export(_run()[1], "/no/folder/rates.py"),
    "no folder of a document": lambda: dmft.latex("/no/folder/rates.tex", _run()[1]),
    "no schedule": lambda: dmft.Schedule.load("/no/folder/rates.csv"),
    "unwritten": lambda: dmft.Schedule([0.0, 1.0], [1.0, 1.0]).save("/no/folder/rates.csv"),
    "no curve": lambda: dmft.plot(dmft.erm(_signs())),
    "few samples": lambda: dmft.bayes_optimal(_signs(), 1e-12),
    "many samples": lambda: dmft.bayes_optimal(_signs(), 1e12),
    "momentum": lambda: dmft.RMSProp(0.5, momentum=0.5),
    "blocks": lambda: dmft.Spectrum([2.0, 0.5], [0.3, 0.7]).seen(_run()[2]),
    "before": lambda: dmft.solve(dmft.literature.spherical_p_spin(3), None, 0.5).at("C", 0.5, -1.0),
}


@pytest.mark.parametrize("call", RAW.values(), ids=RAW)
def test_calls_of_methods_and_files_that_were_raw(call):
    with pytest.raises(DmftError):
        call()


@pytest.mark.parametrize("case", FOUND, ids=str)
def test_calls_that_were_raw(case):
    assert survivors([case]) == []


REASONS = {
    ("simulate", "algorithm"): "gradient flow has no steps: use its ode .* small learning_rate",
    ("Stage", "equations"): "equations of kind 'ode' or 'map' from dmft.derive",
    ("linear_noise", "equations"): "derive.*fluctuations=True",
    ("solve", "start"): "lists of starts are for equations of kind 'sde'",
    ("Committee", "activation"): r"for example sympy.erf\(sympy.Symbol",
    ("SequenceNetwork", "activation"): r"for example sympy.erf\(sympy.Symbol",
    ("MultiIndex", "fields"): r"for example sympy.symbols\(",
    ("SequenceTarget", "fields"): r"for example sympy.symbols\(",
    ("GaussianMixture", "fields"): r"for example sympy.symbols\(",
    ("Scaling", "learning_rate"): "the exponent of d",
    ("sweep", "measure"): "choose one of .*'growth_rate'.* or a function",
    ("boundary", "measure"): "choose one of .*'growth_rate'.* or a function",
    ("phase_diagram", "measure"): "choose one of .*'growth_rate'.* or a function",
    ("short_times", "equations"): "two-time equations",
    ("learned_directions", "algorithm"): "repeated data",
    ("phases", "run"): "dmft.escape_time",
}


@pytest.mark.parametrize(("place", "words"), REASONS.items(), ids=str)
def test_refusals_of_types_say_the_way_out(place, words):
    """A record of another kind: the check against the hint had lost these words."""
    function, argument = place
    given = {**calls.good_calls()[function], argument: dmft.GradientFlow()}
    with pytest.raises(DmftError, match=f"{argument} = .* must be .*{words}"):
        getattr(dmft, function)(**given)


NUMBERS = ("0", "-1", "inf", "-inf", "1e308", "1e-320", "10**400", "sp.oo", "zoo", "sp.nan", "nan")


@pytest.mark.parametrize("function", ["fixed_point_branch", "fixed_points"])
def test_numbers_of_loops_are_finite_floats(function):
    """A step of sp.oo went through NumPy as an object: minutes instead of a refusal."""
    numeric = {"step", "tolerance", "max_points", "max_steps", "values"}
    given = numeric & set(calls.good_calls()[function])
    assert survivors([Case(function, a, v) for a in sorted(given) for v in NUMBERS]) == []


@pytest.mark.slow
def test_thousands_of_wrong_calls(tmp_path, monkeypatch):
    """Issue 13, "must show": 3,000 wrong calls over all public functions, no raw error."""
    monkeypatch.chdir(tmp_path)
    assert survivors(drawn(np.random.default_rng(SEED + 1), 3000)) == []
