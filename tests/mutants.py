"""Change random lines of `dmft` that compute numbers, one at a time: fast tests must notice them.

``python tests/mutants.py [count] [--seed 0] [--jobs 2] [--under dmft/solvers]`` prints for each
mutant the test that failed, or that it survived, and at the end a diff of each survivor; the exit
code is 1 if more than 15 in 100 survive. Each mutant is a copy of the tree, in which the tests run
that execute the changed line, the shortest first; the first call measures which they are and how
long they take (``.mutants.coverage``, ``.mutants.durations``, ten minutes, made again with
``--fresh``). Where that is not known (compiled code) the tests run that import the changed file,
then those of its subject. What a mutant survives is ten minutes of tests.
"""

# Not mutmut, which leaves decorated functions and classes (njit, dataclass) as they are, nor
# cosmic-ray, which has one test command for all files and no samples; neither renews the stamps.
from __future__ import annotations

import argparse
import ast
import bisect
import collections
import copy
import difflib
import functools
import importlib.util
import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import coverage

ROOT = Path(__file__).parents[1]
MOST_SURVIVORS = 0.15
MEASURED, DURATIONS = ROOT / ".mutants.coverage", ROOT / ".mutants.durations"
# More tests than this take longer on a command line than those of the subject; seconds of tests.
MOST_TESTS, MOST_SECONDS = 400, 600.0
# Seconds; endless loops count as noticed, and are shown.
TIMEOUT = 1800
# Text and figures, not numbers.
LEFT_OUT = {
    "cli",
    "display",
    "explained",
    "explanation",
    "explanations",
    "explorer",
    "latex",
    "literature",
    "progress",
    "proofs",
    "recorder",
    "typeset",
    "views",
}
if importlib.util.find_spec("flint") is None:  # its tests are skipped
    LEFT_OUT.add("certified")
IGNORED = shutil.ignore_patterns(
    ".git", ".venv*", "_build", ".mypy_cache", ".ruff_cache", ".mutants.*"
)
# Rooms of tests of a subject whose folder in the library has another name.
ROOMS = {
    "averages": ("equations", "losses"), "codegen": ("emit",),
    "compiled": ("emit", "special"), "equations": ("losses", "laws", "spectra"),
    "escape": ("agreement",), "export": ("codegen",),
    "model": ("contract", "equations", "optimisers"),
    "rounding": ("equations",), "simulation": ("agreement", "losses", "optimisers"),
    "solving": ("solvers",), "special": ("judge", "emit", "equations"), "static": ("static",),
    "two_time": ("descent",), "update": ("equations", "losses", "optimisers", "judge"),
}  # fmt: skip
SWAPS: dict[type[ast.AST], tuple[type[ast.AST], ...]] = {
    ast.Add: (ast.Sub,), ast.Sub: (ast.Add,), ast.Mult: (ast.Div,), ast.Div: (ast.Mult,),
    ast.Pow: (ast.Mult,), ast.FloorDiv: (ast.Mult,), ast.Mod: (ast.FloorDiv,),
    ast.Lt: (ast.GtE, ast.LtE), ast.LtE: (ast.Gt, ast.Lt), ast.Gt: (ast.LtE, ast.GtE),
    ast.GtE: (ast.Lt, ast.Gt), ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,),
}  # fmt: skip
SKIPPED = (ast.Raise, ast.Assert, ast.JoinedStr, ast.arguments)
NO_CODE = {"annotation", "decorator_list", "returns"}
# Nobody reads a number of a longer buffer.
NO_RESULT = {"empty", "empty_like", "__repr__", "__str__"}
NO_NUMBERS = (ast.List, ast.Tuple, ast.Dict, ast.Set, ast.ListComp, ast.JoinedStr)


class Mutant(NamedTuple):
    """A file of the library, its changed text, and the lines that changed."""

    path: str
    old: str
    new: str
    lines: range

    def diff(self) -> str:
        """Unified diff of the change."""
        lines = (text.splitlines(keepends=True) for text in (self.old, self.new))
        return "".join(difflib.unified_diff(*lines, self.path, self.path, n=2))


def operands(node: ast.AST) -> Iterator[ast.AST]:
    """What operators are between, at all depths."""
    for child in ast.iter_child_nodes(node):
        yield from operands(child) if isinstance(child, ast.BinOp) else [child]


def is_number(node: ast.AST) -> bool:
    """Whether an operand may be a number: no text, no list."""
    text = isinstance(node, ast.Constant) and not isinstance(node.value, int | float | complex)
    return not text and not isinstance(node, NO_NUMBERS)


