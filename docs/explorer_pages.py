"""Write the three explorers of the docs, each one file without a server.

Run as `python docs/explorer_pages.py FOLDER`; prints the names and sizes.
"""

import sys
from pathlib import Path

import sympy as sp

import dmft
from dmft.explorer.session import Session
from dmft.explorer.static import write_static

A, OMEGA = sp.symbols("a omega", real=True)


def sessions() -> dict[str, Session]:
    """Sessions by the name of their page."""
    return {
        "saad_solla": Session(
            dmft.literature.saad_solla(2, label_noise=1e-3),
            dmft.SGD(0.5),
            t_max=1000.0,
            title="Saad and Solla: the plateau of a soft committee machine",
        ),
        "phase_retrieval": Session(
            dmft.literature.phase_retrieval(1, label_noise=0.1),
            dmft.SGD(0.05, constraint="sphere"),
            t_max=50.0,
            title="Phase retrieval on the sphere: escape from mediocrity",
        ),
        "two_token_attention": Session(
            dmft.literature.positional_semantic(A, OMEGA),
            dmft.GradientFlow(),
            start=dmft.Alignment(e=0.1, m=0.1),
            t_max=60.0,
            ranges={"omega": (0.0, 1.0), "a": (0.2, 3.0)},
            title="Two-token attention: position or meaning",
            values={"a": 1.5, "omega": 0.3},
        ),
    }


def main(folder: Path) -> None:
    """Write the pages."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, session in sessions().items():
        path = write_static(session, folder / f"explore_{name}.html")
        print(f"{path.name}: {path.stat().st_size // 1000} kB")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("run as: python docs/explorer_pages.py FOLDER")
    main(Path(sys.argv[1]))
