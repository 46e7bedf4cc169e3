"""Commands for many points: `dmft phase`, `dmft boundary`, `dmft sweep run|status|...`."""

from __future__ import annotations

import argparse
import contextlib
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from dmft.cli.commands import derived, run_options
from dmft.cli.report import keep, log, print_json, progress_option, table
from dmft.cli.toml import Axis, Declaration
from dmft.errors import BadParameter, MissingExtra
from dmft.model import GradientDescent
from dmft.names import Status

TASKS = 100


def measured(declared: Declaration, name: str) -> dict[str, Any]:
    """Keywords of a built-in measure: equations, start, horizon, thresholds, fixed parameters."""
    table = declared.table(name)
    measure = table["measure"]
    spanned = {axis.name for axis in declared.axes[name]}
    keys: dict[str, Any] = {}
    if measure != "growth_rate":
        keys = run_options(declared, saved=False)
    if measure == "escape_time":
        keys |= declared.options.get("escape", {})
    if "overlap" in table:
        if measure != "learned_directions":
            raise BadParameter(
                f'{declared.path}, [{name}] overlap: requires measure = "learned_directions"; '
                "the overlap of an escape time belongs to [escape]"
            )
        keys["overlap"] = table["overlap"]
    keys |= {n: v for n, v in declared.parameters.items() if n not in spanned}
    return {**keys, "equations": derived(declared), "start": declared.start()}


def phase_command(declared: Declaration, arguments: argparse.Namespace) -> Status:
    """Compute a diagram; failed points are part of it."""
    from dmft.workflow.diagrams.sweep import phase_diagram

    options = dict(declared.table("phase"))
    x, y = declared.axes["phase"]
    measure = options.pop("measure")
    options.pop("overlap", None)
    if "store" in options:
        options["store"] = declared.path.parent / str(options["store"])
    # How a run of a flow ends is known once it is solved: the risk comes with its status.
    risk = measure == "status" and not isinstance(declared.algorithm, GradientDescent)
    diagram = phase_diagram(
        "final_risk" if risk else measure,
        (x.name, x.values()),
        (y.name, y.values()),
        quantity=measure,
        progress=progress_option(arguments),
        **options,
        **measured(declared, "phase"),
    )
    if arguments.json:
        print_json(phase_facts(diagram))
    else:
        print(diagram)
    keep(arguments, diagram, diagram)
    return Status.OK if diagram.complete else Status.INTERRUPTED


def phase_facts(diagram: Any) -> dict[str, Any]:
    """A diagram for machines; `computed` stands beside values that are interpolated in part."""
    facts = {
        "quantity": diagram.quantity,
        "x": {"name": diagram.x_name, "values": diagram.x},
        "y": {"name": diagram.y_name, "values": diagram.y},
        "values": diagram.values,
        "status": diagram.status,
        "count": diagram.count(),
        "solves": int(diagram.computed.sum()),
    }
    if "adaptive" in diagram.provenance:
        facts["computed"] = diagram.computed
    if diagram.names:
        facts["labels"] = diagram.names
    return facts


def boundary_command(declared: Declaration, arguments: argparse.Namespace) -> Status:
    """Trace boundary curves."""
    from dmft.workflow.diagrams.boundary import boundary

    options = dict(declared.table("boundary"))
    options.pop("overlap", None)
    if "store" in options:
        options["store"] = declared.path.parent / str(options["store"])
    x, y = declared.axes["boundary"]
    found = boundary(
        options.pop("measure"),
        (x.name, x.start, x.stop),
        (y.name, y.start, y.stop),
        grid=(x.points, y.points),
        log=tuple(axis.name for axis in (x, y) if axis.scale == "log"),
        progress=progress_option(arguments),
        **options,
        **measured(declared, "boundary"),
    )
    if arguments.json:
        curves = [
            {
                "labels": list(c.labels),
                "ends": list(c.ends),
                x.name: c.x,
                y.name: c.y,
                "error": c.error,
            }
            for c in found.curves
        ]
        facts = {"status": found.status, "solves": dict(found.solves), "stored": found.stored}
        print_json({"curves": curves, "triple_points": found.triple_points, **facts})
    else:
        print(found)
        for curve in found.curves:
            words = " | ".join(map(str, curve.labels))
            print(f"{words} (from {curve.ends[0]} to {curve.ends[1]})")
            print(table({x.name: curve.x, y.name: curve.y, "+-": curve.error}))
    if found.message:
        log(found.message)
    keep(arguments, found, found)
    status: Status = found.status
    return status


