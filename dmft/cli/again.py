"""`dmft solve` of a file that was solved before: by its record, without SymPy and Numba."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dmft.cli.file import load, question
from dmft.cli.report import exit_code, progress_option, report_run
from dmft.errors import DmftError
from dmft.names import Status

if TYPE_CHECKING:
    from dmft.solvers.trajectory import Trajectory


def solve_again(arguments: argparse.Namespace) -> int | None:
    """Solve, report and return the exit code; None where the long way is to be gone."""
    if arguments.latex:
        return None
    try:
        raw = load(Path(arguments.file))
    except DmftError:  # the long way says it
        return None
    kept = _found(raw, arguments.overrides)
    if kept is None:
        return None

    def finish(run: Trajectory) -> Trajectory:
        return _finished(arguments, raw, run)

    run = kept.solve(progress_option(arguments), finish)
    report_run(run, arguments)
    return exit_code(Status(run.status))


def _found(raw: Mapping[str, Any], overrides: Sequence[str]) -> Any:
    """Record of a file with these settings; None where there is none."""
    try:
        from dmft.workflow.kept_runs import find, key_of

        return find(key_of(question(raw, overrides)))
    except (TypeError, ValueError, OSError, ImportError):
        return None


def _finished(arguments: argparse.Namespace, raw: dict[str, Any], run: Trajectory) -> Trajectory:
    """Complete a run that ended in another way, as when it was interrupted."""
    from dmft.cli.commands import derived
    from dmft.cli.run import override
    from dmft.cli.toml import declaration_of
    from dmft.workflow.solving.one_pass import finish

    declared = override(declaration_of(Path(arguments.file), raw), arguments.overrides)
    return finish(run, derived(declared), run.provenance["rtol"])
