"""Where the student of the page starts: drawn, given, tilted towards the teacher, made shorter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmft.errors import BadParameter
from dmft.model import Alignment, Overlaps, random_overlaps

# Of a random start that nobody declared.
DIM, SEED = 1000, 0


def start_spec(model: Any, algorithm: Any, given: Any) -> dict[str, Any]:
    """What a start is made of: drawn at random by default, else what was given.

    Raises
    ------
    BadParameter
        For a start of another kind of model.
    """
    if hasattr(model, "encoding"):
        return _alignment(model, given)
    blocks = getattr(model, "spectrum", None) is not None
    if isinstance(given, Overlaps):
        blocks = given.M.ndim == 3
        return {"kind": "overlaps", "start": given, "blocks": blocks}
    if given is None or isinstance(given, Mapping):
        keys = {"dim": DIM, "seed": SEED, "normalised": algorithm.on_sphere, **(given or {})}
        return {"kind": "random", "blocks": blocks, **keys}
    raise BadParameter(
        f"start must be dmft.Overlaps, or dim and seed of a random one, got {given!r:.80}"
    )


def _alignment(model: Any, given: Any) -> dict[str, Any]:
    if given is None:
        raise BadParameter("a sequence model starts from dmft.Alignment(e, m): give start=")
    if not isinstance(given, Alignment):
        raise BadParameter(f"start of a sequence model is a dmft.Alignment, got {given!r:.80}")
    parts = {name: np.atleast_1d(getattr(given, name)).tolist() for name in ("e", "m")}
    return {"kind": "alignment", "radius": given.radius, "blocks": False, **parts}


def start_of(
    spec: Mapping[str, Any], model: Any, values: Mapping[str, float], on_sphere: bool
) -> Overlaps | Alignment:
    """The start at the values of the sliders."""
    if spec["kind"] == "alignment":
        e, m = (_read(spec, name, values) for name in ("e", "m"))
        return Alignment(e, m, spec["radius"])
    if spec["kind"] == "random":
        dim, seed = int(values["dim"]), int(values["seed"])
        start = random_overlaps(model, dim, seed, normalised=bool(spec["normalised"]))
    else:
        start = spec["start"]
    size, overlap = values.get("size", 1.0), values.get("overlap", 0.0)
    if on_sphere:
        size = 1.0
    return start if size == 1.0 and overlap == 0.0 else tilted(start, overlap, size)


def _read(spec: Mapping[str, Any], name: str, values: Mapping[str, float]) -> Any:
    if len(spec[name]) == 1:
        return values[name]
    return [values[f"{name}_{n + 1}"] for n in range(len(spec[name]))]


def tilted(start: Overlaps, overlap: float, size: float) -> Overlaps:
    """Rows of the student turned towards the teacher's, each by the same share, then rescaled.

    Equation    w_j -> size |w_j| u_j / |u_j|, u_j = sqrt(1 - c^2) w_j / |w_j| + c w*_r / |w*_r|,
                r = j mod k
    Shapes      start Q (p, p), M (p, k), P (k, k)

    Examples
    --------
    >>> import dmft
    >>> from dmft.explorer.starts import tilted
    >>> tilted(dmft.Overlaps([[1.0]], [[0.0]]), overlap=0.6, size=2.0).M.round(12).tolist()
    [[1.2]]
    """
    p, k = start.M.shape
    length = np.sqrt(np.diag(start.Q))
    towards = np.zeros((p, k))
    for j in range(p):
        towards[j, j % k] = overlap / np.sqrt(start.P[j % k, j % k])
    own = np.diag(np.sqrt(1.0 - overlap**2) / length)
    Q, M = _combined(own, towards, start)
    scale = size * length / np.sqrt(np.diag(Q))
    Q, M = Q * np.outer(scale, scale), M * scale[:, None]
    np.fill_diagonal(Q, (size * length) ** 2)
    return Overlaps(Q, M, start.P, start.readout)


def _combined(
    own: NDArray[np.float64], towards: NDArray[np.float64], start: Overlaps
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Overlaps of the rows own W + towards W*."""
    across = own @ start.M @ towards.T
    Q = own @ start.Q @ own.T + across + across.T + towards @ start.P @ towards.T
    return Q, own @ start.M + towards @ start.P
