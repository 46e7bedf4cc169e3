"""Flip one sign of the closed forms at a time: the tests must notice each of them.

Every sum, difference and negation in the modules of the table becomes its opposite, one by one,
and so does every hand-picked sign of the compiled orthants. Run by hand (about half an hour):
``python tests/gaussian/mutate_table.py [module ...]``; exit code 1 names the survivors. It works
on a copy; the run without a change must pass.
"""

from __future__ import annotations

import ast
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
# Longer than the unchanged run takes: a change that does not come to an end is noticed.
TIMEOUT = 600
VALUES = (
    "gaussian/test_gaussian_vectors.py",
    "gaussian/test_gaussian_law.py",
    "gaussian/test_table_entries.py",
    "gaussian/test_product_expectation.py",
    "gaussian/test_switching_closed_forms.py",
    "gaussian/test_random_covariances.py",
)
NORMAL = ("special/test_bivariate_normal.py", "gaussian/test_gaussian_law.py")
ORTHANT = ("special/test_orthant.py", "gaussian/test_switching_closed_forms.py")
SIGNS = ("special/test_orthant.py", *VALUES)
# All signs of these modules, with the tests that are to notice.
MODULES = {
    "gaussian/closed/closed_forms.py": VALUES,
    "gaussian/closed/pair.py": VALUES,
    "gaussian/law.py": VALUES,
    "gaussian/closed/orthant.py": SIGNS,
    "gaussian/closed/product.py": VALUES,
    "gaussian/closed/factor.py": VALUES,
    "gaussian/closed/switch.py": VALUES,
    "gaussian/closed/guard_digits.py": VALUES,
    "gaussian/closed/bivariate.py": NORMAL,
    "special/elementary.py": NORMAL,
}
# Changes that do not change a value, and why.
GUARD = "digits kept in reserve: the value at a float's precision stays"
BAND = "width of the band in which rounding is forgiven"
PARITY = "a sum and a difference of integers have the same parity"
EQUIVALENT = {
    ("gaussian/closed/bivariate.py", "prec + 10"): GUARD,
    ("gaussian/closed/bivariate.py", "int(prec / 3.33) + 3"): GUARD,
    ("gaussian/closed/orthant.py", "2 * prec + 20"): GUARD,
    ("gaussian/closed/closed_forms.py", "1 + ARCSINE_BAND"): BAND,
    ("gaussian/closed/pair.py", "-NEGATIVE_BAND"): BAND,
    ("gaussian/closed/orthant.py", "sum(powers) + len(live)"): PARITY,
    ("gaussian/closed/orthant.py", "sum(powers) + signs"): PARITY,
    ("gaussian/closed/factor.py", "3 - len(coefficients)"): "more zeros than are read",
    ("special/elementary.py", "1.0 + NODES[n]"): "the nodes are symmetric",
    ("special/elementary.py", "1.0 + BAND"): BAND,
}
# Signs that are no operator, and those of the compiled orthants.
PICKED = (
    (
        "gaussian/closed/closed_forms.py",
        "(2 / sp.pi, CorrelationAngle(",
        "(-2 / sp.pi, CorrelationAngle(",
    ),
    ("gaussian/closed/closed_forms.py", "(2 / sp.pi, _arcsine(", "(-2 / sp.pi, _arcsine("),
    ("gaussian/closed/closed_forms.py", "else 1 / (2 * a**2)", "else -1 / (2 * a**2)"),
    ("gaussian/closed/closed_forms.py", "return sp.sign(law.C", "return -sp.sign(law.C"),
    ("gaussian/closed/closed_forms.py", "turn *= 1 if a is sp.oo else sp.sign(a)", "turn *= 1"),
    ("gaussian/closed/closed_forms.py", "return sp.erf(times(", "return -sp.erf(times("),
    ("gaussian/closed/closed_forms.py", "return TwoSigns(", "return -TwoSigns("),
    ("gaussian/closed/orthant.py", "return 4 / mp.pi**2 *", "return -4 / mp.pi**2 *"),
    ("gaussian/law.py", "times(sp.S.NegativeOne, C(q, x)", "times(C(q, x)"),
    ("gaussian/law.py", "weight = 1 / sp.sqrt(2", "weight = -1 / sp.sqrt(2"),
    ("gaussian/closed/switch.py", "HALF * direction * gap", "-HALF * direction * gap"),
    ("gaussian/closed/factor.py", "self.deltas.append(-c / a)", "self.deltas.append(c / a)"),
    ("gaussian/closed/product.py", "law.condition(y, -c)", "law.condition(y, c)"),
    ("special/orthant.py", "value = R[a, b] * four +", "value = -R[a, b] * four +"),
    ("special/orthant.py", "+ E[c, d] * cross", "- E[c, d] * cross"),
    ("special/orthant.py", "value += R[b, c] * E[a, c]", "value -= R[b, c] * E[a, c]"),
    ("special/orthant.py", "value += 2.0 / math.pi * terms", "value -= 2.0 / math.pi * terms"),
    ("special/orthant.py", "return 4.0 / math.pi**2", "return -4.0 / math.pi**2"),
    ("special/orthant.py", "= side * pair_of", "= -side * pair_of"),
)