def name_of(node: ast.AST) -> str:
    """The name of a function that is defined or called; empty for other nodes."""
    if isinstance(node, ast.Call):
        return getattr(node.func, "attr", None) or getattr(node.func, "id", "")
    return node.name if isinstance(node, ast.FunctionDef) else ""


def computing(node: ast.AST, inside: bool = False) -> Iterator[ast.AST]:
    """Nodes that compute numbers; constants where they are operands."""
    if isinstance(node, SKIPPED) or name_of(node) in NO_RESULT:
        return
    operators = isinstance(node, ast.BinOp | ast.UnaryOp | ast.Compare)
    number = isinstance(node, ast.Constant) and type(node.value) in (int, float)
    changing = operators or isinstance(node, ast.AugAssign)
    if all(map(is_number, operands(node))) if changing else inside and number:
        yield node
    for name, field in ast.iter_fields(node):
        for child in field if isinstance(field, list) else [field]:
            if isinstance(child, ast.AST) and name not in NO_CODE:
                yield from computing(child, operators)


def changes(node: ast.AST) -> Iterator[str]:
    """Texts that differ from a node by one operator, sign or number."""
    if isinstance(node, ast.Constant):
        yield repr(node.value + 1)
    elif isinstance(node, ast.UnaryOp):
        if isinstance(node.op, ast.USub):
            yield f"({ast.unparse(node.operand)})"
    else:
        # Of floats that are equal to a threshold nobody hears.
        whole = any(isinstance(y, ast.Constant) and type(y.value) is int for y in operands(node))
        first = node.ops[0] if isinstance(node, ast.Compare) else node.op
        for other in SWAPS.get(type(first), ())[: 1 + whole]:
            new = copy.copy(node)
            if isinstance(node, ast.Compare):
                new.ops = [other(), *node.ops[1:]]
            else:
                new.op = other()
            yield ast.unparse(new) if isinstance(node, ast.AugAssign) else f"({ast.unparse(new)})"


def mutants(under: str) -> Iterator[Mutant]:
    """All mutants of the files below a folder."""
    for file in sorted((ROOT / under).rglob("*.py")):
        path = file.relative_to(ROOT)
        if LEFT_OUT & {*path.parts, path.stem}:
            continue
        old = file.read_text(encoding="utf-8")
        source = old.encode()
        starts = [0]
        for line in source.splitlines(keepends=True):
            starts.append(starts[-1] + len(line))
        # Settings at the top of a file decide how long something takes, not what it is.
        body = [y for y in ast.parse(old).body if isinstance(y, ast.FunctionDef | ast.ClassDef)]
        for node in computing(ast.Module(body, [])):
            low = starts[node.lineno - 1] + node.col_offset
            high = starts[node.end_lineno - 1] + node.end_col_offset
            for text in changes(node):
                new = (source[:low] + text.encode() + source[high:]).decode()
                yield Mutant(str(path), old, new, range(node.lineno, node.end_lineno + 1))


def words(path: str) -> set[str]:
    """Words in the names of folders and files."""
    return {word.rstrip("s") for word in re.findall("[a-z]{3,}", path)}


def measured(fresh: bool) -> coverage.CoverageData:
    """Tests that execute each line, measured by one run of the fast tests."""
    data = coverage.CoverageData(str(MEASURED))
    if fresh or not MEASURED.exists():
        command = [sys.executable, "-m", "pytest", "-q", "--tb=no", "-p", "no:cacheprovider"]
        command += ["--cov=dmft", "--cov-context=test", "--cov-report=", "--durations=0", "-vv"]
        env = {**os.environ, "COVERAGE_FILE": str(MEASURED)}
        said = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True).stdout
        taken = dict.fromkeys(re.findall(r"^[\d.]+s \w+ +tests/.*$", said, re.MULTILINE))
        DURATIONS.write_text("\n".join(taken), encoding="utf-8")
    data.read()
    return data


@functools.cache
def durations() -> collections.Counter[str]:
    """Seconds of each test, and of each file of tests."""
    found: collections.Counter[str] = collections.Counter()
    for line in DURATIONS.read_text(encoding="utf-8").splitlines():
        seconds, _, test = line.split(maxsplit=2)
        found[test] += float(seconds[:-1])
        found[test.partition("::")[0]] += float(seconds[:-1])
    return found


def affordable(tests: list[str]) -> list[str]:
    """The first tests, as many as end in time; one in any case."""
    ends = list(itertools.accumulate(durations()[test] for test in tests))
    return tests[: max(1, bisect.bisect(ends, MOST_SECONDS))]


def reaching(mutant: Mutant, known: coverage.CoverageData) -> list[str]:
    """Tests that can notice a mutant: those that execute its lines, where these are known."""
    contexts = known.contexts_by_lineno(str(ROOT / mutant.path))
    found = {test for line in mutant.lines for test in contexts.get(line, ())} - {""}
    named = sorted({test.rpartition("|")[0] for test in found}, key=lambda t: (durations()[t], t))
    return affordable(named[:MOST_TESTS] or of_subject(mutant.path))


