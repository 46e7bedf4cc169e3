"""What the declarations of algorithms say of themselves, read from their text.

The help is immediate because it imports neither SymPy nor NumPy, which declarations need: their
modules are parsed, not imported.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

MODEL = Path(__file__).parents[1] / "model"
# Kinds whose steps are scaled by what was seen of gradients.
SCALED = ("sign-sgd", "adam", "rmsprop", "adagrad", "adagrad-norm")
# Class of each `kind` of [algorithm], and the module of `dmft.model` that declares it.
ALGORITHMS = {
    "sgd": ("SGD", "algorithm"),
    **{
        kind: (name, "optimisers/adaptive")
        for kind, name in zip(
            SCALED, ("SignSGD", "Adam", "RMSProp", "AdaGrad", "AdaGradNorm"), strict=True
        )
    },
    "gradient-flow": ("GradientFlow", "algorithm"),
    "gradient-descent": ("GradientDescent", "descent"),
}
# The table of numbers of algorithms, and its module.
TABLE, TABLE_MODULE = "REGISTRY", "hyperparameters"


def optimiser_numbers() -> dict[str, tuple[str, str, tuple[str, ...]]]:
    """Numbers of algorithms: kind of the key of each, words, and the algorithms that have it.

    Examples
    --------
    >>> from dmft.cli.optimisers import optimiser_numbers
    >>> from dmft.model.hyperparameters import REGISTRY
    >>> found = optimiser_numbers()
    >>> all(text == REGISTRY[name].what for name, (_, text, _) in found.items())
    True
    """
    has = {kind: fields_of(kind) for kind in ALGORITHMS}
    return {
        name: (key, text, tuple(kind for kind, fields in has.items() if name in fields))
        for name, key, text in _table()
    }


def fields_of(kind: str) -> tuple[str, ...]:
    """Names of the arguments of an algorithm's declaration, in their order."""
    name, module = ALGORITHMS[kind]
    body = next(n.body for n in _parsed(module) if isinstance(n, ast.ClassDef) and n.name == name)
    for made in body:
        if isinstance(made, ast.FunctionDef) and made.name == "__init__":
            own = (a.arg for a in made.args.args[1:])
            return tuple(dict.fromkeys([*own, *_tuple_of(module, "OTHERS")]))
    annotated = (n for n in body if isinstance(n, ast.AnnAssign))
    return tuple(
        n.target.id
        for n in annotated
        if isinstance(n.target, ast.Name) and "ClassVar" not in ast.unparse(n.annotation)
    )


def _tuple_of(module: str, name: str) -> tuple[str, ...]:
    """A tuple of names that a module of `dmft.model` declares."""
    for statement in _parsed(module):
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == name:
            found: tuple[str, ...] = ast.literal_eval(statement.value)
            return found
    raise LookupError(name)


def _table() -> Iterator[tuple[str, str, str]]:
    """Names of the table that files may hold, the kind of their key, and their words."""
    for statement in _parsed(TABLE_MODULE):
        if isinstance(statement, ast.AnnAssign) and ast.unparse(statement.target) == TABLE:
            (found,) = (n for n in ast.walk(statement) if isinstance(n, ast.Dict) and _of_calls(n))
            for key, call in zip(found.keys, found.values, strict=True):
                assert isinstance(call, ast.Call)
                assert key is not None
                kinds = [ast.literal_eval(k.value) for k in call.keywords if k.arg == "key"]
                if kinds:
                    yield ast.literal_eval(key), kinds[0], ast.literal_eval(call.args[0])


def _of_calls(node: ast.Dict) -> bool:
    return bool(node.values) and all(isinstance(v, ast.Call) for v in node.values)


@cache
def _parsed(module: str) -> list[ast.stmt]:
    return ast.parse((MODEL / f"{module}.py").read_text(encoding="utf-8")).body
