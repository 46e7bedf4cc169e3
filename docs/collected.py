"""Generate pages from sources: derivations, gallery, API, command line, bibliography.

`conf.py` writes them to `docs/generated` before Sphinx collects its sources. A file is written
only if its text changes, so a second build reads only the changes.
"""

import ast
import enum
import functools
import hashlib
import importlib.util
import inspect
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dmft
from dmft.cli.main import COMMANDS
from dmft.cli.schema import EXAMPLE, SCHEMA
from dmft.display.bibliography import ENTRIES
from dmft.names import VERSION

ROOT = Path(__file__).parent.parent
PICTURES = ROOT / "docs" / "_static" / "gallery"
# Output of each example, named by the digest of its text and of the package.
KEPT = ROOT / "docs" / "_build" / "examples"
# Shown without output unless DMFT_DOCS=all: each takes longer than ten seconds.
LONG_DERIVATIONS = [
    f"generated/derivations/{name}.py"
    for name in (
        "certificates", "escape_formulas", "exponents", "infinite_width", "large_batches",
        "large_sweeps", "phase_retrieval", "public_script", "static_limits",
    )
]  # fmt: skip
LONG_EXAMPLES = {
    "any_activation", "attention_trajectories", "batch_sizes", "correlation_loss",
    "dmft_learnability", "escape_contours", "escape_formulas", "exclusive_or", "exit_times",
    "learning_rules", "low_rank_bifurcation", "maximal_rates", "p_spin", "pytorch_committee",
    "real_data", "regions_traced", "repetition", "scaling_regimes", "sequence_length",
    "sparse_parity", "staircase", "theory_and_simulation", "three_tokens", "wide_network",
}  # fmt: skip
# Methods that users call first, on the page of any class.
FIRST = (
    "latex", "explain", "evaluate", "explicit", "without", "with_term", "replace", "subs", "diff",
    "expect", "quad", "series", "time", "mean_time", "std", "at", "steps", "samples", "save",
    "load", "to_pandas", "to_xarray", "as_torch", "from_torch",
)  # fmt: skip
# Members that other parts of the library use.
NOT_SHOWN = {
    "all_at", "all_terms", "as_derived", "average_rate", "block_latex", "bounds_rounding",
    "check_units", "counted", "declared", "described", "deviations", "digest", "fields", "flips",
    "functions", "gradient", "has_cone", "inverse_counts", "is_plain", "kept", "latex_of",
    "lowered", "matched", "mixture", "model_class", "momentum_direct", "momentum_rate", "on_nodes",
    "on_sphere", "open_kernels", "outputs_at", "pack", "pack_parameters", "passes", "polynomial",
    "rate_terms", "relabelled", "restore", "rule", "scalars", "seen", "signature", "simulated_by",
    "space", "state", "teacher_blocks", "text_of", "trains_readout", "unpack", "values", "watch",
    "with_fields", "written",
}  # fmt: skip
# A formula between double dollars and the punctuation after it. Within a paragraph Markdown reads
# it as text, and a line that begins with a sign as a list item.
DISPLAY = re.compile(r"[ \t]*\n?[ \t]*\$\$[ \t]*\n?(.+?)\n?[ \t]*\$\$([.,;:]?)[ \t]*", re.DOTALL)

# "theory/one_pass B.2, F.1" cites sections of docs/theory/one_pass.md, "(6)" an equation.
PLACE = r"(?:\([A-D]?\d+[a-z]?\)|(?:[A-J](?:\.\d+)?|\d+(?:\.\d+)?)(?![\w\[(]))"
CITATION = re.compile(
    rf"\btheory/([a-z_]+)\b(?:[\s#]+({PLACE}(?:(?:,[\s#]+|-| to | and ){PLACE})*))?"
)


def citations(text: str) -> Iterator[tuple[int, int, str, str]]:
    """Start, end, page and section or "(equation)" of each citation; "" cites a whole page."""
    for found in CITATION.finditer(text):
        places = list(re.finditer(PLACE, found[2] or ""))
        if not places:
            yield found.start(), found.end(), found[1], ""
        for number, place in enumerate(places):
            start = found.start(2) + place.start() if number else found.start()
            yield start, found.start(2) + place.end(), found[1], place[0]


def anchor(page: str, place: str) -> str:
    """Label of a section "B.2" or an equation "(6)", as Sphinx writes it in addresses.

    In a page it is `(one_pass-B.2)=` or `(one_pass-eq-6)=`.
    """
    label = f"{page}-eq-{place[1:-1]}" if place.startswith("(") else f"{page}-{place}"
    return re.sub("[^a-z0-9]+", "-", label.lower()) if place else ""


