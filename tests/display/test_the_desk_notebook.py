"""A notebook from a declaration to a phase diagram: executed by a kernel, opened in a browser.

The browser shows it in JupyterLab, which brings MathJax and widgets with it: no network is needed.
Pages that `nbconvert` writes load both from the network; offline they show formulas as text.
"""

import contextlib
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "desk.py"
NEEDED = ("jupytext", "nbclient", "nbformat", "ipykernel", "matplotlib", "pandas", "tqdm")
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]
IN_A_BROWSER = ("jupyterlab", "jupyterlab_widgets", "ipywidgets", "playwright")
MISSING_BROWSER = [name for name in IN_A_BROWSER if importlib.util.find_spec(name) is None]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
# What a screen holds.
MOST_LINES = 40
# Milliseconds that a page may take on a busy machine.
PATIENCE = 240_000


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
    # A user's notebook draws in its cells, whatever the backend of the tests is.
    os.environ.pop("MPLBACKEND", None)
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


@contextlib.contextmanager
def jupyter_lab(folder):
    """The address of a JupyterLab over a folder, for as long as it is needed."""
    import jupyterlab_widgets

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = [f"--ServerApp.port={port}", "--ServerApp.token=", "--ServerApp.password=",
               f"--ServerApp.root_dir={folder}", "--no-browser", "--allow-root",
               "--LabApp.news_url=", "--LabApp.check_for_updates_class="
               "jupyterlab.NeverCheckForUpdate"]  # fmt: skip
    log = (folder / "lab.log").open("w")
    # All cells are drawn, not only those on the screen.
    tracker = folder / "settings" / "@jupyterlab" / "notebook-extension"
    tracker.mkdir(parents=True)
    (tracker / "tracker.jupyterlab-settings").write_text('{"windowingMode": "none"}')
    home = {
        "JUPYTER_CONFIG_DIR": str(folder / "config"),
        "JUPYTER_DATA_DIR": str(folder / "data"),
        "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"),
        # A virtual environment may have the packages of another one, whose extensions these are.
        "JUPYTER_PATH": str(Path(jupyterlab_widgets.__file__).parents[4] / "share" / "jupyter"),
    }
    started = subprocess.Popen(
        [sys.executable, "-m", "jupyterlab", *options],
        stdout=log, stderr=log, env={**os.environ, **home}, cwd=folder,
    )  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(PATIENCE // 1000):
            assert started.poll() is None, (folder / "lab.log").read_text()[-2000:]
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}/api") as answer:
                assert answer.status == 200
                break
            time.sleep(1)
        yield address
    finally:
        started.terminate()
        started.wait(120)
        log.close()


# What is found in the outputs of an open notebook.
LOOK = """() => {
    const outputs = [...document.querySelectorAll(".jp-Notebook .jp-Cell-outputArea")];
    const all = (selector) => outputs.flatMap((o) => [...o.querySelectorAll(selector)]);
    const lines = outputs.flatMap((o) => o.innerText.split("\\n"));
    return {
        outputs: outputs.length,
        formulas: all("mjx-container").length,
        wrong: all("mjx-merror").map((e) => e.innerText),
        errors: lines.filter((line) => line.startsWith("Traceback")),
        raw: lines.filter((line) => line.startsWith("$") || line.startsWith("\\\\")),
        pictures: all("img").filter((i) => i.naturalWidth > 0).length,
        bars: outputs.filter((o) => o.querySelector(".progress-bar")).length,
    };
}"""


@pytest.mark.slow
@pytest.mark.skipif(
    bool(MISSING or MISSING_BROWSER) or CHROMIUM is None,
    reason=f"needs {', '.join([*MISSING, *MISSING_BROWSER]) or 'chromium'}",
)
def test_opened_in_a_browser(notebook, tmp_path):
    """Mathematics, pictures and bars are seen, and no error; the network is cut off."""
    import nbformat
    from nbformat.sign import NotebookNotary
    from playwright.sync_api import sync_playwright

    nbformat.write(notebook, tmp_path / "desk.ipynb")
    # As one's own notebooks are trusted: of others no widget is drawn.
    (tmp_path / "data").mkdir()
    NotebookNotary(data_dir=str(tmp_path / "data")).sign(notebook)
    with jupyter_lab(tmp_path) as address, sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1200, "height": 1000})
        outside = []

        def only_here(route):
            if not route.request.url.startswith(("http://127.0.0.1", "data:", "blob:")):
                outside.append(route.request.url)
                return route.abort()
            return route.continue_()

        page.route("**/*", only_here)
        page.set_default_timeout(PATIENCE)
        page.goto(f"{address}/lab/tree/desk.ipynb?reset", wait_until="domcontentloaded")
        page.wait_for_selector(".jp-Notebook .jp-Cell-outputArea", timeout=PATIENCE)
        page.wait_for_selector("mjx-container", timeout=PATIENCE)
        # Widgets come once the kernel is there.
        page.wait_for_selector(".progress-bar", timeout=PATIENCE)
        page.wait_for_timeout(2000)
        seen = page.evaluate(LOOK)
        page.locator(".progress-bar").first.scroll_into_view_if_needed()
        page.screenshot(path=os.environ.get("DMFT_SCREENSHOT", tmp_path / "desk.png"))
        browser.close()
    assert not outside
    assert not seen["errors"] + seen["wrong"] + seen["raw"], seen
    assert seen["outputs"] == 15
    assert seen["formulas"] >= 10
    assert seen["pictures"] >= 4  # two runs, an ensemble, a figure, a diagram
    assert seen["bars"] == 3  # solve, simulate, phase_diagram
