"""Flip one sign of the table of closed forms at a time: the tests must notice each of them.

Run by hand (about two minutes): ``python tests/gaussian/mutate_table.py``; exit code 1 names the
survivors. It works on a copy; the first run, without a change, must pass.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
TESTS = (
    "gaussian/test_switching_closed_forms.py",
    "gaussian/test_gaussian_vectors.py",
    "gaussian/test_gaussian_law.py",
    "special/test_orthant.py",
)
MUTATIONS = (
    ("gaussian/law.py", "", ""),
    ("gaussian/closed_forms.py", "4 * joint - sp.erf(first)", "4 * joint + sp.erf(first)"),
    ("gaussian/closed_forms.py", "- sp.erf(second) - 1", "- sp.erf(second) + 1"),
    ("gaussian/closed_forms.py", "(2 / sp.pi, CorrelationAngle(", "(-2 / sp.pi, CorrelationAngle("),
    ("gaussian/closed_forms.py", "(2 / sp.pi, _arcsine(", "(-2 / sp.pi, _arcsine("),
    ("gaussian/closed_forms.py", "else 1 / (2 * a**2)", "else -1 / (2 * a**2)"),
    ("gaussian/closed_forms.py", "return sp.sign(law.C", "return -sp.sign(law.C"),
    ("gaussian/closed_forms.py", "turn *= 1 if a is sp.oo else sp.sign(a)", "turn *= 1"),
    ("gaussian/orthant.py", "return 4 / mp.pi**2 *", "return -4 / mp.pi**2 *"),
    ("gaussian/orthant.py", "uv / uu) + xv", "uv / uu) - xv"),
    ("gaussian/orthant.py", "+ terms * inverse_root", "- terms * inverse_root"),
    ("gaussian/orthant.py", "total += 4 / sp.pi**2", "total -= 4 / sp.pi**2"),
    ("gaussian/pair.py", "sqrt(first * second - cross**2)", "sqrt(first * second + cross**2)"),
    ("gaussian/law.py", "times(sp.S.NegativeOne, C(q, x)", "times(C(q, x)"),
    ("gaussian/law.py", "if x == q else m(x) + times", "if x == q else m(x) - times"),
    ("gaussian/switch.py", "gap = first - other", "gap = other - first"),
    ("gaussian/factor.py", "self.deltas.append(-c / a)", "self.deltas.append(c / a)"),
    ("gaussian/product.py", "law.condition(y, -c)", "law.condition(y, c)"),
    ("special/orthant.py", "value = R[a, b] * four +", "value = -R[a, b] * four +"),
    ("special/orthant.py", "+ E[c, d] * cross", "- E[c, d] * cross"),
    ("special/orthant.py", "value += R[b, c] * E[a, c]", "value -= R[b, c] * E[a, c]"),
    ("special/orthant.py", "value += 2.0 / math.pi * terms", "value -= 2.0 / math.pi * terms"),
    ("special/orthant.py", "return 4.0 / math.pi**2", "return -4.0 / math.pi**2"),
    ("special/orthant.py", "= side * pair_of", "= -side * pair_of"),
)


def passes(copy: Path) -> bool:
    """Whether the tests pass on the copy."""
    places = {"PYTHONPATH": str(copy), "NUMBA_CACHE_DIR": str(copy / "cache")}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
    command += [f"tests/{name}" for name in TESTS]
    run = subprocess.run(
        command, cwd=copy, capture_output=True, env={**os.environ, **places}, check=False
    )
    return run.returncode == 0


def main() -> int:
    """Number of mutations that no test noticed."""
    survivors = 0
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in ("dmft", "tests"):
            shutil.copytree(ROOT / name, copy / name)
        shutil.copy(ROOT / "pyproject.toml", copy)
        for name, text, change in MUTATIONS:
            path = copy / "dmft" / name
            original = path.read_text()
            assert text in original, f"{text!r} is no longer in {name}"
            path.write_text(original.replace(text, change, 1))
            wrong = passes(copy) != (text == "")
            survivors += wrong
            print("WRONG " if wrong else "fine  ", name, change or "(unchanged)", flush=True)
            path.write_text(original)
    return int(survivors > 0)


if __name__ == "__main__":
    sys.exit(main())
