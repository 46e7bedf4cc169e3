"""What the library says of a `Case`, beside the truth in NumPy.

The text of a case is run as it is printed. Rates, risk, generated code, what runs observe at their
start, simulations and short runs are each compared with `steps` and `walks`; whatever else is
raised than an error of `dmft.errors` with a sentence is a failure.
"""

from __future__ import annotations

import re
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import features
import numpy as np
import steps
import walks

import dmft
from dmft.equations.risk import ErrorRate
from dmft.errors import DmftError
from dmft.workflow.solving.inputs import run_inputs
from dmft.workflow.solving.quadrature import on_nodes

# Sobol points of each of 16 scrambles, and those that a difference has to survive.
COUNT, AGAIN = 1024, 8192
# Standard errors; claims are those of 99 %; rounding.
SIGMAS, CLAIMS, ROUNDING = 5.0, 3.0, 1e-7
# Numbers beyond this size with an error of this part of it are those of heavy tails.
LARGE, SCATTER = 2.0, 0.1
# Nodes on which compiled and evaluated rates are compared, and those of observables.
FEW = {
    "sobol": {"nodes": 16, "replicas": 4},
    "gauss-hermite": {"nodes": 7},
    "lattice": {"nodes": 5},
    "mixture": {"nodes": 5},
}
MORE = {
    "sobol": {"nodes": 128},
    "gauss-hermite": {"nodes": 9},
    "lattice": {"nodes": 8},
    "mixture": {"nodes": 7},
}
# Runs: input dimension, time, runs of the library and of NumPy.
DIM, TIME, RUNS, WALKS = 60, 0.6, 48, 192
TIME_OF_POLYNOMIALS = 0.15
POLYNOMIALS = ("square", "he3", "cubic", "quartic", "margin")
# Of loss and error rate in simulations: nodes of their own, per size of the integrand.
OF_SIMULATION = 0.01


# Names of indexed sums, which no user has written: h[u], mean_1[u].
INTERNAL = re.compile(r"\b[A-Za-z]\w*\[[a-z]\]|unknown \[")


@dataclass
class Compared:
    """A number of the library beside the truth."""

    what: str
    value: Any
    claim: Any
    truth: Callable[[int, int], tuple[Any, Any]]  # of points and seed: value and error
    call: str  # what shows the number in the library

    def wrong(self, count: int, seed: int) -> str:
        """Empty where it is right."""
        true, error = self.truth(count, seed)
        value, claim = np.asarray(self.value, float), np.asarray(self.claim, float)
        if value.size != np.size(true):
            return f"{self.what} has shape {value.shape}, expected {np.shape(true)}"
        if np.isfinite(value).all() and not np.isfinite(claim).all():
            return f"claim of {self.what} is {claim.ravel()[~np.isfinite(claim.ravel())][0]}"
        claim = np.broadcast_to(claim, value.shape).reshape(np.shape(true))
        value = value.reshape(np.shape(true))
        allowed = SIGMAS * error + CLAIMS * claim + ROUNDING * (1 + np.abs(true))
        size = np.max(np.abs(true), initial=0.0)
        if np.isfinite(value).all() and size > LARGE and np.max(error) > SCATTER * size:
            return ""  # rare samples decide, and groups do not show them
        gap = np.abs(value - true)
        ratio = np.where(np.isfinite(value), gap / allowed, np.inf)
        worst = np.unravel_index(np.argmax(ratio), gap.shape)
        if ratio[worst] <= 1.0:
            return ""
        index = list(map(int, worst)) or ""
        return (
            f"{self.what}{index} = {value[worst]:.7g}, truth {np.asarray(true)[worst]:.7g} +- "
            f"{np.asarray(error)[worst]:.1e}, claim {claim[worst]:.1e}"
        )


@dataclass
class Verdict:
    """What was found of a case."""

    case: Any
    refused: str = ""
    compared: list[Compared] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def fail(self, what: str, call: str) -> None:
        self.failures.append(f"{what}: {self.case}\n    {self.case.line(call)}")

    def attempt(self, call: str, function: Callable[[], Any], *, may_refuse: bool = False) -> Any:
        """What the function returns; a failure where it raises, unless it may refuse."""
        try:
            return function()
        except DmftError as error:
            message = str(error)
            if len(message) < 20 or "\n" in message or INTERNAL.search(message):
                self.fail(f"refused without a user's words: {message!r}", call)
            elif may_refuse:
                self.refused = self.refused or f"{call.split('(')[0]}: {message}"
            else:
                self.fail(f"refused late, {_place(error)}: {message}", call)
        except TimeoutError:  # of whoever gives a case so much time
            raise
        except Exception as error:
            self.fail(f"{type(error).__name__} {_place(error)}: {str(error)[:200]}", call)
        return None


