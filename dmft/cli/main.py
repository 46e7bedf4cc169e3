"""The command `dmft`: arguments in, exit code out. Nothing heavy is imported for the help."""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

from dmft.cli.file import load, question
from dmft.cli.schema import EXAMPLE, describe
from dmft.errors import BadParameter, DmftError, MissingExtra
from dmft.names import VERSION, Status
from dmft.progress import as_asked

if TYPE_CHECKING:
    from dmft.cli.toml import Declaration
    from dmft.solvers.trajectory import Trajectory

OK, CRASHED, USAGE, NUMERICAL, TOLERANCE, INTERRUPTED = 0, 1, 2, 3, 4, 130

DESCRIPTION = """\
Mean-field theory of learning: derive, solve and test the equations of motion of
neural networks that are declared in a file.

  dmft example > model.toml            write an example of a declaration file
  dmft derive model.toml               print the equations of motion
  dmft solve model.toml --plot a.png   integrate the equations and plot the result
  dmft escape model.toml               compute when learning starts
  dmft simulate model.toml --theory --plot b.png
                                       simulate the algorithm and plot it over the theory
  dmft limits model.toml               compute what can be learned from how many samples
  dmft phase model.toml --plot c.pdf   compute a diagram over two parameters
  dmft boundary model.toml             trace curves along which a measure changes
  dmft sweep run model.toml            evaluate a measure over any number of parameters
  dmft export model.toml rhs.c         write C, JavaScript, Python, JAX or a notebook
  dmft explore model.toml              open a page with sliders in the browser
  dmft warm [model.toml]               compile code in advance
"""

COMMANDS = {
    "derive": "print the equations of motion and the population risk",
    "solve": "integrate the equations from the start to t_max",
    "simulate": "simulate the algorithm in finite dimension, with error bars",
    "escape": "compute the time at which the risk (or an overlap) crosses a threshold",
    "limits": "compute static limits: thresholds, Bayes-optimal errors, risk minimisation",
    "phase": "compute a diagram over two parameters, in parallel on the local cores",
    "boundary": "trace curves in two parameters along which a measure changes sign or label",
    "sweep": "evaluate a measure over any number of parameters, with a store: run, status, resume, "
    "collect, work, submit",
    "export": "write the right-hand side to a self-contained file (.py, .c, .js, _jax.py, .ipynb)",
    "explore": "open a page with sliders, curves and a phase diagram, or write it to a file",
    "warm": "compile the equations of a file, or the functions of the library, in advance",
    "example": "print an example declaration file",
}


def _epilog() -> str:
    return f"""\
declaration file (TOML; unknown tables and keys raise an error):
{describe()}

formulas: + - * / **, numbers, pi, E, erf erfc exp sqrt tanh sin cos sinh cosh log sign Abs relu
  Heaviside, He(n, z) = hermite(n, z) (probabilists'), z (the local field), symbols of
  [parameters]. They are parsed, never evaluated as Python.

time: t = steps * learning_rate / (p d); risk: E(f* - f)^2 / 2 without label noise.

exit codes: 0 done; 2 invalid request; 3 numerical failure (diverged, not finite, left the
  domain, out of steps or time); 4 tolerance not met; 130 interrupted (finished results are kept).
  Results go to standard output, everything else to standard error.

an example file (also: dmft example):

{_indent(EXAMPLE)}"""


def _indent(text: str) -> str:
    return "".join(f"  {line}\n" if line else "\n" for line in text.splitlines())


class _Parser(argparse.ArgumentParser):
    """argparse, with a pointer to the help that teaches."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        raise SystemExit(_fail(f"{message}; see dmft --help", USAGE))


def build_parser() -> argparse.ArgumentParser:
    """Return the argument parser of the command."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = _Parser(prog="dmft", description=DESCRIPTION, epilog=_epilog(), formatter_class=raw)
    parser.add_argument("--version", action="version", version=f"dmft {VERSION}")
    commands = parser.add_subparsers(
        dest="command", metavar="COMMAND", required=True, parser_class=_Parser
    )
    for name, text in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=f"{text}.")
        if name != "example":
            _add_arguments(command, name)
    return parser


