"""What a newcomer does: the tutorial's commands, and nothing else, in a clean environment.

    python tests/site/newcomer.py            from the install to the first phase diagram
    python tests/site/newcomer.py --print    the steps alone

Commands and cells are read from docs/tutorial.md, in a clone of the last commit, with a cache of
its own. Prints the number of steps and the machine time of each part; ends with 1 where one fails.
"""

from __future__ import annotations

import ast
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"```(?:(sh)|\{code-cell\} python3)\n(.*?)```", re.DOTALL)

PICTURE = 'np.ravel(axes)[0].figure.savefig("phase_diagram.png")\n'


def steps(text: str) -> tuple[list[str], list[str]]:
    """Commands, and cells up to the first phase diagram; hidden cells are the site's tests."""
    commands, cells = [], []
    for shell, body in BLOCK.findall(text):
        if ":tags: [remove-cell]" in body:
            continue
        (commands if shell else cells).append(body.strip())
        if "dmft.phase_diagram(" in body:
            return commands, cells
    raise SystemExit("the tutorial draws no phase diagram")


def shown(cell: str) -> str:
    """A cell that makes the page of its last value, as a notebook does."""
    last = ast.parse(cell).body[-1]
    if not isinstance(last, ast.Expr) or isinstance(last.value, ast.Call):
        return cell
    before = cell.splitlines()[: last.lineno - 1]
    value = ast.unparse(last)
    return "\n".join([*before, f"getattr({value}, '_repr_html_', {value}.__repr__)()"])


def spent() -> float:
    """CPU seconds of the processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def run(what: str, command: str | list[str], where: Path, env: dict[str, str]) -> None:
    """Run one part and print what it took."""
    began, before = time.perf_counter(), spent()
    shell = isinstance(command, str)
    done = subprocess.run(
        command, shell=shell, cwd=where, env=env, capture_output=True, text=True, check=False
    )
    seconds = time.perf_counter() - began
    print(f"{what}: {spent() - before:.1f} s of CPU, {seconds:.1f} s by the clock", flush=True)
    if done.returncode:
        print(done.stdout[-2000:], done.stderr[-4000:], sep="\n")
        raise SystemExit(1)


def main() -> None:
    commands, cells = steps((ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8"))
    print(f"{len(commands)} command and {len(cells)} cells")
    if "--print" in sys.argv:
        print("\n\n".join([*commands, *cells]))
        return
    with tempfile.TemporaryDirectory() as scratch:
        clone, home = Path(scratch, "dmft"), Path(scratch, "home")
        home.mkdir()
        subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
        network = re.compile(r"LANG|PIP_.*|.*CERT.*|.*CA_BUNDLE|.*_proxy", re.IGNORECASE)
        env = {name: value for name, value in os.environ.items() if network.fullmatch(name)}
        # The interpreter that is there before anything of ours.
        env["PATH"] = f"{Path(sys.base_prefix, 'bin')}:/usr/bin:/bin"
        env |= {"HOME": str(home), "MPLBACKEND": "Agg", "DMFT_CACHE_DIR": str(home / "dmft")}
        for number, command in enumerate(commands, 1):
            run(f"command {number}", command, clone, env)
        script = "\n\n".join([*map(shown, cells), PICTURE])
        (clone / "tutorial.py").write_text(script, encoding="utf-8")
        run("cells", [str(clone / ".venv/bin/python"), "tutorial.py"], clone, env)
        size = (clone / "phase_diagram.png").stat().st_size
        print(f"phase diagram: {size // 1000} kB")


if __name__ == "__main__":
    main()