class Mutation(NamedTuple):
    """A module with one sign changed."""

    module: str
    source: str
    shown: str
    tests: tuple[str, ...]


def flipped(module: str, tests: tuple[str, ...]) -> Iterator[Mutation]:
    """All modules that differ from this one by one sum, difference or negation."""
    source = (ROOT / "dmft" / module).read_text()
    lines = source.splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.BinOp(op=ast.Add() | ast.Sub()):
                first, last = node.left, node.right
                low = starts[first.end_lineno - 1] + first.end_col_offset
                high = starts[last.lineno - 1] + last.col_offset
            case ast.AugAssign(op=ast.Add() | ast.Sub()):
                low = starts[node.target.end_lineno - 1] + node.target.end_col_offset
                high = starts[node.value.lineno - 1] + node.value.col_offset
            case ast.UnaryOp(op=ast.USub()):
                low = starts[node.lineno - 1] + node.col_offset
                high = low + 1
            case _:
                continue
        shown = ast.unparse(node)
        if (module, shown) in EQUIVALENT:
            continue
        between = source[low:high]
        sign = "+" if "+" in between else "-"
        changed = between.replace(sign, "-" if sign == "+" else "+", 1)
        text = f"line {node.lineno}, {sign}: {shown}"
        yield Mutation(module, source[:low] + changed + source[high:], text, tests)


def picked() -> Iterator[Mutation]:
    """The changes that are written down above."""
    for module, text, change in PICKED:
        source = (ROOT / "dmft" / module).read_text()
        assert text in source, f"{text!r} is no longer in {module}"
        tests = MODULES.get(module, ORTHANT)
        yield Mutation(module, source.replace(text, change, 1), change, tests)


def passes(copy: Path, tests: tuple[str, ...]) -> bool:
    """Whether the tests pass on the copy, in a child that finds the libraries loaded."""
    child = os.fork()
    if child == 0:
        import pytest

        signal.alarm(TIMEOUT)
        sys.path.insert(0, str(copy))
        os.chdir(copy)
        os.environ["NUMBA_CACHE_DIR"] = str(copy / "cache")
        hole = os.open(os.devnull, os.O_WRONLY)
        os.dup2(hole, 1)
        os.dup2(hole, 2)
        # One process: a child that finds everything imported starts at once.
        arguments = ["-q", "-x", "-n", "0", "-p", "no:cacheprovider", "-p", "no:warnings"]
        os._exit(int(pytest.main([*arguments, *(f"tests/{name}" for name in tests)]) != 0))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def main(wanted: list[str]) -> int:
    """Print each change that no test noticed, and how many there were."""
    import hypothesis  # noqa: F401
    import scipy.special  # noqa: F401
    import sympy  # noqa: F401

    assert "dmft" not in sys.modules
    changes = [*picked(), *(m for item in MODULES.items() for m in flipped(*item))]
    changes = [m for m in changes if not wanted or m.module in wanted]
    survivors = []
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in ("dmft", "tests"):
            shutil.copytree(ROOT / name, copy / name)
        shutil.copy(ROOT / "pyproject.toml", copy)
        for tests in {m.tests for m in changes}:
            assert passes(copy, tests), f"the unchanged library fails {tests}"
        for change in changes:
            path = copy / "dmft" / change.module
            original = path.read_text()
            path.write_text(change.source)
            if passes(copy, change.tests):
                survivors.append(change)
                print(f"SURVIVES {change.module} {change.shown}", flush=True)
            path.write_text(original)
    print(f"{len(changes)} signs flipped, {len(changes) - len(survivors)} noticed")
    return int(bool(survivors))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