def of_subject(path: str) -> list[str]:
    """Tests of a file: those that import it, then its subject, then its rooms."""
    parts = Path(path).with_suffix("").parts
    package, name = ".".join(parts[:-1]), parts[-1]
    where = re.compile(rf"{re.escape(package)}(\.{name}\b| import [^\n]*\b{name}\b)")
    rooms = [room for p in parts[1:] for room in (p, *ROOMS.get(p, ()))] or ["workflow"]
    found = {}
    for file in sorted(ROOT.glob("tests/*/**/test_*.py")):
        read = bool(where.search(file.read_text(encoding="utf-8")))
        shown = str(file.relative_to(ROOT))
        if read or set(rooms) & {*Path(shown).parts}:
            found[shown] = (not read, -len(words(shown) & words(path)))
    return sorted(found, key=lambda test: found[test])


def first_failure(
    tests: list[str], mutant: Mutant | None = None, without: tuple[str, ...] = ()
) -> str:
    """The test that fails first in a copy of the tree; empty if none does."""
    with tempfile.TemporaryDirectory(prefix="mutant") as folder:
        # With machine code: it is kept for the text that it was compiled from.
        tree = Path(shutil.copytree(ROOT, Path(folder, "tree"), ignore=IGNORED))
        env = {**os.environ, "PYTHONPATH": str(tree), "OPENBLAS_NUM_THREADS": "1"}
        env.pop("DMFT_CACHE_DIR", None)
        run = functools.partial(subprocess.run, cwd=tree, env=env, capture_output=True, check=True)
        if mutant is not None:
            (tree / mutant.path).write_text(mutant.new, encoding="utf-8")
            # Tables of tokens are named by the version of the library, not by their code.
            for file in (tree / ".pytest_cache").rglob("table_*"):
                if "gaussian" in mutant.path:
                    file.unlink()
            # Machine code does not know the compiler that made it.
            if mutant.path.startswith(("dmft/compiled/", "dmft/emit/")):
                kept = (*tree.rglob("*.nb[ic]"), *(tree / ".pytest_cache").rglob("code_*"))
                for file in kept:
                    file.unlink()
            if "njit" in mutant.new or "@inlined" in mutant.new:
                run([sys.executable, "tests/emit/restamp.py"])
        noted = tree / ".pytest_cache" / "v" / "cache" / "lastfailed"
        noted.unlink(missing_ok=True)
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-n", "0", "--tb=no", *tests]
        command += [f"--deselect={test}" for test in without]
        with subprocess.Popen(
            command, cwd=tree, env=env, text=True, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        ) as process:  # fmt: skip
            try:
                said, _ = process.communicate(timeout=TIMEOUT)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                return f"no end within {TIMEOUT} s"
        if process.returncode in (0, 5):  # 5: no fast test
            return ""
        if process.returncode == 4 and "no tests ran" in said:
            raise RuntimeError(f"pytest does not know the tests: {said[-500:]}")
        return next(iter(json.loads(noted.read_text()))) if noted.exists() else said[-200:]


@functools.cache
def fails_anyway(test: str) -> bool:
    """Whether a test that noticed a mutant fails on the library as it is."""
    return test.startswith("tests/") and bool(first_failure([test]))


def noticing(mutant: Mutant, known: coverage.CoverageData) -> str:
    """The first test that fails by the change; empty if there is none."""
    tests, without = reaching(mutant, known), ()
    while (test := first_failure(tests, mutant, without)) and fails_anyway(test):
        without += (test,)
    print(f"{mutant.path}: {test or 'SURVIVED'}", flush=True)
    return test


def main() -> int:
    """Print what became of each mutant."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("count", nargs="?", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--under", default="dmft")
    parser.add_argument("--fresh", action="store_true")
    given = parser.parse_args()
    every = list(mutants(given.under))
    chosen = random.Random(given.seed).sample(every, min(given.count, len(every)))
    print(f"{len(chosen)} of {len(every)} mutants", flush=True)
    known = measured(given.fresh)

    with ThreadPoolExecutor(given.jobs) as pool:
        found = list(pool.map(functools.partial(noticing, known=known), chosen))
    survivors = [m for m, test in zip(chosen, found, strict=True) if not test]
    for mutant in survivors:
        print(f"\n{mutant.diff()}", end="")
    print(f"\n{len(chosen) - len(survivors)} of {len(chosen)} noticed")
    return int(len(survivors) > MOST_SURVIVORS * len(chosen))


if __name__ == "__main__":
    sys.exit(main())
