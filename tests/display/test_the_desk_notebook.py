"""A notebook from a declaration to a phase diagram, executed by a kernel of Jupyter's."""

import importlib.util
import json
import os
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "desk.py"
NEEDED = ("jupytext", "nbclient", "nbformat", "ipykernel", "matplotlib", "pandas", "tqdm")
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]
# What a screen holds.
MOST_LINES = 40


def lines(output):
    """Lines of text that an output takes where nothing draws it."""
    data = output.get("data", {})
    if "text/html" in data or "text/latex" in data or "image/png" in data:
        return 1
    return len((output.get("text") or data.get("text/plain", "")).splitlines())


@pytest.fixture(scope="module")
def notebook(tmp_path_factory):
    import jupytext
    from nbclient import NotebookClient

    # A kernel of this interpreter, whichever others are installed.
    folder = tmp_path_factory.mktemp("jupyter")
    spec = folder / "kernels" / "python3" / "kernel.json"
    spec.parent.mkdir(parents=True)
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec.write_text(json.dumps({"argv": argv, "display_name": "dmft", "language": "python"}))
    before = dict(os.environ)
    os.environ |= {"JUPYTER_PATH": str(folder), "PYTHONPATH": str(SCRIPT.parents[2])}
    try:
        found = jupytext.read(SCRIPT)
        NotebookClient(found, timeout=1200, kernel_name="python3").execute()
    finally:
        os.environ.clear()
        os.environ.update(before)
    return found


@pytest.mark.slow
@pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}")
def test_fifteen_cells_without_an_error(notebook):
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(cells) == 15
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [o for o in outputs if o.output_type == "error"]
    assert max(map(lines, outputs)) <= MOST_LINES
    kinds = [set(o.get("data", {})) for cell in cells for o in cell.outputs]
    assert sum("text/latex" in kind for kind in kinds) >= 3
    assert sum("text/html" in kind for kind in kinds) >= 7
    assert "image/png" in str(kinds)  # of dmft.plot


@pytest.mark.slow
@pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}")
def test_bars_are_shown(notebook):
    for name in ("dmft.solve(", "dmft.simulate(", "dmft.phase_diagram("):
        cell = next(c for c in notebook.cells if name in c.source and "progress=True" in c.source)
        shown = [o for o in cell.outputs if o.output_type in ("stream", "display_data")]
        assert any("%" in str(o) and ("|" in str(o) or "widget" in str(o)) for o in shown), name
