"""The page as one file without a server: the right-hand side in JavaScript, integrated there."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

from dmft.codegen.export.javascript import javascript_text
from dmft.codegen.export.system import System as Exported
from dmft.errors import BadParameter
from dmft.explorer.answers import numbers
from dmft.explorer.controls import Control
from dmft.explorer.page import (
    BODY,
    MODULES,
    STATIC_MODULES,
    digest,
    html,
    in_page,
    inline,
    script,
    style,
)
from dmft.explorer.session import Session
from dmft.explorer.systems import SWITCH, start_of

# Starts that a file holds: of these dimensions and seeds, at widths up to this.
DIMS, SEEDS, WIDEST = (100, 1000, 10_000, 100_000, 1_000_000), 10, 6
# Terms of which all choices are printed.
MOST_TERMS = 4
START = """
const description = {description};
const system = (() => {{
{system}
return {{ rates, observe, PARAMETERS, check }};
}})();
const backend = staticBackend(system, description, {stored});
new Explorer(document.getElementById("explorer"), description, backend, katex);
"""
POLICY = (
    "default-src 'none'; script-src {script}; style-src {style}; font-src data:; "
    "img-src data: blob:; base-uri 'none'; form-action 'none'"
)


def write_static(session: Session, path: str | Path) -> Path:
    """Write a session as one HTML file.

    Curves, the diagram, switches, links and texts work in it; runs at finite dimension and typed
    activations need Python. Starts are those of ten seeds in five dimensions.
    """
    path = Path(path)
    if path.suffix.lower() not in (".html", ".htm"):
        raise BadParameter(f"the name of a page ends in .html, got {path.name!r}")
    path.write_text(static_text(session), encoding="utf-8")
    return path


def static_text(session: Session) -> str:
    """Text of the file."""
    if session.is_map:
        raise BadParameter(
            "a page without a server supports flows, not maps of whole steps: use the server, "
            "dmft explore"
        )
    if "events" in session.options:
        raise BadParameter(
            "a page without a server does not support events: leave out [solve] events, or use the "
            "server, dmft explore"
        )
    exported = Exported(session.declared.switched, session.running(session.values({})))
    description = session.description()
    description["controls"] = [
        made.facts() for c in session.controls.values() if (made := _control(exported, c))
    ]
    kept = {control["name"] for control in description["controls"]}
    for language in ("python", "toml"):
        description[language] = _settled(session, description[language], kept)
    code = re.sub(r"^export ", "", javascript_text(exported), flags=re.MULTILINE)
    description["python_formulas"] = _formulas(session)
    start = START.format(
        description=inline(description),
        system=in_page(code),
        stored=inline(_stored(session, exported)),
    )
    text = script(*MODULES, *STATIC_MODULES) + start
    sheet = style(True) + BODY
    policy = POLICY.format(script=digest(text), style=digest(sheet))
    head = f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
    return html(
        session.title, head, f"<style>{sheet}</style>", f'<script type="module">{text}</script>'
    )


def _control(exported: Exported, control: Control) -> Control | None:
    """The control as this file has it; None for what it holds as a number."""
    if control.name == "width":
        return replace(control, high=max(WIDEST, control.value))
    if control.structure or control.name in exported.fixed:
        return None
    if control.name == "dim":
        return replace(control, choices=tuple(sorted({*DIMS, control.value})))
    if control.name == "seed":
        return replace(control, high=max(SEEDS - 1, control.value))
    return control


def _settled(session: Session, text: str | None, kept: set[str]) -> str | None:
    """A script or file with the declared values of controls that this page does not have."""
    if text is None:
        return None
    for name, control in session.controls.items():
        if name not in kept:
            value = int(control.value) if control.whole else control.value
            text = text.replace("{{" + name + "}}", str(value))
    return text


def _formulas(session: Session) -> dict[str, str]:
    answer = session.reply({"kind": "equations"})
    formulas: dict[str, str] = answer["python"]
    return formulas


def _stored(session: Session, exported: Exported) -> dict[str, Any]:
    """Numbers that the page cannot compute: starts, readouts, printed equations."""
    trained = not exported.written_out and session.declared.equations.algorithm.trains_readout
    if trained:
        raise BadParameter(
            "a page without a server does not support trained readouts: use the server, dmft "
            "explore"
        )
    spec, model = session.spec, session.declared.model
    facts: dict[str, Any] = {
        "switch": SWITCH,
        "start": spec["kind"],
        "observed": len(exported.observed),
        "equations": _equations(session),
        "trained": trained,
    }
    if exported.written_out:
        return facts | {
            "sizes": {n: len(s) for n, s in session.declared.equations.space.blocks.items()}
        }
    readouts = exported.readouts()
    return facts | readouts | {"width": int(model.student.width), "starts": _starts(session)}


def _starts(session: Session) -> dict[str, Any]:
    if session.spec["blocks"]:
        raise BadParameter("a page without a server does not support the blocks of a Spectrum")
    if session.spec["kind"] == "overlaps":
        return {"given": numbers(session.spec["start"])}
    found = {}
    values = session.values({})
    here = (values["dim"], values["seed"])
    widths: Iterable[float] = [values["width"]] if "width" in values else [0]
    if "width" in values:
        widths = range(1, int(max(WIDEST, values["width"])) + 1)
    for width in widths:
        moved = values | ({"width": float(width)} if width else {})
        model = session.system(moved, {}).model
        for dim in sorted({*DIMS, here[0]}):
            for seed in range(int(max(SEEDS - 1, here[1])) + 1):
                at = {"dim": dim, "seed": seed}
                start = start_of(session.spec, model, at, session.on_sphere)
                p = int(model.student.width)
                found[f"{p}/{int(dim)}/{seed}"] = numbers(start)
    return found


def _equations(session: Session) -> dict[str, Any]:
    """Printed equations by the terms that are switched off."""
    terms = sorted(session.declared.terms)
    most = len(terms) if len(terms) <= MOST_TERMS else 1
    found: dict[str, Any] = {}
    for count in range(most + 1):
        for off in combinations(terms, count):
            answer = session.reply({"kind": "equations", "off": list(off)})
            if "error" in answer:
                answer = {"error": answer["error"]}
            found[",".join(off)] = {n: v for n, v in answer.items() if n != "terms"}
    return found
