"""How the figures look: colours, labels in the notation of `names`, axes. No global state."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmft.errors import MissingExtra
from dmft.names import QUANTITIES

# Okabe and Ito's palette without yellow (too light for lines): told apart by all eyes.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
# Teachers beyond the palette continue in another line style.
STYLES = ("-", "--", "-.", ":")
INK, FAINT = "#333333", "#999999"
# A positive axis spanning more than this many factors of ten is drawn logarithmic.
LOG_DECADES = 2.0


def pyplot() -> Any:
    """Import matplotlib's pyplot, or say which extra brings it."""
    try:
        from matplotlib import pyplot as plt
    except ImportError as error:
        raise MissingExtra('plot needs matplotlib: pip install "dmft[plot]"') from error
    return plt


def new_figure(shape: tuple[int, int], size: tuple[float, float], *, shown: bool) -> Any:
    """Return axes of a new figure, shape (rows, columns) squeezed.

    A figure that only goes to a file is not registered with pyplot: no window, nothing to close.
    """
    plt = pyplot()
    if shown:
        figure = plt.figure(figsize=size, layout="constrained")
    else:
        from matplotlib.figure import Figure

        figure = Figure(figsize=size, layout="constrained")
    return figure.subplots(*shape)


def colour(index: int) -> str:
    """Colour of the teacher neuron (or of the curve) of this number."""
    return COLOURS[index % len(COLOURS)]


def line_style(index: int) -> str:
    """Line style that goes with `colour`."""
    return STYLES[(index // len(COLOURS)) % len(STYLES)]


def symbol(name: str) -> str:
    """Return a quantity or a parameter in mathtext: its LaTeX name where the library has one."""
    if name in QUANTITIES:
        return f"${QUANTITIES[name].latex}$"
    head, _, tail = name.partition("_")
    greek = {
        "alpha", "beta", "gamma", "delta", "Delta", "epsilon", "eta", "kappa", "lambda", "mu",
        "omega", "Omega", "rho", "sigma", "tau", "theta", "zeta",
    }  # fmt: skip
    first = rf"\{head}" if head in greek else head if len(head) == 1 else rf"\mathrm{{{head}}}"
    if not tail:
        return f"${first}$"
    inner = tail.replace("_", r"\,")
    return f"${first}_{{\\mathrm{{{inner}}}}}$"


def described(name: str) -> str:
    """Return an axis label: what the quantity is, and its symbol."""
    words = {"learning_rate": "learning rate", "label_noise": "label noise", "risk": "risk"}
    if name in words:
        return f"{words[name]} {symbol(name)}"
    # Words (as in "escape time") are a label already; a letter is set as mathematics.
    return name if " " in name else symbol(name)


def time_label(unit: str) -> str:
    """Return the label of a time axis from the words of a record's time unit."""
    text = unit.split(";")[0].split(",")[0].strip()
    if not text.startswith("t ="):
        return "time $t$"
    text = text.removeprefix("t =").strip()
    text = text.replace("learning_rate", "gamma").replace("gamma", r"\gamma")
    text = text.replace("steps", r"\mathrm{steps}").replace(" * ", r"\,").replace(" / ", "/")
    text = text.replace("(p d)", "(pd)")
    return f"time $t = {text}$" if " " not in text else "time $t$"


def wants_log(values: NDArray[np.float64]) -> bool:
    """Whether positive values fill a logarithmic axis better: wide, and crowded at its low end."""
    positive = values[values > 0]
    if positive.size < 3 or positive.size < values.size - 1:
        return False
    spread = np.log10(positive.max() / positive.min())
    return bool(spread > LOG_DECADES and np.median(positive) < 0.2 * positive.max())