def _add_arguments(command: argparse.ArgumentParser, name: str) -> None:
    if name == "sweep":
        actions = ("run", "status", "resume", "collect", "work", "submit")
        command.add_argument("action", choices=actions, help="action")
        _add_sweep_arguments(command)
    if name == "explore":
        words = "declaration file; the example (dmft example) by default"
        command.add_argument("file", metavar="FILE.toml", nargs="?", help=words)
    elif name == "warm":
        words = "declaration file; without one, the functions of the library are compiled"
        command.add_argument("file", metavar="FILE.toml", nargs="?", help=words)
    else:
        words = "declaration file (see dmft --help)"
        command.add_argument("file", metavar="FILE.toml", help=words)
    command.add_argument(
        "--set", metavar="NAME=VALUE", action="append", default=[], dest="overrides",
        help="value of a symbol of [parameters]; may be repeated",
    )  # fmt: skip
    if name == "export":
        command.add_argument(
            "out", metavar="OUT", help="file to write; its suffix selects the format"
        )
        return
    if name == "explore":
        return _add_explorer_arguments(command)
    if name == "warm":
        command.add_argument("--no-progress", action="store_true", help="show no progress")
        return
    command.add_argument("--latex", metavar="OUT.tex", help="write the equations as a document")
    command.add_argument("--json", action="store_true", help="print the result as JSON")
    if name == "derive":
        return
    command.add_argument("--plot", metavar="OUT.png", help="draw the result (png, pdf or svg)")
    command.add_argument("--save", metavar="OUT.nc", help="save the result (netCDF)")
    command.add_argument("--no-progress", action="store_true", help="show no progress bar")
    if name == "simulate":
        command.add_argument(
            "--theory", action="store_true", help="also solve the equations, and compare"
        )


