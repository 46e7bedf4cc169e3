"""The floors of CONTRIBUTING.md, sizes and docstrings: read from the source, nothing is run."""

import ast
import functools
import subprocess
import sys
from pathlib import Path

import pytest

import dmft

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "dmft"

# A folder imports only from folders on lower floors; files stand for themselves.
FLOORS = {
    "__init__": 9,
    "cli": 8,
    "explorer": 7,
    "workflow": 6,
    "display": 5,
    "literature": 5,
    "codegen": 4,
    "analysis": 4,
    "equations": 3,
    "simulation": 3,
    "gaussian": 2,
    "solvers": 2,
    "model": 1,
    "emit": 1,
    "explanation": 1,
    "special": 1,
    "typeset": 0,
    "compiled": 0,
    "arrays": 0,
    "names": 0,
    "errors": 0,
    "progress": 0,
    "symbolic_lock": 0,
    "laws": 0,
    "rules": 0,
    "netcdf": 0,
    "record": 0,
    "summary": 0,
    "validation": 0,
    "aliases": 0,
    "covariance": 0,
    "initial_conditions": 0,
}
# Stronger than the order: a witness may not use what it judges, a solver needs no symbols.
BANS = {
    "solvers": {"sympy", "dmft.model"},
    "simulation": {"dmft.gaussian", "dmft.equations", "dmft.codegen"},
    "analysis": {"dmft.model", "dmft.gaussian", "dmft.equations", "sympy"},
    "names": {"sympy", "numpy", "numba"},
    "errors": {"sympy", "numpy", "numba"},
}
# These are slow to import or optional: only inside functions, so that `import dmft` stays light.
LAZY = {
    "matplotlib", "xarray", "h5netcdf", "h5py", "tqdm", "pandas", "flint", "anywidget", "traitlets",
}  # fmt: skip
TOP_LEVEL = {
    "dmft", "tests", "derivations", "examples", "pyproject.toml", "README.md", "LICENSE",
    "CITATION.cff", "CHANGELOG.md", "CONTRIBUTING.md", "docs",
}  # fmt: skip
MAX_FILES = 15
# Lines beside docstrings, which every public object has with an example; and all lines.
MAX_LINES = 450
MAX_ALL_LINES = 800
MAX_FUNCTION_LINES = 80

SOURCES = sorted(PACKAGE.rglob("*.py"))


RULES = []


@functools.lru_cache(maxsize=1)
def tree_of(path):
    """Trees of the whole package are 150 MB: the last one only."""
    return ast.parse(path.read_text(encoding="utf-8"))


@functools.lru_cache(maxsize=1)
def nodes_of(path):
    return tuple(ast.walk(tree_of(path)))


@functools.cache
def broken(paths):
    """What is wrong in files, by rule: each file is parsed once for all of them."""
    found = {rule.__name__: [] for rule in RULES}
    for path in paths:
        names_taken(path)  # what the cycles are read from, while the file is at hand
        for rule in RULES:
            found[rule.__name__] += rule(path)
    return found


def by_rule(rule):
    """A test of all files, from a generator of what is wrong in one; it tells all of it."""

    def test():
        wrong = broken(tuple(SOURCES))[rule.__name__]
        assert not wrong, "\n".join(wrong)

    RULES.append(rule)
    test.__name__, test.__doc__ = rule.__name__, rule.__doc__
    return test


