"""Keeping what the next `dmft solve` of a file needs (`dmft.cli.again` reads it)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dmft.errors import DmftError

if TYPE_CHECKING:
    from dmft.cli.toml import Declaration
    from dmft.solvers.trajectory import Trajectory


def question(raw: Mapping[str, Any], overrides: Sequence[str]) -> list[Any]:
    """All that a run depends on beside the library and the machine, in the order of the file."""
    return ["dmft solve", raw, list(overrides)]


def remember(
    declared: Declaration, overrides: Sequence[str], options: Mapping[str, Any], run: Trajectory
) -> None:
    """Keep what solves this file again, as `options` say it; where that cannot be kept, nothing."""
    from dmft.workflow.kept_runs import keep, key_of
    from dmft.workflow.solving.one_pass import request_of

    try:
        key = key_of(question(declared.raw, overrides))
        given = request_of(run.problem, declared.start(), options)
    except (TypeError, ValueError, OSError, ImportError, DmftError):
        return
    if given is not None:
        keep(key, given, run)
