"""Numba's cache notices changes of a function's own file only, so no compiled function may call one
of another file: after an upgrade the old machine code would go on running, without a word.

Generated modules may: their file name holds a hash of `dmft/special`. Function pointers may.
"""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "dmft"


def compiled_functions(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and "njit" in map(decorator, node.decorator_list):
            yield node


def decorator(node):
    call = node.func if isinstance(node, ast.Call) else node
    return call.attr if isinstance(call, ast.Attribute) else getattr(call, "id", "")


def test_no_compiled_function_calls_one_of_another_file():
    trees = {
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): ast.parse(
            path.read_text()
        )
        for path in PACKAGE.rglob("*.py")
    }
    compiled = {(m, f.name) for m, tree in trees.items() for f in compiled_functions(tree)}
    assert len(compiled) > 20
    for module, tree in trees.items():
        imported = {
            alias.asname or alias.name: (node.module, alias.name)
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }
        for function in compiled_functions(tree):
            names = {n.id for n in ast.walk(function) if isinstance(n, ast.Name)}
            foreign = {name for name in names if imported.get(name) in compiled}
            assert not foreign, f"{module}.{function.name} calls {foreign} of another file"
