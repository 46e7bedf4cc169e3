"""The command `dmft`: arguments in, exit code out. Nothing heavy is imported for the help."""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn, TextIO

from dmft.cli.schema import EXAMPLE, describe
from dmft.errors import BadParameter, DmftError, MissingExtra
from dmft.names import VERSION

OK, CRASHED, USAGE, NUMERICAL, TOLERANCE, INTERRUPTED = 0, 1, 2, 3, 4, 130

DESCRIPTION = """\
Mean-field theory of learning: derive, solve and test the equations of motion of
two-layer networks, from a declaration file.

  dmft example > model.toml            write a declaration to start from
  dmft derive model.toml               print the equations of motion
  dmft solve model.toml --plot a.png   integrate them and plot the result
  dmft escape model.toml               when does learning start?
  dmft simulate model.toml --theory --plot b.png
                                       finite-dimensional runs, plotted over the theory
  dmft limits model.toml               what can be learned, and how many samples it takes
  dmft phase model.toml --plot c.pdf   a diagram over two parameters
  dmft boundary model.toml             curves along which a measure changes sign or label
  dmft sweep run model.toml            any number of parameters, resumable
  dmft export model.toml rhs.c         the right-hand side as C, JavaScript, Python, JAX, a notebook
  dmft explore model.toml              a page with sliders in the browser, served on this machine
  dmft warm [model.toml]               compile ahead (images, clusters)
"""

COMMANDS = {
    "derive": "print the equations of motion and the population risk",
    "solve": "integrate the equations from the start to t_max",
    "simulate": "run the algorithm itself at finite dimension, with error bars",
    "escape": "time at which the risk (or an overlap) crosses its threshold",
    "limits": "static limits of the label: thresholds, Bayes-optimal, empirical risk minimisation",
    "phase": "a diagram over two parameters, in parallel on the local cores",
    "boundary": "curves of two parameters along which a measure changes its sign or its label",
    "sweep": "a measure over any number of parameters, with a store: run, status, resume, collect, "
    "work, submit",
    "export": "write the right-hand side as a separate file (.py, .c, .js, _jax.py, .ipynb)",
    "explore": "a page with sliders, curves and a phase diagram, in the browser or as one file",
    "warm": "compile the code of a file, or of the library, ahead of its first use",
    "example": "print an example declaration file",
}


def _epilog() -> str:
    return f"""\
declaration file (TOML; unknown tables and keys raise an error):
{describe()}

formulas: + - * / **, numbers, pi, E, erf erfc exp sqrt tanh sin cos sinh cosh log sign Abs relu
  Heaviside, He(n, z) = hermite(n, z) (probabilists'), z (the local field), letters of [parameters].
  They are parsed, never evaluated as Python.

time: t = steps * learning_rate / (p d); risk: E(f* - f)^2 / 2 without label noise.

exit codes: 0 done; 2 invalid request; 3 a numerical failure (diverged, not finite, left
  the domain, out of budget); 4 tolerance not met; 130 interrupted (finished results are kept).
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
        command.add_argument("action", choices=actions, help="what to do with the sweep")
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
        help="another value for a letter of [parameters]; may be repeated",
    )  # fmt: skip
    if name == "export":
        command.add_argument("out", metavar="OUT", help="file to write; its suffix says what")
        return
    if name == "explore":
        return _add_explorer_arguments(command)
    if name == "warm":
        command.add_argument("--no-progress", action="store_true", help="say nothing on the way")
        return
    command.add_argument("--latex", metavar="OUT.tex", help="write the equations as a document")
    command.add_argument("--json", action="store_true", help="print the result as JSON")
    if name == "derive":
        return
    command.add_argument("--plot", metavar="OUT.png", help="draw the result (png, pdf or svg)")
    command.add_argument("--save", metavar="OUT.nc", help="save the result (netCDF)")
    command.add_argument("--no-progress", action="store_true", help="no progress bar")
    if name == "simulate":
        command.add_argument(
            "--theory", action="store_true", help="solve the equations too and compare"
        )


def _add_sweep_arguments(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("--workers", type=_count, metavar="N", help="threads; one a core by default")
    add("--scheduler", metavar="ADDRESS", help="run on this Dask cluster (extra dask)")
    add("--task", type=int, metavar="I", default=0, help="work: number of this part, from 0")
    add("--of", type=_count, metavar="N", help="work, submit: number of parts (submit: 100)")
    add("--yes", action="store_true", help="submit: hand the script to sbatch")


def _add_explorer_arguments(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("--static", metavar="PAGE.html", help="write one file that needs no server, and end")
    add("--port", type=int, default=0, help="of 127.0.0.1; any that is free by default")
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
        from dmft.cli.again import solve_again

        code = solve_again(arguments)
        if code is not None:
            return code
    from dmft.cli.run import run_command

    return run_command(arguments)


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
