"""Random pairs and triples of features: rates, risks, losses and runs against Monte Carlo.

The declarations and their text are those of `draws` and `features`; the truth is NumPy alone:
averages over Gaussian fields (`steps`) and steps on vectors in R^d (`walks`). Every case is right
within its claim and the error of the Monte Carlo, or refused in one sentence. `python
tests/judge/test_one_steps.py 0 1000` writes a line of JSON for each case.
"""

from __future__ import annotations

import importlib.util
import json
import signal
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

HERE = Path(__file__).parent


def _load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


ROOM = ("activations", "losses", "features", "draws", "steps", "walks", "comparisons")
activations, losses, features, draws, steps, walks, comparisons = map(_load, ROOM)
SEED, COUNT, BLOCK = 20261128, 3000, 25
# Sobol points of each of 16 scrambles, and those that a difference has to survive.
FIRST, AGAIN = comparisons.COUNT, 8192


def wrong(verdict: Any) -> list[str]:
    """What is wrong beyond doubt: differences are looked at again with other points, and more."""
    found = list(verdict.failures)
    for one in verdict.compared:
        if one.wrong(FIRST, 0):
            again = one.wrong(AGAIN, 1)
            if again:
                call = comparisons.CLAIM if again.startswith("claim") else one.call
                found.append(f"{again}: {verdict.case}\n    {verdict.case.line(call)}")
    return found


def parts_of(number: int) -> tuple[str, ...]:
    """What is compared beside rates and risk."""
    chosen = ["compiled", "observed"]
    chosen += ["simulated"] * (number % 4 == 1)
    case = draws.draw(number, SEED)
    return (*chosen, *["solved"] * (case.schedule is not None or number % 16 == 3))


# Cheap ones that hold every feature.
FAST = (
    5, 6, 21, 30, 70, 79, 80, 82, 91, 95, 104, 107, 113, 118, 122, 127, 134, 135, 138,
    144, 160, 164, 188, 224, 236, 276, 327, 423, 439, 703, 728,
)  # fmt: skip
# Of what is drawn, at most this part is refused.
REFUSED = 0.5
PLANTED = 1.05


@pytest.mark.parametrize("number", FAST)
def test_features_together(number: int) -> None:
    failures = wrong(comparisons.judged(draws.draw(number, SEED), parts_of(number)))
    assert not failures, "\n".join(failures)


@pytest.mark.slow
@pytest.mark.parametrize("generated_code", ["read"])
@pytest.mark.parametrize("block", range(COUNT // BLOCK))
def test_features_together_at_night(block: int, generated_code: str) -> None:
    failures, refused = [], 0
    for number in range(BLOCK * block, BLOCK * (block + 1)):
        verdict = comparisons.judged(draws.draw(number, SEED), parts_of(number))
        failures += wrong(verdict)
        refused += bool(verdict.refused and not verdict.compared)
    assert not failures, "\n".join(failures)
    assert refused <= REFUSED * BLOCK


def test_the_judge_sees_an_error_of_five_percent() -> None:
    """In most rates and risks, on the points of the first look."""
    seen, planted = 0, 0
    for number in FAST[::6]:
        for one in comparisons.judged(draws.draw(number, SEED), ()).compared:
            if np.max(np.abs(one.value)) > 0.0 and not one.wrong(FIRST, 0):
                planted += 1
                seen += bool(replace(one, value=PLANTED * one.value).wrong(FIRST, 0))
    assert seen > 0.5 * planted > 0, (seen, planted)


def _too_slow(*_: Any) -> None:
    raise TimeoutError("more CPU seconds than a case is given")


def report(numbers: Iterable[int], seconds: float) -> None:
    """A line of JSON for each case, which has so many seconds of CPU."""
    signal.signal(signal.SIGVTALRM, _too_slow)
    for number in numbers:
        begin, case = time.process_time(), draws.draw(number, SEED)
        line: dict[str, Any] = {"number": number, "features": case.features}
        signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
        try:
            verdict = comparisons.judged(case, parts_of(number))
            line |= {"refused": verdict.refused, "compared": len(verdict.compared)}
            line["failures"] = wrong(verdict)
        except TimeoutError as error:
            line |= {"refused": "", "compared": 0, "failures": [], "slow": str(error)}
        signal.setitimer(signal.ITIMER_VIRTUAL, 0.0)
        line["seconds"] = round(time.process_time() - begin, 2)
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    sys.path.insert(0, str(HERE.parent))
    from conftest import READING

    READING.turn(True)
    first, last = map(int, sys.argv[1:3])
    report(range(first, last), float((sys.argv[3:] or [90])[0]))
