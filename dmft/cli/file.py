"""A declaration file as TOML: no SymPy here, so that a run that is known starts at once."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dmft.errors import ExpressionRefused

# A declaration is a page of text; anything larger is not one.
MAX_BYTES = 200_000
# Characters of a message that are shown.
MESSAGE = 1000


def load(file: Path) -> dict[str, Any]:
    """Read the tables of a file."""
    try:
        with file.open("rb") as stream:
            raw = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise ExpressionRefused(f"{file}: cannot be read: {error.strerror}") from None
    if len(raw) > MAX_BYTES:
        raise ExpressionRefused(f"{file}: larger than {MAX_BYTES} bytes, not a declaration")
    try:
        return tomllib.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ExpressionRefused(f"{file}: byte {error.start + 1} is not UTF-8 text") from None
    except tomllib.TOMLDecodeError as error:
        raise ExpressionRefused(printable(f"{file}: not TOML: {error}")) from None
    except (RecursionError, ValueError) as error:
        # tomllib recurses on nested brackets; int() refuses numbers of thousands of digits.
        raise ExpressionRefused(f"{file}: not TOML: {type(error).__name__}: {error}") from None


def printable(text: str) -> str:
    """Return text from a file without anything that a terminal would obey, and of bounded length.

    Line breaks stay: the caret of a refused formula stands on a line of its own.
    """
    clean = "".join(c if c.isprintable() or c == "\n" else "?" for c in text)
    return clean if len(clean) <= MESSAGE else clean[: MESSAGE - 3] + "..."


def question(raw: Mapping[str, Any], overrides: Sequence[str]) -> list[Any]:
    """What `dmft solve` depends on beside library and machine, in the order of the file."""
    return ["dmft solve", raw, list(overrides)]