def room(path):
    """Folder of a source file inside the package, or the module of a file at its top."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[0]


@functools.cache
def imports(path):
    """Every import of a file, lazy ones included: (dotted module, line, inside a function)."""
    found = []

    def visit(node, lazy, typing):
        if isinstance(node, ast.Import):
            found.extend((alias.name, node.lineno, lazy, typing) for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: write imports from dmft in full"
            if node.module == "dmft":
                # `from dmft import x` names a folder or the face itself.
                known = [f"dmft.{a.name}" if a.name in FLOORS else "dmft" for a in node.names]
                found.extend((name, node.lineno, lazy, typing) for name in known)
            else:
                found.append((node.module, node.lineno, lazy, typing))
        if isinstance(node, ast.expr):
            return  # no import is inside of one
        lazy = lazy or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        typing = typing or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test))
        for child in ast.iter_child_nodes(node):
            visit(child, lazy, typing)

    visit(tree_of(path), False, False)
    return found


@functools.cache
def names_taken(path):
    """Every `from module import names` of a file, as (module, names)."""
    taken = [node for node in nodes_of(path) if isinstance(node, ast.ImportFrom)]
    return [(node.module, [alias.name for alias in node.names]) for node in taken]


def target_room(module):
    """Folder that an import of the package points to; the face for `dmft` itself."""
    parts = module.split(".")
    return "__init__" if len(parts) == 1 else parts[1]


def test_every_folder_has_a_floor():
    assert {room(path) for path in SOURCES} <= set(FLOORS)


def test_folders_are_rooms():
    """At most fifteen files beside one that says what they have in common."""
    for folder in sorted({path.parent for path in SOURCES}):
        files = [path.name for path in folder.glob("*.py")]
        assert len(set(files) - {"__init__.py"}) <= MAX_FILES, folder
        assert ast.get_docstring(tree_of(folder / "__init__.py")), folder


@by_rule
def test_imports_point_down(path):
    here = room(path)
    for module, line, _, _ in imports(path):
        if module.split(".")[0] != "dmft":
            continue
        there = target_room(module)
        if there not in FLOORS:
            yield f"{path}:{line}: unknown folder dmft.{there}"
            continue
        below = FLOORS[there] < FLOORS[here] or there == here
        # The files of floor 0 (names, errors, progress) may use each other.
        if not (below or FLOORS[there] == FLOORS[here] == 0):
            yield (
                f"{path}:{line}: dmft.{here} (floor {FLOORS[here]}) imports {module} "
                f"(floor {FLOORS[there]})"
            )


def test_imports_have_no_cycles():
    """Those inside functions and those for hints alone count too."""
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in SOURCES}
    names = {name.removesuffix(".__init__"): path for name, path in names.items()}

    def used_by(path):
        found = set()
        for module, taken in names_taken(path):
            if module in names:
                inner = {f"{module}.{name}" for name in taken}
                found |= (inner & names.keys()) or {module}
        return found

    graph = {name: used_by(path) - {name} for name, path in names.items()}
    while leaves := {name for name, used in graph.items() if not used & set(graph)}:
        graph = {name: used for name, used in graph.items() if name not in leaves}
    # What uses a cycle is on none.
    while tops := set(graph) - set().union(*graph.values(), set()):
        graph = {name: used for name, used in graph.items() if name not in tops}
    assert not graph


@by_rule
def test_bans(path):
    for module, line, _, _ in imports(path):
        for banned in BANS.get(room(path), ()):
            if module == banned or module.startswith(banned + "."):
                yield f"{path}:{line}: dmft.{room(path)} may not import {module}"


@by_rule
def test_optional_packages_load_inside_functions(path):
    for module, line, lazy, typing in imports(path):
        if module.split(".")[0] in LAZY and not (lazy or typing):
            yield f"{path}:{line}: import {module} inside the function that needs it"


@by_rule
def test_files_and_functions_stay_readable(path):
    lines = path.read_text(encoding="utf-8").count("\n")
    if lines >= MAX_ALL_LINES:
        yield f"{path} has {lines} lines; split it below {MAX_ALL_LINES}"
    documented = (ast.FunctionDef, ast.ClassDef, ast.Module)
    pages = [ast.get_docstring(n, clean=False) for n in nodes_of(path) if isinstance(n, documented)]
    lines -= sum(page.count("\n") for page in pages if page)
    if lines >= MAX_LINES:
        yield f"{path} has {lines} lines of code; split it below {MAX_LINES}"
    for node in nodes_of(path):
        if isinstance(node, ast.FunctionDef):
            docstring = ast.get_docstring(node, clean=False) or ""
            body = (node.end_lineno or 0) - node.lineno - docstring.count("\n")
            if body >= MAX_FUNCTION_LINES:
                yield f"{path}:{node.lineno}: {node.name} has {body} lines"


@by_rule
def test_nothing_evaluates_text(path):
    for node in nodes_of(path):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name in {"eval", "exec", "sp.parse_expr", "parse_expr"}:
                yield f"{path}:{node.lineno}: {name}"
            if name.endswith("sympify"):
                strict = any(
                    k.arg == "strict" and getattr(k.value, "value", None) is True
                    for k in node.keywords
                )
                if not strict:
                    yield f"{path}:{node.lineno}: sympify without strict=True evaluates text"


@by_rule
def test_machine_code_is_cached_by_our_njit_only(path):
    """Numba's own cache unpickles whatever it finds: in the code, and in the text of generators."""
    for node in nodes_of(path):
        if isinstance(node, ast.ImportFrom) and node.module == "numba":
            for name in {a.name for a in node.names} & {"njit", "jit", "cfunc", "vectorize"}:
                yield f"{path}:{node.lineno}: {name} of Numba"
        text = node.value if isinstance(node, ast.Constant) else None
        if isinstance(text, str) and "\nfrom numba import njit" in text:
            yield f"{path}:{node.lineno}: text that imports njit of Numba"


