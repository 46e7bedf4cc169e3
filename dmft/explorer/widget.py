"""`dmft.explore`: the page in a notebook, by the anywidget protocol."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dmft.errors import BadParameter, MissingExtra
from dmft.explorer.page import MODULES, faces, inline, script, style
from dmft.explorer.session import Session
from dmft.record import plain

RENDER = """
export default {
    render({ model, el }) {
        const waiting = new Map();
        let count = 0;
        const heard = (message) => {
            waiting.get(message.number)?.(message.answer);
            waiting.delete(message.number);
        };
        model.on("msg:custom", heard);
        const description = model.get("description");
        const backend = {
            form: "widget",
            simulates: description.simulates,
            ask: (question) => new Promise((done) => {
                waiting.set(++count, done);
                model.send({ number: count, question });
            }),
        };
        if (!document.getElementById("dmft-explorer-fonts")) {
            const sheet = document.createElement("style");
            sheet.id = "dmft-explorer-fonts";
            sheet.textContent = FACES;
            document.head.append(sheet);
        }
        const root = document.createElement("div");
        el.append(root);
        new Explorer(root, description, backend, katex);
        return () => model.off("msg:custom", heard);
    },
};
"""


def explore(
    model: Any,
    algorithm: Any = None,
    *,
    start: Any = None,
    t_max: float = 100.0,
    dim: int | None = None,
    ranges: Mapping[str, tuple[float, float]] | None = None,
    title: str | None = None,
    **values: float,
) -> Any:
    r"""Explore a model in a notebook with sliders, curves, removable terms and a phase diagram.

    Parameters
    ----------
    model, algorithm
        As in `dmft.derive`, for one-pass algorithms and gradient flow.
    start : Overlaps, Alignment or {"dim": ..., "seed": ...}, optional
        Initial overlaps; by default of random weights in 1000 dimensions. Sequence models
        require an `Alignment`.
    t_max : float
        Initial value of the final time.
    dim : int, optional
        Input dimension of the map of one step, as in `dmft.derive`.
    ranges : mapping of str to (low, high), optional
        Ranges of the sliders.
    title : str, optional
    **values
        Initial values of the symbols in the declarations.

    Returns
    -------
    anywidget.AnyWidget
        Widget for JupyterLab, notebooks, marimo (``mo.ui.anywidget``) and VS Code. The command
        ``dmft explore`` shows the same page without a notebook.

    Raises
    ------
    MissingExtra
        If anywidget (the extra ``explore``) is not installed.
    BadParameter
        For symbols without a value, and for equations that are too slow for interactive use.

    Examples
    --------
    >>> import dmft
    >>> model = dmft.literature.saad_solla(2, label_noise=1e-3)
    >>> page = dmft.explore(model, dmft.SGD(learning_rate=0.5), t_max=1000.0)  # doctest: +SKIP
    >>> page.session.description()["terms"]["sgd_noise"]  # doctest: +SKIP
    ['Q']
    """
    if algorithm is None:
        raise BadParameter(
            "explore takes a model and its algorithm; random networks, rules of vectors and static "
            "limits have no page: dmft.plot draws their runs"
        )
    session = Session(
        model, algorithm, start=start, t_max=t_max, dim=dim, ranges=ranges, title=title,
        values=values,
    )  # fmt: skip
    return widget_of(session)


def widget_of(session: Session) -> Any:
    """The widget of a session."""
    try:
        import anywidget
        import traitlets
    except ImportError as error:
        raise MissingExtra(
            'dmft.explore shows a widget and needs anywidget: pip install "dmft[explore]"; '
            "the command `dmft explore` needs no extra"
        ) from error

    class ExplorerWidget(anywidget.AnyWidget):
        """The page; `session` answers it."""

        _esm = f"{script(*MODULES)}\nconst FACES = {inline(faces())};\n{RENDER}"
        _css = style(False)
        description = traitlets.Dict().tag(sync=True)

        def __init__(self) -> None:
            self.session = session
            super().__init__(description=plain(session.description()))
            self.on_msg(self._asked)

        def _asked(self, _: Any, message: Any, buffers: Any) -> None:
            answer = plain(session.reply(message.get("question")))
            self.send({"number": message.get("number"), "answer": answer})

    return ExplorerWidget()
