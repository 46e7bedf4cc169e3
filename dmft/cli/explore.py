"""`dmft explore`: the page of a declaration, served on this machine or written as one file."""

from __future__ import annotations

import argparse
import tomllib
from pathlib import Path
from typing import Any

from dmft.cli.report import log, written
from dmft.cli.schema import EXAMPLE
from dmft.cli.toml import BUILT_IN, Axis, Declaration, declaration_of
from dmft.errors import BadParameter
from dmft.names import Status

# Final time of files that do not say one.
T_MAX = 100.0
TITLE = "An erf committee learns another (Saad and Solla)"


def example() -> Declaration:
    """The declaration of `dmft example`."""
    return declaration_of(Path("example.toml"), {"title": TITLE, **tomllib.loads(EXAMPLE)})


def explore_command(declared: Declaration, arguments: argparse.Namespace) -> Status:
    """Serve the page until Ctrl-C, or write it."""
    target = arguments.static
    if target is not None and not Path(target).absolute().parent.is_dir():
        raise BadParameter(f"--static {target}: there is no folder {Path(target).parent}")
    session = session_of(declared)
    if target is not None:
        from dmft.explorer.static import write_static

        log(written("page", str(write_static(session, target))))
        return Status.OK
    from dmft.explorer.server import serve

    def ready(url: str) -> None:
        print(url, flush=True)
        log("The page answers at this address, on this machine only; Ctrl-C ends it.")

    serve(session, arguments.port, browser=not arguments.no_browser, ready=ready)
    return Status.OK


def session_of(declared: Declaration) -> Any:
    """What the page shows of a declaration: axes of its diagrams are ends of sliders."""
    from dmft.explorer.session import Session

    solve = declared.options.get("solve", {})
    axes = [axis for table in declared.axes.values() for axis in table]
    middles = {axis.name: middle(axis) for axis in axes if axis.name not in BUILT_IN}
    return Session(
        declared.model,
        declared.algorithm,
        start=start_of(declared),
        t_max=solve.get("t_max", T_MAX),
        dim=declared.dim,
        ranges={axis.name: (axis.start, axis.stop) for axis in axes},
        title=str(declared.raw.get("title", declared.path.stem)),
        values={**middles, **declared.numbers("explore")},
        tables=declared.raw,
        options={n: v for n, v in solve.items() if n in ("method", "rtol", "atol", "events")},
    )


def middle(axis: Axis) -> float:
    """Value of a letter that only an axis gives.

    Examples
    --------
    >>> middle(Axis("gamma", 0.1, 10.0, 5, "log"))
    1.0
    """
    if axis.scale == "log":
        return float((axis.start * axis.stop) ** 0.5)
    return (axis.start + axis.stop) / 2


def start_of(declared: Declaration) -> Any:
    """Where the student starts: numbers, or how it is drawn."""
    keys = declared.options.get("start")
    if keys is None:
        return None
    if keys["kind"] != "random":
        return declared.start()
    return {name: value for name, value in keys.items() if name != "kind"}
