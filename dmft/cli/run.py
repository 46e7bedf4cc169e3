"""One command on its declaration, from the arguments to the exit code."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace

from dmft.cli import commands, large
from dmft.cli.report import exit_code, progress_option
from dmft.cli.toml import Declaration, read_declaration
from dmft.emit.formula import parse_expression
from dmft.errors import BadParameter
from dmft.names import Status
from dmft.progress import as_asked


def run_command(arguments: argparse.Namespace) -> int:
    """Run one command on its declaration and return the exit code."""
    if arguments.command == "warm" and arguments.file is None:
        if arguments.overrides:
            raise BadParameter("--set changes parameters of a file: dmft warm FILE.toml --set ...")
        commands.warm_library(progress_option(arguments))
        return exit_code(Status.OK)
    read = commands.example() if arguments.file is None else read_declaration(arguments.file)
    declared = override(read, arguments.overrides)
    if getattr(arguments, "latex", None):
        commands.write_latex(declared, arguments.latex)
    with as_asked(progress_option(arguments)):
        status = _command(arguments.command)(declared, arguments)
    return exit_code(status)


def _command(name: str) -> Callable[[Declaration, argparse.Namespace], Status]:
    if name == "limits":
        from dmft.cli.limits import limits_command  # its verbs load what no other command needs

        return limits_command
    found: Callable[..., Status] = {**vars(commands), **vars(large)}[f"{name}_command"]
    return found


def override(declared: Declaration, settings: list[str]) -> Declaration:
    """Apply --set NAME=VALUE to the letters of [parameters]."""
    values = dict(declared.parameters)
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals or name not in values:
            raise BadParameter(
                f"--set {setting}: write NAME=VALUE with a name from [parameters]: {sorted(values)}"
            )
        values[name] = float(parse_expression(text, {}))
    return replace(declared, parameters=values)
