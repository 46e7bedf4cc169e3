"""The text of a formula before anything is made of it: characters, Python's tree, refusals."""

from __future__ import annotations

import ast
import unicodedata
import warnings
from typing import NoReturn

from dmft.errors import ExpressionRefused

# Longer formulas belong in a Python script; the bound also keeps Python's parser stack small.
MAX_LENGTH = 500


def check_characters(text: str) -> None:
    """Refuse what is no short line of printable ASCII."""
    if not isinstance(text, str):
        raise ExpressionRefused(f"an expression must be text in quotes, got {type(text).__name__}")
    if not text.strip():
        raise ExpressionRefused("the expression is empty")
    if len(text) > MAX_LENGTH:
        raise ExpressionRefused(
            f"the expression has {len(text)} characters, at most {MAX_LENGTH} are read"
        )
    for column, character in enumerate(text):
        if not " " <= character <= "~":
            name = unicodedata.name(character, f"U+{ord(character):04X}")
            refuse(text, column, f"character {name} is not plain ASCII")
        if character in "#\\":
            refuse(text, column, f"{character} is not allowed in a formula")


def python_tree(text: str) -> ast.expr:
    """The text as Python reads it, columns counted from its beginning."""
    # Leading blanks would be an indentation error, yet columns must count them.
    padding = len(text) - len(text.lstrip())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "invalid decimal literal": refused below anyway
            tree = ast.parse(text.strip(), mode="eval").body
    except SyntaxError as error:
        reason = (error.msg or "not an expression").split(". ")[0]
        refuse(
            text, padding + (error.offset or len(text.strip()) + 1) - 1, f"not a formula: {reason}"
        )
    except (ValueError, RecursionError, MemoryError) as error:
        raise ExpressionRefused(f"the expression cannot be read: {error}") from None
    for node in ast.walk(tree):
        if isinstance(node, ast.expr):
            node.col_offset += padding
            node.end_col_offset = (node.end_col_offset or 0) + padding
    return tree


KINDS: dict[type[ast.AST], str] = {
    ast.Attribute: "an attribute (x.y)",
    ast.Subscript: "a subscript (x[...])",
    ast.Lambda: "a lambda",
    ast.JoinedStr: "a string",
    ast.List: "a list",
    ast.Tuple: "a tuple",
    ast.Dict: "a dictionary",
    ast.Set: "a set",
    ast.Compare: "a comparison",
    ast.BoolOp: "and / or",
    ast.IfExp: "if / else",
    ast.NamedExpr: "an assignment",
    ast.Starred: "a starred argument",
    ast.ListComp: "a comprehension",
    ast.SetComp: "a comprehension",
    ast.DictComp: "a comprehension",
    ast.GeneratorExp: "a comprehension",
}


def describe(node: ast.AST) -> str:
    """Why a piece of this kind is refused."""
    return f"{KINDS.get(type(node), type(node).__name__.lower())} is not allowed in a formula"


def shorten(text: str) -> str:
    """A literal in a message."""
    return text if len(text) <= 24 else text[:21] + "..."


def printable(text: str) -> str:
    """The text in printable ASCII."""
    return "".join(c if " " <= c <= "~" else "?" for c in text)


def refuse(text: str, column: int, reason: str) -> NoReturn:
    """Raise with the reason, the column and a caret under it."""
    shown, start = printable(text), max(0, column - 60)
    line = shown[start : start + 76]
    raise ExpressionRefused(
        f"column {column + 1}: {reason}\n    {line}\n    {' ' * (column - start)}^"
    ) from None
