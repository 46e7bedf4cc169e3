"""`export`: equations of motion as a file that needs no `dmft`."""

from __future__ import annotations

import importlib
from pathlib import Path

from dmft.codegen.export.system import System
from dmft.equations.equations import Equations
from dmft.errors import BadParameter, NotClosed

# Module and function that write each kind of file, by how its name ends; the longest end counts.
KINDS = {
    "_jax.py": ("jax_file", "jax_text", "JAX"),
    ".py": ("python", "python_text", "Python"),
    ".ipynb": ("notebook", "notebook_text", "notebooks"),
    ".c": ("c_file", "c_text", "C"),
    ".js": ("javascript_file", "javascript_text", "JavaScript"),
}


def export(equations: Equations, path: str | Path) -> Path:
    """Write equations of motion as a file that stands alone."""
    path = Path(path)
    kind = next((end for end in KINDS if path.name.endswith(end)), None)
    if kind is None:
        raise BadParameter(f"export writes {', '.join(KINDS)}; got {path.name!r}")
    stem, name, language = KINDS[kind]
    system = System(equations)
    module = importlib.import_module(f"dmft.codegen.export.{stem}")
    try:
        text = getattr(module, name)(system)
    except NotClosed as error:
        raise NotClosed(f"{language}: {error}") from error
    path.write_text(text, encoding="utf-8")
    return path
