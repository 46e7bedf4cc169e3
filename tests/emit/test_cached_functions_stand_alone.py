"""Numba's cache notices changes of a function's own file only: after an edit of another file whose
compiled functions it calls, the old machine code would go on running, without a word.

So a file that calls compiled functions of others carries their stamps: COMPILED_WITH maps a module
to the hash of its text. An edit there must touch the stamp here, and Numba compiles again. The text
holds the stamps of that file: along a chain of calls an edit touches them all.

Generated modules need none: their file name holds a hash of `dmft/special`. Function pointers too.
"""

import ast
import hashlib
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "dmft"


def statements(node):
    """Statements of all depths; `ast.walk` goes through expressions too."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.stmt, ast.ExceptHandler)):
            yield child
            yield from statements(child)


def compiled_functions(tree):
    for node in statements(tree):
        if isinstance(node, ast.FunctionDef) and "njit" in map(decorator, node.decorator_list):
            yield node


def decorator(node):
    call = node.func if isinstance(node, ast.Call) else node
    return call.attr if isinstance(call, ast.Attribute) else getattr(call, "id", "")


def stamp_of(path):
    return hashlib.blake2b(path.read_bytes(), digest_size=6).hexdigest()


def stamps_in(tree):
    for node in tree.body:
        names = [getattr(t, "id", "") for t in getattr(node, "targets", ())]
        if "COMPILED_WITH" in names:
            return ast.literal_eval(node.value)
    return {}


def stamps_wanted():
    """Stamps that each file must carry, by its path."""
    paths = {
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): path
        for path in PACKAGE.rglob("*.py")
    }
    texts = {module: path.read_text() for module, path in paths.items()}
    # The others have no compiled functions, and call none.
    trees = {module: ast.parse(text) for module, text in texts.items() if "njit" in text}
    compiled = {(m, f.name) for m, tree in trees.items() for f in compiled_functions(tree)}
    assert len(compiled) > 20
    calls = {}
    for module, tree in trees.items():
        imported = {
            alias.asname or alias.name: (node.module, alias.name)
            for node in statements(tree)
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }
        for function in compiled_functions(tree):
            names = {n.id for n in ast.walk(function) if isinstance(n, ast.Name)}
            for name in names:
                if imported.get(name) in compiled:
                    calls.setdefault(module, set()).add(imported[name][0])
    return {
        path: {other: stamp_of(paths[other]) for other in sorted(calls.get(module, ()))}
        for module, path in paths.items()
    }


def test_files_carry_the_stamps_of_the_compiled_functions_that_they_call():
    wanted = stamps_wanted()
    assert any(wanted.values()), "the search finds nothing"
    for path, stamps in wanted.items():
        text = path.read_text()
        carried = stamps_in(ast.parse(text)) if "COMPILED_WITH" in text else {}
        assert carried == stamps, f"{path}: run python tests/emit/restamp.py (wanted {stamps})"