def write(folder: Path, extent: str) -> None:
    """All generated pages; "all" runs the long examples too, "quick" and "text" none."""
    put(folder / "references.bib", "\n\n".join(ENTRIES.values()) + "\n")
    derivations(folder / "derivations")
    explorers(folder / "explorer")
    gallery(folder / "gallery", extent)
    api(folder / "api")
    put(folder / "command_line.md", command_line())


def explorers(folder: Path) -> None:
    """Write three explorers without a server, again whenever the package changes."""
    mark = folder.parent / "explorer.txt"
    digest = package_digest().hex()
    if not mark.exists() or mark.read_text(encoding="utf-8") != digest:
        import explorer_pages

        explorer_pages.main(folder)
        put(mark, digest)


def put(path: Path, text: str) -> None:
    """Write a file if its text changes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def derivations(folder: Path) -> None:
    """Write each script as a page, and the list of pages."""
    sources = sorted(ROOT.glob("derivations/*.py"))
    for source in sources:
        put(folder / source.name, source.read_text(encoding="utf-8"))
    listed = "\n".join(source.stem for source in sources)
    put(
        folder / "index.md",
        "# Derivations\n\nExecutable derivations, from the definition to the boxed formula, each "
        "with a numerical check. Run one as a script, and it writes its LaTeX to the folder: "
        "`python derivations/committee_sgd.py FOLDER`.\n\n"
        f"```{{toctree}}\n:maxdepth: 1\n\n{listed}\n```\n",
    )


def notebook(text: str) -> object:
    """Return a percent script as a notebook with its language in the metadata."""
    import jupytext

    found = jupytext.reads(text, "py:percent")
    for cell in found.cells:
        if cell.cell_type == "markdown":
            cell.source = DISPLAY.sub(r"\n\n$$\n\1\2\n$$\n\n", cell.source)
    found.metadata["kernelspec"] = {
        "name": "python3",
        "display_name": "Python 3",
        "language": "python",
    }
    found.metadata["language_info"] = {"name": "python", "pygments_lexer": "ipython3"}
    return found


def gallery(folder: Path, extent: str) -> None:
    """Write a page for each example, and one page with all pictures."""
    scripts = sorted(ROOT.glob("examples/*.py"))
    with ThreadPoolExecutor(2) as pool:
        outputs = list(pool.map(lambda s: output(s, extent), scripts))
    cards = []
    for script, printed in zip(scripts, outputs, strict=True):
        name, text = script.stem, script.read_text(encoding="utf-8")
        title, *rest = (ast.get_docstring(ast.parse(text)) or name).split("\n", 1)
        code = text.split('"""', 2)[-1].lstrip()  # the page begins with the docstring
        picture = PICTURES / f"{name}.png"
        image = f"![{title}](/_static/gallery/{name}.png)\n\n" if picture.exists() else ""
        said = f"Output:\n\n```text\n{printed.strip()}\n```\n" if printed else ""
        put(
            folder / f"{name}.md",
            f"# {title.rstrip('.')}\n\n{plain(' '.join(rest))}\n\n{image}"
            f"```python\n{code}```\n\n{said}",
        )
        shown = f'<img src="../../_static/gallery/{name}.png" alt="">' if image else ""
        words = title.replace("`", "")
        cards.append(f'<a href="{name}.html">{shown}<p>{words}</p></a>')
    hidden = "\n".join(script.stem for script in scripts)
    put(
        folder / "index.md",
        "# Gallery\n\nShort scripts of `examples/`. A test checks the number that each prints.\n\n"
        '```{raw} html\n<div class="gallery">\n' + "\n".join(cards) + "\n</div>\n```\n\n"
        f"```{{toctree}}\n:hidden:\n\n{hidden}\n```\n",
    )


def plain(text: str) -> str:
    """Return a docstring as Markdown with literal stars."""
    return text.strip().replace("*", r"\*")