def sweep_command(declared: Declaration, arguments: argparse.Namespace) -> Status:
    """Run, watch, collect or hand out a sweep."""
    options = declared.table("sweep")
    store = declared.path.parent / str(options["store"])
    axes = {axis.name: axis.values() for axis in declared.axes["sweep"]}
    keeps = arguments.action in ("run", "resume", "collect")
    for option in ("plot", "save"):
        if getattr(arguments, option) and not keeps:
            raise BadParameter(
                f"--{option} requires sweep run, resume or collect: other actions return no values"
            )
    if arguments.plot and len(axes) != 2:
        raise BadParameter(f"--plot draws sweeps over two parameters, this one has {list(axes)}")
    if arguments.action == "submit":
        return submit(declared, arguments)
    if arguments.action in ("status", "collect"):
        from dmft.analysis.sweeps.run_sweep import collect
        from dmft.analysis.sweeps.store import open_store
        from dmft.workflow.diagrams.measures import chosen_measure

        measure = declared.table("sweep")["measure"]
        chosen = chosen_measure(measure, None, False, **measured(declared, "sweep"))
        found = collect(axes, open_store(store, chosen.known, (measure,)))
    else:
        found = run(declared, arguments, store, axes)
    report(found, arguments, declared.axes["sweep"])
    if keeps:
        keep(arguments, found, *shown(found))
    return Status.OK if found.complete or arguments.action != "run" else Status.INTERRUPTED


def run(
    declared: Declaration, arguments: argparse.Namespace, store: Path, axes: dict[str, list[float]]
) -> Any:
    """Compute what is missing."""
    from dmft.workflow.diagrams.sweep import sweep

    part = (0, 1)
    if arguments.action == "work":
        if arguments.of is None:
            raise BadParameter("sweep work needs --of N: the number of parts (and --task I)")
        part = (arguments.task, arguments.of)
    with cluster(arguments.scheduler) as executor:
        return sweep(
            axes, declared.table("sweep")["measure"], store=store, executor=executor, part=part,
            workers=arguments.workers, progress=progress_option(arguments),
            **measured(declared, "sweep"),
        )  # fmt: skip


def cluster(scheduler: str | None) -> Any:
    """Threads, or a client of a Dask cluster, to be used in a `with` statement."""
    if scheduler is None:
        return contextlib.nullcontext("threads")
    try:
        from distributed import Client
    except ImportError as error:
        raise MissingExtra('--scheduler needs Dask: pip install "dmft[dask]"') from error
    return Client(scheduler)


def report(found: Any, arguments: argparse.Namespace, axes: tuple[Axis, ...]) -> None:
    """Print how many points there are of each status, and the range of the values."""
    total = len(found.points)
    facts = {
        "points": total,
        "count": found.count(),
        "computed": found.computed,
        "reused": found.reused,
        "torn": found.torn,
        "complete": found.complete,
    }
    if arguments.json:
        if arguments.action == "collect":
            facts["axes"] = {axis.name: axis.values() for axis in axes}
            facts |= {"values": dict(found.values), "status": found.status}
            facts["horizon"] = found.horizon
        print_json(facts)
        return
    print(f"{', '.join(found.values)} at {total} points")
    for status, number in found.count().items():
        words = "not computed" if status == Status.INTERRUPTED else status
        print(f"  {words}: {number}")
    print(f"  computed now: {found.computed}")
    print(f"  from the store: {found.reused}")
    if found.torn:
        print(f"  damaged records, left out: {found.torn}")
    for name, values in found.values.items():
        if np.any(np.isfinite(values)):
            print(f"  {name}: {np.nanmin(values):.7g} to {np.nanmax(values):.7g}")


def shown(found: Any) -> tuple[Any, ...]:
    """What of a sweep has a picture: one over two parameters."""
    if len(found.points.shape) != 2:
        return (found,)
    return (found.diagram(),)


def submit(declared: Declaration, arguments: argparse.Namespace) -> Status:
    """Print (or submit) the script of a job array whose tasks need no scheduler but SLURM's."""
    tasks = arguments.of or TASKS
    settings = [part for s in arguments.overrides for part in ("--set", s)]
    command = [
        sys.executable, "-m", "dmft.cli.main", "sweep", "work", str(declared.path.resolve()),
        "--of", str(tasks), "--no-progress", *settings,
    ]  # fmt: skip
    script = f"""#!/bin/bash
#SBATCH --job-name=dmft-{declared.path.stem}
#SBATCH --array=0-{tasks - 1}
#SBATCH --cpus-per-task=1
#SBATCH --requeue
# Each task computes every {tasks}th point and appends to its own shard of the store; a task that is
# killed or requeued computes only what the store lacks.
export OMP_NUM_THREADS=1
{shlex.join(command)} --task "$SLURM_ARRAY_TASK_ID" --workers "${{SLURM_CPUS_PER_TASK:-1}}"
"""
    if not arguments.yes:
        print(script, end="")
        return Status.OK
    if shutil.which("sbatch") is None:
        raise BadParameter(
            "--yes: there is no sbatch on this machine; without it, print the script"
        )
    done = subprocess.run(["sbatch"], input=script, text=True, capture_output=True, check=False)
    if done.returncode:
        raise BadParameter(f"sbatch failed: {done.stderr.strip()}")
    print(done.stdout, end="")
    return Status.OK