def _add_sweep_arguments(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("--workers", type=_count, metavar="N", help="number of threads; one per core by default")
    add("--scheduler", metavar="ADDRESS", help="run on this Dask cluster (extra dask)")
    add("--task", type=int, metavar="I", default=0, help="work: number of this part, from 0")
    add("--of", type=_count, metavar="N", help="work, submit: number of parts (submit: 100)")
    add("--yes", action="store_true", help="submit: pass the script to sbatch")


def _add_explorer_arguments(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add(
        "--static",
        metavar="PAGE.html",
        help="write the page to a file that needs no server, and exit",
    )
    add("--port", type=int, default=0, help="port of 127.0.0.1; any free port by default")
    add("--no-browser", action="store_true", help="print the address only")


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not an integer >= 1")
    return int(text)


def check_outputs(arguments: argparse.Namespace) -> None:
    """Refuse an output that cannot be written, before anything is computed."""
    wanted = {
        "latex": ((".tex",), ()),
        "plot": ((".png", ".pdf", ".svg"), (("matplotlib", "plot"),)),
        "save": ((".nc",), (("h5netcdf", "io"),)),
    }
    for option, (suffixes, needs) in wanted.items():
        given = getattr(arguments, option, None)
        if given is None:
            continue
        path = Path(given)
        if path.suffix.lower() not in suffixes:
            raise BadParameter(f"--{option} {given}: the name must end in {' or '.join(suffixes)}")
        if not path.absolute().parent.is_dir():
            raise BadParameter(f"--{option} {given}: there is no folder {path.parent}")
        if path.is_dir():
            raise BadParameter(f"--{option} {given}: is a folder")
        for module, extra in needs:
            _check_module(module, extra, f"--{option}")


def _check_module(module: str, extra: str, option: str) -> None:
    import importlib.util

    if importlib.util.find_spec(module) is None:
        raise MissingExtra(f'{option} needs {module}: pip install "dmft[{extra}]"')


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    Examples
    --------
    >>> from dmft.cli.main import main
    >>> main(["solve", "absent.toml"])
    2
    """
    _tolerate_narrow_encodings()
    arguments = build_parser().parse_args(argv)
    if arguments.command == "example":
        print(EXAMPLE, end="")
        return OK
    try:
        with warnings.catch_warnings():
            arguments.warnings = []  # texts of those that were shown
            warnings.showwarning = functools.partial(_show_warning, arguments.warnings)
            check_outputs(arguments)
            return _run(arguments)
    except BrokenPipeError:
        # The reader (head, less) has gone: stop without a traceback, also at interpreter exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except KeyboardInterrupt:
        return _fail("interrupted", INTERRUPTED)
    except DmftError as error:
        return _fail(str(error), USAGE)
    except MemoryError as error:
        reason = str(error) or "more than this machine has"
        words = "not enough memory: use a smaller width, dim, number of seeds or of points"
        return _fail(f"{words} ({reason})", USAGE)
    except OSError as error:
        return _fail(f"{error.filename or 'output'}: {error.strerror or error}", USAGE)


def _run(arguments: argparse.Namespace) -> int:
    """Run the command; what was solved before needs neither SymPy nor Numba."""
    if arguments.command == "solve":
        code = _solve_again(arguments)
        if code is not None:
            return code
    return run_command(arguments)


def _solve_again(arguments: argparse.Namespace) -> int | None:
    """Solve a file by its record, report and return the exit code; None where there is none."""
    from dmft.cli.report import exit_code, progress_option, report_run

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
        """Complete a run that ended in another way, as when it was interrupted."""
        from dmft.cli.commands import derived
        from dmft.cli.toml import declaration_of
        from dmft.workflow.solving.one_pass import finish

        declared = override(declaration_of(Path(arguments.file), raw), arguments.overrides)
        return finish(run, derived(declared), run.provenance["rtol"])

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


def run_command(arguments: argparse.Namespace) -> int:
    """Run one command on its declaration and return the exit code."""
    from dmft.cli import commands, large
    from dmft.cli.report import exit_code, progress_option
    from dmft.cli.toml import read_declaration

    if arguments.command == "warm" and arguments.file is None:
        if arguments.overrides:
            raise BadParameter("--set changes parameters of a file: dmft warm FILE.toml --set ...")
        commands.warm_library(progress_option(arguments))
        return exit_code(Status.OK)
    read = commands.example() if arguments.file is None else read_declaration(arguments.file)
    declared = override(read, arguments.overrides)
    if getattr(arguments, "latex", None):
        commands.write_latex(declared, arguments.latex)
    known = {**vars(commands), **vars(large)}
    with as_asked(progress_option(arguments)):
        status: Status = known[f"{arguments.command}_command"](declared, arguments)
    return exit_code(status)


def override(declared: Declaration, settings: list[str]) -> Declaration:
    """Apply --set NAME=VALUE to the letters of [parameters]."""
    from dmft.emit.formula import parse_expression

    values = dict(declared.parameters)
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals or name not in values:
            raise BadParameter(
                f"--set {setting}: write NAME=VALUE with a name from [parameters]: {sorted(values)}"
            )
        values[name] = float(parse_expression(text, {}))
    return replace(declared, parameters=values)


def _fail(message: str, code: int) -> int:
    print(f"dmft: {message}", file=sys.stderr)
    return code


def _show_warning(
    shown: list[str],
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    shown.append(str(message))
    print(f"dmft: warning: {message}", file=sys.stderr)


def _tolerate_narrow_encodings() -> None:
    """Greek in the equations must not crash a terminal without it."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure: Any = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            with contextlib.suppress(ValueError, OSError):
                reconfigure(errors="backslashreplace")


if __name__ == "__main__":
    raise SystemExit(main())