def output(script: Path, extent: str) -> str:
    """Return what a script prints, or "" if it is not run; "all" also keeps its figure."""
    digest = hashlib.sha256(script.read_bytes() + package_digest()).hexdigest()[:24]
    kept = KEPT / f"{script.stem}-{digest}.txt"
    if not kept.exists():
        left_out = extent in ("quick", "text") or (extent != "all" and script.stem in LONG_EXAMPLES)
        if left_out or missing(script):
            return ""
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as scratch:
            figure = Path(scratch) / f"{script.stem}.png"
            if "Path(sys.argv[1]" in script.read_text(encoding="utf-8"):
                figure.mkdir()  # takes a folder
            done = subprocess.run(
                [sys.executable, str(script), str(figure)],
                cwd=scratch, env={**os.environ, "MPLBACKEND": "Agg"},
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            if done.returncode:
                raise RuntimeError(f"{script.name} failed:\n{done.stderr[-2000:]}")
            if extent == "all":
                keep_picture(figure, script.stem)
        kept.write_text(done.stdout, encoding="utf-8")
    return kept.read_text(encoding="utf-8")


def keep_picture(figure: Path, name: str) -> None:
    """Keep an existing thumbnail: two runs of Matplotlib differ in bytes, not in content."""
    found = figure if figure.is_file() else None
    if found is None and figure.is_dir():
        found = next(iter(sorted(figure.glob("*.png"))), None)
    if found is not None and not (PICTURES / f"{name}.png").exists():
        PICTURES.mkdir(parents=True, exist_ok=True)
        shutil.copy(found, PICTURES / f"{name}.png")


def missing(script: Path) -> bool:
    """Whether a script needs a package that is not installed."""
    names = {"sklearn", "flint", "torch", "jax"}
    text = script.read_text(encoding="utf-8")
    return any(
        re.search(rf"^\s*(import|from) {name}\b", text, re.MULTILINE)
        and importlib.util.find_spec(name) is None
        for name in names
    )


def package_digest() -> bytes:
    """Digest of the source of the package, the front of the explorer included."""
    here = Path(dmft.__file__).parent
    files = sorted(p for p in here.rglob("*") if p.suffix in (".py", ".js", ".css"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).digest()


def api(folder: Path) -> None:
    """One page per name and one per group of `help(dmft)`."""
    groups = grouped_names()
    for title, names in groups.items():
        rows = "\n".join(f"   {name}" for name in names)
        put(
            folder / f"{slug(title)}.md",
            f"# {title}\n\n```{{eval-rst}}\n.. currentmodule:: dmft\n\n.. autosummary::\n"
            f"   :toctree: .\n   :nosignatures:\n\n{rows}\n```\n",
        )
    tables = "".join(
        f"\n## [{title}]({slug(title)}.md)\n\n```{{eval-rst}}\n.. currentmodule:: dmft\n\n"
        + ".. autosummary::\n   :nosignatures:\n\n"
        + "".join(f"   {name}\n" for name in names)
        + "```\n"
        for title, names in groups.items()
    )
    members = {
        "rules": "Rows fixed View views copies Random gram mean",
        "laws": "Normal Uniform Laplace Discrete Rademacher Bernoulli JointNormal",
    }
    for module, shown in members.items():
        found = [(name, getattr(getattr(dmft, module), name)) for name in shown.split()]
        kinds = [(name, "class" if inspect.isclass(x) else "function") for name, x in found]
        rows = "\n".join(f".. auto{kind}:: {name}\n" for name, kind in kinds)
        put(
            folder / f"{module}.md",
            f"# dmft.{module}\n\n```{{eval-rst}}\n.. currentmodule:: dmft.{module}\n\n{rows}```\n",
        )
    papers = "\n".join(f"   {name}" for name in dmft.literature.__all__ if name[0].islower())
    put(
        folder / "literature.md",
        "# dmft.literature\n\nModels, rules and networks of papers: "
        "`help(dmft.literature.saad_solla)` describes one.\n\n```{eval-rst}\n"
        f".. currentmodule:: dmft.literature\n\n.. autosummary::\n\n{papers}\n```\n",
    )
    tables += (
        "\n## Modules\n\n[dmft.rules](rules.md): vectors of learning rules. [dmft.laws](laws.md): "
        "distributions. [dmft.literature](literature.md): models of papers.\n"
    )
    listed = "\n".join([*map(slug, groups), "rules", "laws", "literature"])
    put(
        folder / "index.md",
        f"# API reference\n\nThe public names of dmft {VERSION}, grouped as in `help(dmft)`. "
        "[Conventions](../../reference/conventions.md) defines time, risk and widths; "
        "[Command line](../command_line.md) describes the command and its TOML file.\n"
        f"{tables}\n```{{toctree}}\n:hidden:\n\n{listed}\n```\n",
    )


def grouped_names() -> dict[str, list[str]]:
    """Public names by their heading in the docstring of the package."""
    groups: dict[str, list[str]] = {}
    title, seen = "", set()
    for line in (dmft.__doc__ or "").splitlines():
        if re.fullmatch(r"[A-Z][a-z ]+", line):
            title = line
        if not title:
            continue
        for name in re.findall(r"\w+", line):
            if name in dmft.__all__ and name not in seen and not is_module(name):
                seen.add(name)
                groups.setdefault(title, []).append(name)
    others = [
        n for n in dmft.__all__ if n not in seen and not n.startswith("_") and not is_module(n)
    ]
    if others:
        groups["More"] = others
    return groups


def slug(title: str) -> str:
    """File name of a group of names."""
    return title.lower().replace(" ", "_")


def shown_members() -> dict[str, dict[str, list[str]]]:
    """Methods and properties on the page of each class, most used first.

    Users call the methods that have an example, or override one that has. `NOT_SHOWN` are used by
    the library only.
    """
    found = {}
    for name in dmft.__all__:
        cls = getattr(dmft, name)
        if not inspect.isclass(cls):
            continue
        methods, properties = [], []
        for member in dir(cls):
            value = inspect.getattr_static(cls, member)
            function = getattr(value, "__func__", None) or getattr(value, "fget", None)
            function = function or getattr(value, "func", value)
            ours = str(getattr(function, "__module__", "")).startswith("dmft")
            if member.startswith("_") or member in NOT_SHOWN or not ours:
                continue
            if isinstance(value, property | functools.cached_property):
                properties.append(member)
            elif callable(function) and any(
                "Examples" in (getattr(base.__dict__.get(member), "__doc__", None) or "")
                for base in cls.__mro__
            ):
                methods.append(member)
        found[name] = {"methods": sorted(methods, key=rank), "properties": properties}
        found[name]["enum"] = list(cls.__members__) if issubclass(cls, enum.Enum) else []
    return found


def rank(name: str) -> tuple[int, str]:
    """Position of a method on its page."""
    return (FIRST.index(name) if name in FIRST else len(FIRST), name)


def command_line() -> str:
    """The page of the command and its file, from the parser and its table of keys."""
    text = [
        "# Command line and TOML file\n\nThe command `dmft` needs no Python. A TOML file declares "
        "the networks, the algorithm and the run; `dmft example > model.toml` writes one to start "
        "from:\n\n```toml\n" + EXAMPLE + "```\n\n## Commands\n\n| command | result |\n|---|---|"
    ]
    text += [f"| `dmft {name}` | {cell(words)} |" for name, words in COMMANDS.items()]
    text.append(
        "\nEvery command takes the file as its argument. `--set NAME=VALUE` changes a letter of "
        "`[parameters]`, `--plot`, `--save` and `--json` choose the output, and "
        "`dmft COMMAND --help` lists all options.\n\n| exit code | meaning |\n|---|---|\n"
        "| 0 | done |\n| 2 | invalid request |\n| 3 | numerical failure: diverged, not finite, "
        "outside the domain, out of budget |\n| 4 | tolerance not met |\n"
        "| 130 | interrupted; finished points are kept |\n\nResults are written to standard "
        "output, everything else to standard error.\n\n## Tables and keys\n\nUnknown tables and "
        "keys are errors. A letter, as `gamma` above, may replace any number of a declaration; its "
        "value is in `[parameters]`, and it can be an axis of a diagram. Formulas consist of "
        "numbers, letters, `+ - * / **`, `pi`, `E` and the functions `erf erfc exp sqrt tanh sin "
        "cos sinh cosh log sign Abs relu Heaviside` and `He(n, z)`. They are parsed by a "
        "whitelist and never evaluated as Python."
    )
    for name, table in SCHEMA.items():
        text.append(f"\n### `[{name}]`\n\n{sentence(table.text)}\n")
        if table.keys:
            text.append("| key | meaning |\n|---|---|")
        for key, entry in table.keys.items():
            notes = [entry.text]
            notes += (
                ["one of " + ", ".join(f'"{c}"' for c in entry.choices)] if entry.choices else []
            )
            notes += (
                ["only for kind " + ", ".join(f'"{k}"' for k in entry.only)] if entry.only else []
            )
            required = " **(required)**" if entry.required or entry.needed else ""
            text.append(f"| `{key}` | {cell('; '.join(notes))}{required} |")
    return "\n".join(text) + "\n"


def sentence(text: str) -> str:
    """Help text as a sentence of a page."""
    formula = text.split()[1] == "="
    return escaped_markdown(text if formula else text[0].upper() + text[1:]) + "."


def cell(text: str) -> str:
    """Help text in a cell of a table."""
    return escaped_markdown(text).replace("|", "\\|")


def escaped_markdown(text: str) -> str:
    """Plain text as Markdown: underscores, stars, brackets and angle brackets are themselves."""
    return re.sub(r"([_*\[\]<>{}^~$])", r"\\\1", text)


def is_module(name: str) -> bool:
    """Whether a public name is a module, or the symbol of time."""
    if name in {"laws", "rules", "t"}:
        return True
    return name in {"literature", "explore"} and hasattr(getattr(dmft, name), "__path__")
