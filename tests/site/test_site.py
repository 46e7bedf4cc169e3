"""The check of the built site finds what is broken; the site itself is built and checked in CI."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
spec = importlib.util.spec_from_file_location("check", Path(__file__).parent / "check.py")
check = importlib.util.module_from_spec(spec)
spec.loader.exec_module(check)

GOOD = (
    '<h1 id="top">A</h1><a href="b.html#part">b</a><img src="c.png"><a href="https://x.org">x</a>'
)


@pytest.fixture
def site(tmp_path):
    (tmp_path / "a.html").write_text(GOOD)
    (tmp_path / "b.html").write_text('<p id="part">')
    (tmp_path / "c.png").touch()
    return tmp_path


def test_a_sound_site_has_no_problem(site):
    assert check.broken(site) == []


@pytest.mark.parametrize(
    ("html", "said"),
    [
        ('<a href="no.html">', "no file no.html"),
        ('<a href="b.html#no">', "no anchor b.html#no"),
        ('<img src="no.png">', "no file no.png"),
        ('<script src="https://cdn.org/x.js">', "loads https://cdn.org/x.js"),
        ('<link rel="stylesheet" href="//cdn.org/x.css">', "loads //cdn.org/x.css"),
        (r"<p>A step is $$\dot q = 2b", "formula as text"),
    ],
)
def test_what_is_broken_is_named(site, html, said):
    (site / "a.html").write_text(GOOD + html)
    (problem,) = check.broken(site)
    assert said in problem


def test_errors_of_pages_are_seen(site):
    pytest.importorskip("playwright", reason="playwright is not installed")
    chromium = check.shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed")
    name = '<span class="pre" style="overflow-wrap: anywhere">information_exponent</span>'
    (site / "b.html").write_text(
        '<script>no()</script><img src="http://127.0.0.1:9/x.png"><table class="autosummary"'
        f' style="width: 60px; table-layout: fixed"><tr><td><code>{name}</code></table>'
        '<p style="width: 60px"><span class="math"><mjx-container style="display: inline-block;'
        ' width: 58px">x</mjx-container></span>, then'
    )
    found = " ".join(check.in_browser([site / "b.html"], chromium))
    assert "'information_exponent' is broken at 400" in found
    assert "', then' is broken at 1280" in found
    assert "no is not defined" in found
    assert "asks for http://127.0.0.1:9/x.png" in found


def test_notebooks_of_derivations_make_no_folder_of_their_kernel(tmp_path):
    """Under a kernel the arguments are "-f" and a file; a folder named "-f" was made."""
    for path in sorted(ROOT.glob("derivations/*.py")):
        text = path.read_text(encoding="utf-8")
        if "sys.argv" in text:
            assert 'sys.argv[1:] if "__file__" in globals() else []' in text, path.name


def from_docs(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


EQUATIONS = {
    "dM_jr/dt = E[psi_j h*_r], R of `risk`":
    r":math:`dM_{jr}/dt = \mathbb{E}[\psi _{j} h^*_{r}],`\  :math:`R`\  of `risk`",
    "a step of sqrt(Q_jj P_rr) >= c, e^-t -> 0":
    r"a step of :math:`\sqrt{Q_{jj} P_{rr}} \ge c,`\  :math:`e^{-t} \to 0`\ ",
    "dx_i = rate(x_i) dt with V^": (
        r":math:`dx_{i} =`\  rate\ :math:`(x_{i}) dt`\  with :math:`\hat{V}`\ "
    ),
    "E[F(u) {h*}^2] (of theory/one_pass A.1)":
    r":math:`\mathbb{E}[F(u) \{h^*\}^{2}]`\  (of theory/one_pass A.1)",
}  # fmt: skip


@pytest.mark.parametrize("plain", EQUATIONS)
def test_equations_of_docstrings_are_typeset(plain):
    assert from_docs("formulas").typeset(plain, str) == EQUATIONS[plain]


def test_every_equation_of_a_docstring_has_balanced_formulas():
    typeset = from_docs("formulas").typeset
    found = 0
    for path in sorted((ROOT / "dmft").rglob("*.py")):
        text = path.read_text("utf-8")
        for _, entry in re.findall(r"^( *)Equation {2,}(\S.*(?:\n\1 {6}.*\S)*)$", text, re.M):
            line = " ".join(entry.split())
            for formula in re.findall(r":math:`([^`]*)`", typeset(line, str)):
                found += 1
                for one, two in ("{}", "()", "[]"):
                    assert formula.count(one) == formula.count(two), (path, formula)
                assert not re.search(r"[_^]{2}|_\{\}|\^\{\}", formula), (path, formula)
    assert found > 150


def test_displays_of_derivations_stand_by_themselves():
    pytest.importorskip("jupytext")
    collected = from_docs("collected")
    text = "# %% [markdown]\n# A step is\n# $$a = b\n# + c$$, where\n# $x$ is."
    (cell,) = collected.notebook(text).cells
    assert cell.source == "A step is\n\n$$\na = b\n+ c,\n$$\n\nwhere\n$x$ is."


@pytest.mark.slow
def test_the_whole_site(tmp_path):
    pytest.importorskip("myst_nb", reason="the extra docs is not installed")
    html = tmp_path / "html"
    build = [
        sys.executable,
        "-m",
        "sphinx",
        "-q",
        "-W",
        "--keep-going",
        str(ROOT / "docs"),
        str(html),
    ]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    command = [sys.executable, str(Path(__file__).parent / "check.py"), str(html)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == 0, done.stdout[-3000:]