def _place(error: Exception) -> str:
    """Where in the library it was raised."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "/dmft/" in f.filename]
    if not frames:
        return "outside"
    last = frames[-1]
    return f"at {last.filename.split('/dmft/')[-1]}:{last.lineno} {last.name}"


def declared(case: Any) -> tuple[Any, Any, Any]:
    """Model, algorithm and start from the text that is printed."""
    space: dict[str, Any] = {}
    exec(features.BEGIN, space)
    texts = (case.model_text, case.algorithm_text, case.start_text(case.memory))
    return tuple(eval(text, space) for text in texts)


def judged(case: Any, parts: tuple[str, ...]) -> Verdict:
    """What the library says of a case, of rates, risk and these parts."""
    verdict = Verdict(case)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        made = verdict.attempt(EVALUATE, lambda: declared(case), may_refuse=True)
        if made is None:
            return verdict
        model, algorithm, start = made
        equations = verdict.attempt(
            EVALUATE, lambda: dmft.derive(model, algorithm), may_refuse=True
        )
        if equations is None:
            return verdict
        found = verdict.attempt(EVALUATE, lambda: _rates(equations, start), may_refuse=True)
        if found is None:
            return verdict
        if case.infinite:
            if all(np.isfinite(y).all() for y in found[0].values()):
                verdict.fail("numbers for infinite averages", EVALUATE)
            return verdict
        _compare_rates(verdict, *found)
        _compare_risk(verdict, model, start)
        own = {
            "compiled": lambda: _compare_compiled(verdict, equations, start),
            "observed": lambda: _compare_observed(verdict, equations, start),
            "simulated": lambda: _compare_simulated(verdict, model, algorithm),
            "solved": lambda: _compare_solved(verdict, equations, start),
        }
        for part in parts:
            own[part]()
    return verdict


EVALUATE = "print(dmft.derive(model, algorithm).evaluate(start))"
CLAIM = "print(dmft.derive(model, algorithm).evaluate_error(start))"
RISK = "risk, here = dmft.population_risk(model), dict(Q=start.Q, M=start.M, P=start.P); "
RISK += "print(risk(**here), risk.error(**here))"
SOLVE = "print(dmft.solve(dmft.derive(model, algorithm), start, .1).risk)"


def _rates(equations: Any, start: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    return equations.evaluate(start), equations.evaluate_error(start)


def _compare_rates(verdict: Verdict, rates: dict[str, Any], claims: dict[str, Any]) -> None:
    case, known = verdict.case, {}

    def truth(count: int, seed: int) -> dict[str, Any]:
        if (count, seed) not in known:
            known[count, seed] = steps.rates(case, count, seed)
        return known[count, seed]

    wanted = truth(COUNT, 0)
    if rates.keys() != wanted.keys():
        verdict.fail(f"rates of {sorted(rates)}, expected {sorted(wanted)}", EVALUATE)
    for name in rates.keys() & wanted.keys():
        verdict.compared.append(
            Compared(f"rate of {name}", rates[name], claims.get(name, np.nan),
                     lambda count, seed, name=name: truth(count, seed)[name], EVALUATE)
        )  # fmt: skip


def _expected(case: Any, name: str) -> Callable[[int, int], tuple[Any, Any]]:
    return lambda count, seed: steps.expected(case, count, seed)[name]


def _compare_risk(verdict: Verdict, model: Any, start: Any) -> None:
    def value() -> tuple[float, float]:
        risk, here = dmft.population_risk(model), {"Q": start.Q, "M": start.M, "P": start.P}
        return float(risk(**here)), float(risk.error(**here))

    found = verdict.attempt(RISK, value)
    if found is not None:
        verdict.compared.append(Compared("risk", *found, _expected(verdict.case, "risk"), RISK))


@dataclass
class Read:
    """The generated code of equations at a start, run by Python."""

    equations: Any
    start: Any
    problem: Any
    given: dict[str, Any]
    rule: Any

    @classmethod
    def of(cls, equations: Any, start: Any, nodes: dict[str, dict[str, Any]]) -> Read:
        chosen = nodes[equations.rule(start, {}).kind] if equations.averages else {}
        given = run_inputs(equations, start, chosen)
        rule = equations.rule(start, chosen) if equations.averages else None
        return cls(equations, start, dmft.build(equations), given, rule)

    def __call__(self, name: str, rule: Any = None) -> dict[str, Any]:
        """Rates, "rhs", or observables, "observe", on the nodes of a rule."""
        given = self.given if rule is None else on_nodes(self.given, rule)
        problem = self.problem
        widths = np.array([given["widths"][n] for n in problem.widths])
        y = problem.pack(given["state"])
        par = problem.pack_parameters(given["parameters"], given["constants"])
        names = problem.observables
        out = np.empty_like(y) if name == "rhs" else np.empty(len(names))
        getattr(problem, name).py_func(0.0, y, widths, par, out)
        if name == "rhs":
            return problem.unpack(out, given["widths"])
        return dict(zip(names, out, strict=True))


def _compare_compiled(verdict: Verdict, equations: Any, start: Any) -> None:
    """Generated code gives what `evaluate` gives on the same nodes."""

    def both() -> tuple[dict[str, Any], dict[str, Any]]:
        read = Read.of(equations, start, FEW)
        chosen = FEW[read.rule.kind] if read.rule else {}
        return read("rhs"), equations.evaluate(start, **chosen)

    found = verdict.attempt(SOLVE, both)
    if found is None:
        return
    compiled = {name.removeprefix("block_"): y for name, y in found[0].items()}
    for name, value in found[1].items():
        if name not in compiled:
            verdict.fail(f"generated code has no rate of {name}", SOLVE)
            continue
        size = float(np.max(np.abs(value), initial=0.0))
        verdict.compared.append(
            Compared(f"generated code's rate of {name}", compiled[name], 1e-7 * size,
                     lambda count, seed, value=value: (value, 0 * value), SOLVE)
        )  # fmt: skip


def _compare_observed(verdict: Verdict, equations: Any, start: Any) -> None:
    """Risk, loss and error rate at the start of a run."""
    case = verdict.case

    def observed() -> tuple[Any, dict[str, Any], dict[str, Any]]:
        read = Read.of(equations, start, MORE)
        value, claim = read("observe"), dict.fromkeys(read.problem.observables, 1e-9)
        if read.rule is not None:
            groups = [read("observe", one) for one in read.rule.groups]
            claim = {
                n: float(read.rule.error(np.array(y), [np.array(g[n]) for g in groups]))
                for n, y in value.items()
            }
        return read, value, claim

    found = verdict.attempt(SOLVE, observed)
    if found is None:
        return
    read, values, claims = found
    for name in values.keys() & {"risk", "loss", "error_rate"}:
        verdict.compared.append(
            Compared(
                f"observed {name}",
                values[name],
                claims[name],
                _expected(case, name),
                SOLVE.replace("risk", name),
            )
        )
    has_errors = case.outputs > 1 or case.signs or case.channel is not None
    if "error_rate" in values or not has_errors:
        return

    def error_rate() -> tuple[float, float]:
        given = read.given
        front = "block_" if case.by_block else ""
        constants = {"readout": case.readout if case.outputs > 1 else case.readout[0]}
        constants = {**given["constants"], **constants}
        Q, M = (given["state"][f"{front}{name}"][None] for name in "QM")
        constants["readout"] = constants["readout"][None]
        rate, error = ErrorRate(equations.model).along(Q, M, constants, given["parameters"])
        return float(rate[0]), float(error[0])

    call = SOLVE.replace("risk", "error_rate")
    both = verdict.attempt(call, error_rate)
    if both is not None:
        verdict.compared.append(Compared("error rate", *both, _expected(case, "error_rate"), call))


def _compare_simulated(verdict: Verdict, model: Any, algorithm: Any) -> None:
    """Runs in R^d: what is measured at their start, and where they are after a while."""
    case = verdict.case
    if case.optimiser not in walks.WALKED:
        return
    memory = {n: y for n, y in case.memory.items() if n == "second_moment"}
    space: dict[str, Any] = {}
    exec(features.BEGIN, space)
    start = eval(case.start_text(memory), space)
    wild = {case.student, case.teacher, case.loss_name} & {*POLYNOMIALS} or case.target
    t_max = TIME_OF_POLYNOMIALS if wild else TIME
    plain = case.optimiser in ("SGD", "sphere") and not case.rows and not case.by_block
    method = "overlaps" if plain and case.number % 2 and case.batch == 1 else "weights"
    follow = {"learning_rate": case.schedule_text} if case.schedule else {}
    known: dict[tuple[int, int], Any] = {}
    text = ", ".join([f"{DIM}, {t_max}, {RUNS}, start, {method!r}, save_at=2"]
                     + [f"{name}={value!r}" for name, value in follow.items()])  # fmt: skip
    call = f"start = {case.start_text(memory)}; runs = dmft.simulate(model, algorithm, {text}); "
    call += "print(runs.mean.M, runs.stderr.M)"

    def runs(seed: int) -> Any:
        seeds = range(seed, seed + RUNS * (1 + 3 * (seed > 0)))
        return dmft.simulate(
            model, algorithm, DIM, t_max, list(seeds), start, method, save_at=2, threads=1,
            progress=False, **follow,
        )  # fmt: skip

    first = verdict.attempt(call, lambda: runs(0), may_refuse=True)
    if first is None or first.message.startswith(f"{RUNS} of {RUNS} seeds"):
        return  # none is left for the means, and the record says so
    for name in {"risk", "loss", "error_rate"} & {*first.mean}:
        size = steps.expected(case, COUNT)["size"][0] ** 0.5 if name == "loss" else 1.0
        off = first.provenance.get(f"{name}_quadrature_error") or 0.0
        if name == "risk":
            size = steps.expected(case, COUNT)["risk"][0]
        claim = 4 * (0.0 if np.isnan(off) else off) + OF_SIMULATION * size
        verdict.compared.append(
            Compared(f"simulated {name} at the start", first.mean[name][0], claim / CLAIMS,
                     _expected(case, name), call)
        )  # fmt: skip
    if str(first.status) != "ok" or case.loss_name in POLYNOMIALS:
        return  # some runs of steep losses leave for ever
    front = "block_" if case.by_block else ""

    def difference(name: str, count: int, seed: int) -> tuple[Any, Any]:
        """Of runs and walks, compared with zero."""
        if (count, seed) not in known:
            many = WALKS * (1 if count == COUNT else 4)
            here = first if count == COUNT else runs(1000 + seed)
            known[count, seed] = here, walks.walked(case, DIM, t_max, many, seed)
        here, true = known[count, seed]
        own = front + name if name not in ("readout", "accumulator") else name
        mean, error = true[name]
        shape = np.shape(here.mean[own][-1])
        mean, error = np.reshape(mean, shape), np.reshape(error, shape)
        return here.mean[own][-1] - mean, np.hypot(here.stderr[own][-1], error)

    for name in walks.names(case):
        zero = np.zeros(np.shape(difference(name, COUNT, 0)[0]))
        verdict.compared.append(
            Compared(f"simulated minus walked {name}", zero, 0 * zero,
                     lambda count, seed, name=name: difference(name, count, seed), call)
        )  # fmt: skip


def _compare_solved(verdict: Verdict, equations: Any, start: Any) -> None:
    """A short run against Runge-Kutta steps of true rates."""
    case, t_max = verdict.case, 0.3
    if equations.averages and (
        equations.rule(start, {}).kind == "sobol" or case.p + case.k > 3 or case.joint
    ):
        return
    follow = {"learning_rate": case.schedule_text} if case.schedule else {}
    nodes = {"nodes": 12} if equations.averages else {}
    text = "".join(f", {name}={value!r}" for name, value in follow.items())
    call = f"print(dmft.solve(dmft.derive(model, algorithm), start, {t_max}{text}).final)"

    def solved() -> Any:
        return dmft.solve(
            equations, start, t_max, save_at=[t_max], rtol=1e-6, atol=1e-8, progress=False,
            **follow, **nodes,
        )  # fmt: skip

    run = verdict.attempt(call, solved)
    if run is None or str(run.status) != "ok":
        return
    known: dict[tuple[int, int], Any] = {}

    def truth(name: str, count: int, seed: int) -> tuple[Any, Any]:
        if (count, seed) not in known:
            known[count, seed] = [
                steps.carried(case, t_max, 4, count // 2, s) for s in (2 * seed, 2 * seed + 1)
            ]
        one, two = known[count, seed]
        gap = np.abs(np.asarray(one[name]) - two[name])
        error = gap + 1e-4 * np.abs(one[name]) + np.max(gap, initial=0.0)
        return (one[name] + two[name]) / 2, error

    try:
        if not all(np.isfinite(truth(name, COUNT, 0)[0]).all() for name in truth_names(case)):
            return
    except np.linalg.LinAlgError:
        return  # four steps are too long for this start: no covariance is left
    front = "block_" if case.by_block else ""
    for name in truth_names(case):
        own = front + name if name not in ("readout", "accumulator") else name
        error = (run.error or {}).get(own, np.zeros(1))
        claim = np.max(np.nan_to_num(error, nan=np.inf))
        verdict.compared.append(
            Compared(f"solved {name}", run[own][-1], claim,
                     lambda count, seed, name=name: truth(name, count, seed), call)
        )  # fmt: skip


def truth_names(case: Any) -> list[str]:
    return (
        ["Q", "M"]
        + ["readout"] * case.trains
        + [name for name in case.memory if case.optimiser != "average"]
    )