def test_rules_see_what_they_forbid(tmp_path, monkeypatch):
    """Each rule in a file that breaks it: a rule that walks over nothing would pass everywhere."""
    folder = tmp_path / "solvers"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    path = folder / "probe.py"
    path.write_text(
        "import dmft.cli.main\nimport sympy\nimport matplotlib\nfrom numba import njit\n"
        "eval('1')\nsympify('x')\nCODE = '\\nfrom numba import njit'\n"
        "def long():\n" + "    pass\n" * MAX_FUNCTION_LINES + "#\n" * MAX_LINES
    )
    monkeypatch.setitem(globals(), "PACKAGE", tmp_path)
    monkeypatch.setitem(globals(), "SOURCES", [path])
    counts = {name: len(wrong) for name, wrong in broken((path,)).items()}
    assert counts == {
        "test_imports_point_down": 1,
        "test_bans": 1,
        "test_optional_packages_load_inside_functions": 1,
        "test_files_and_functions_stay_readable": 2,
        "test_nothing_evaluates_text": 2,
        "test_machine_code_is_cached_by_our_njit_only": 2,
    }
    with pytest.raises(AssertionError, match=r"imports dmft\.cli\.main"):
        test_imports_point_down()
    with pytest.raises(AssertionError):
        test_folders_are_rooms()


def test_the_import_reader_sees_lazy_and_nested_imports(tmp_path):
    # A floors test that reads no imports would always pass: show that it sees each form.
    path = tmp_path / "probe.py"
    path.write_text(
        "import dmft.cli.main as m\nfrom dmft import errors\nfrom dmft import Model\n"
        "def f():\n    if True:\n        from dmft.equations.derive import derive\n"
        "class A:\n    def g(self):\n        import sympy\n"
    )
    assert [(module, lazy) for module, _, lazy, _ in imports(path)] == [
        ("dmft.cli.main", False),
        ("dmft.errors", False),
        ("dmft", False),
        ("dmft.equations.derive", True),
        ("sympy", True),
    ]
    assert target_room("dmft") == "__init__"


def test_top_level_holds_nothing_else():
    # What the project keeps, not what a user's runs leave beside it (figures, caches).
    listing = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listing.returncode:  # an unpacked archive: no list of what belongs to it
        assert {p.name for p in ROOT.iterdir()} >= TOP_LEVEL
        return
    kept = {line.split("/")[0] for line in listing.stdout.splitlines()}
    found = {name for name in kept if not name.startswith(".")}
    assert found <= TOP_LEVEL, f"unexpected at the top: {sorted(found - TOP_LEVEL)}"
    assert found >= TOP_LEVEL


def test_public_names_are_documented_with_an_example():
    for name in dmft.__all__:
        if name != "__version__":
            doc = getattr(dmft, name).__doc__ or ""
            assert len(doc.strip().splitlines()[0]) > 10, f"{name} has no docstring"
            assert ">>>" in doc, f"{name} has no example"


def test_types_are_published():
    assert (PACKAGE / "py.typed").exists()


def test_import_dmft_stays_light():
    import subprocess
    import sys

    code = "import sys, dmft; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"numba", "scipy", "matplotlib", "xarray", "pandas", "h5py"}
    assert not heavy & set(done.stdout.split())


PLAIN_RUN = """
import sys
import sympy as sp, dmft
z = sp.Symbol("z", real=True)
erf = dmft.Committee(sp.erf(z / sp.sqrt(2)), 1)
model = dmft.Model(erf, erf)
equations = dmft.derive(model, dmft.SGD(0.5))
dmft.solve(equations, dmft.Overlaps([[1.0]], [[0.1]]), 1.0)
print(*(name for name in sys.modules if name.startswith("dmft.") or name == "scipy.stats"))
"""
# Folders and prefixes that an ode has no use for, and how many modules of ours it may load.
UNUSED = (
    "dmft.simulation", "dmft.analysis.", "dmft.display", "dmft.solvers.volterra", "scipy.stats"
)  # fmt: skip
# 23 of them are folders. Six compile without Numba; a machine's first run needs Numba beside them,
# later ones load 102.
MOST_MODULES = 127


def test_an_ode_loads_what_an_ode_needs():
    done = subprocess.run(
        [sys.executable, "-c", PLAIN_RUN], capture_output=True, text=True, check=True
    )
    loaded = done.stdout.split()
    assert not [name for name in loaded if name.startswith(UNUSED)]
    assert len(loaded) <= MOST_MODULES, len(loaded)


def test_nothing_compiles_at_import():
    """Compiled functions of fixed signatures wait for their use."""
    program = """
import importlib, pkgutil, dmft
from numba.core.event import install_recorder
with install_recorder("numba:compile") as seen:
    for module in pkgutil.walk_packages(dmft.__path__, "dmft."):
        if not module.name.startswith("dmft.gaussian.certified"):
            importlib.import_module(module.name)
assert not seen.buffer, seen.buffer[:3]
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_symbols_have_one_meaning():
    """A name that is assigned twice would be another quantity to what was written before."""
    tree = ast.parse((PACKAGE / "equations" / "symbols.py").read_text(encoding="utf-8"))
    targets = [
        target for node in tree.body if isinstance(node, ast.Assign) for target in node.targets
    ]
    plain = [name for target in targets if not isinstance(target, ast.Subscript)
             for name in ast.walk(target) if isinstance(name, ast.Name)]  # fmt: skip
    names = [name.id for name in plain]
    assert sorted(names) == sorted(set(names))
