"""Figures of one column (3.4 inches) and of a page (7 inches): nothing is cut, nothing is covered.

Each kind of figure is drawn with matplotlib's own settings and with the style for print, and
measured: legends against what is drawn, labels, ticks and colour bars against the canvas.
"""

import importlib.resources
import importlib.util
import pickle
from pathlib import Path

import numpy as np
import pytest

import dmft
from dmft.display.style import WIDTHS, broken
from dmft.errors import BadParameter

matplotlib = pytest.importorskip("matplotlib")
plt = pytest.importorskip("matplotlib.pyplot")
Figure = pytest.importorskip("matplotlib.figure").Figure

_SPEC = importlib.util.spec_from_file_location("kinds", Path(__file__).parent / "figure_kinds.py")
made = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(made)
KINDS = made.KINDS

# Height of a page of text, in inches.
PAGE = 24 / 2.54
# Pixels by which a box may pass another: rounding, and half of a line's width.
SLACK = 1.5


@pytest.fixture(scope="module")
def records():
    """Records of each kind, made once."""
    kept = {}

    def of(kind):
        if kind not in kept:
            kept[kind] = KINDS[kind]()
        return kept[kind]

    return of


def box(artist):
    return artist.get_window_extent()


def shown_texts(figure):
    """Everything that is written in a figure, beside legends: words and where they stand."""
    found = [figure._suptitle] if getattr(figure, "_suptitle", None) else []
    for ax in figure.axes:
        if not ax.axison:
            found += ax.texts
            continue
        found += [ax.title, ax.xaxis.label, ax.yaxis.label, *ax.texts]
        for axis in (ax.xaxis, ax.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in axis.get_major_ticks():
                if low <= tick.get_loc() <= high:
                    found += [t for t in (tick.label1, tick.label2) if t.get_visible()]
    return [text for text in found if text.get_visible() and text.get_text()]


def overlap(one, other):
    """Pixels by which two boxes lie over each other, in the direction in which it is less."""
    x = min(one.x1, other.x1) - max(one.x0, other.x0)
    y = min(one.y1, other.y1) - max(one.y0, other.y0)
    return min(x, y)


def points_of(ax):
    """Points of curves, markers and error bars of axes, in pixels, as far as they are inside."""
    parts = [line.get_transform().transform(line.get_xydata()) for line in ax.lines]
    for group in ax.collections:
        offsets = np.ma.filled(np.ma.asarray(group.get_offsets(), dtype=float), np.nan)
        parts.append(group.get_offset_transform().transform(offsets))
    points = np.concatenate([np.reshape(part, (-1, 2)) for part in parts if np.size(part)])
    points = points[np.all(np.isfinite(points), axis=1)]
    inside = ax.bbox.padded(SLACK)
    return points[[inside.contains(*point) for point in points]]


def check(figure):
    """What has to hold of any figure."""
    # Twice, as for a file: a layout is done after colour bars have taken their shapes.
    figure.draw_without_rendering()
    figure.draw_without_rendering()
    canvas = figure.bbox.padded(SLACK)
    for text in shown_texts(figure):
        where = box(text)
        assert canvas.x0 <= where.x0, text
        assert where.x1 <= canvas.x1, text
        assert canvas.y0 <= where.y0, text
        assert where.y1 <= canvas.y1, text
    panels = [ax for ax in figure.axes if ax.axison]
    for number, ax in enumerate(panels):
        assert overlap(ax.bbox, figure.bbox) >= min(ax.bbox.width, ax.bbox.height) - SLACK
        assert min(ax.bbox.width, ax.bbox.height) > 5  # nothing collapsed
        for other in panels[:number]:
            assert overlap(ax.bbox, other.bbox) <= SLACK
    labels = [t for ax in panels for t in (ax.xaxis.label, ax.yaxis.label, ax.title)]
    labels = [text for text in labels if text.get_text()]
    for number, one in enumerate(labels):
        for other in labels[:number]:
            assert overlap(box(one), box(other)) <= SLACK, (one, other)
    legends = [ax.get_legend() for ax in figure.axes if ax.get_legend()] + figure.legends
    for number, legend in enumerate(legends):
        where = box(legend)
        assert canvas.x0 <= where.x0, legend.texts
        assert where.x1 <= canvas.x1, legend.texts
        assert canvas.y0 <= where.y0, legend.texts
        assert where.y1 <= canvas.y1, legend.texts
        for ax in panels:
            if len(ax.lines) + len(ax.collections):
                drawn = points_of(ax)
                assert not [p for p in drawn if where.padded(-SLACK).contains(*p)], legend.texts
        for text in shown_texts(figure):
            assert overlap(box(text), where) <= SLACK, (text, legend.texts)
        for other in legends[:number]:
            assert overlap(where, box(other)) <= SLACK


# Matplotlib's letters are the larger ones for a column, the style's the smaller for a page: the
# other two pairs lie between these. Every kind is drawn in one of the two at least.
LOOKS = [("column", "default"), ("page", "dmft.paper")]
BETWEEN = [("column", "dmft.paper"), ("page", "default")]
FIGURES = [
    pytest.param(kind, *look, marks=() if look == LOOKS[number % 2] else pytest.mark.slow)
    for number, kind in enumerate(KINDS)
    for look in (*LOOKS, *BETWEEN)
]


# Curves, labels, regions, words in a plane: other records are drawn by the same functions, and
# bars of errors and marks in `test_axes_of_the_user_have_room`.
@pytest.mark.cases(
    "run (4, 3)-column-default",
    "diagram of labels-page-dmft.paper",
    "regions-column-default",
    "regimes of batches-column-default",
)
@pytest.mark.parametrize(("kind", "width", "style"), FIGURES)
def test_nothing_is_cut_or_covered(kind, width, style, records):
    with plt.style.context(style):
        axes = dmft.plot(*records(kind), width=width)
        figure = np.ravel(axes)[0].figure
        assert figure.get_size_inches()[0] == WIDTHS[width]
        assert figure.get_size_inches()[1] <= PAGE
        check(figure)
    plt.close(figure)


@pytest.mark.cases(2)
@pytest.mark.parametrize(
    "kind", ["run (2, 2), simulation, escape", "diagram of values", "boundary"]
)
def test_axes_of_the_user_have_room(kind, records):
    """A plain `subplots` of one column, as a user makes it: no layout is asked for."""
    plain = [Figure(figsize=(3.4, 5.0)) for _ in range(2)]
    count = 2 if kind.startswith("run") else 1
    axes = plain[0].subplots(count, 1)
    dmft.plot(*records(kind), ax=axes)
    check(plain[0])
    # Who has placed axes by hand keeps the places.
    plain[1].subplots_adjust(left=0.3, bottom=0.4, top=0.75, hspace=1.0)
    axes = plain[1].subplots(count, 1)
    before = [ax.get_position().bounds for ax in np.ravel(axes)]
    if count == 2:
        dmft.plot(*records(kind), ax=axes)
        assert [ax.get_position().bounds for ax in axes] == before


def test_two_diagrams_beside_each_other():
    """Each has its own bar and its own legend: neither takes the other's place."""
    figure = Figure(figsize=(7.0, 3.4))
    left, right = figure.subplots(1, 2)
    dmft.plot(made.diagram(), ax=left)
    dmft.plot(made.diagram("fixed_point"), ax=right)
    check(figure)
    assert len(figure.axes) == 3
    assert not figure.legends
    words = [[t.get_text() for t in ax.get_legend().get_texts()] for ax in (left, right)]
    assert words[0] == ["not reached until t = 1000", "left the domain"]
    assert words[1][-1] == "left the domain"
    # The bar stands between the axes that it belongs to and the others.
    bar = figure.axes[2]
    assert left.bbox.x1 < bar.bbox.x0 < bar.bbox.x1 < right.bbox.x0


# Matplotlib's letters of 10 points leave no room for two bars in a column.
GRIDS = [
    pytest.param(style, width, shape, id=f"{style}-{width}-{shape[0]}x{shape[1]}")
    for style, width in (("dmft.paper", "column"), ("dmft.paper", "page"), ("default", "page"))
    for shape in ((1, 1), (1, 2), (2, 2))
]


# The narrowest; two beside each other on a page are `test_two_diagrams_beside_each_other`.
@pytest.mark.slow
@pytest.mark.parametrize(("style", "width", "shape"), GRIDS)
@pytest.mark.parametrize("layout", [None, "constrained"])
def test_bars_stand_beside_their_own_axes(style, width, shape, layout):
    """Whatever is drawn later: legends that became too wide pushed the first bar away."""
    records = [made.diagram(), made.diagram(failures=False), made.diagram("fixed_point")]
    records.append(made.diagram(failures=False))
    rows, columns = shape
    inches = WIDTHS[width]
    with plt.style.context(style):
        height = inches if columns == 1 else 0.7 * inches
        figure = Figure(figsize=(inches, rows * height), layout=layout)
        axes = np.ravel(figure.subplots(rows, columns))
        for ax, record in zip(axes, records, strict=False):
            dmft.plot(record, ax=ax)
        check(figure)
    bars = {c.colorbar.ax: ax for ax in axes for c in ax.collections if c.colorbar}
    assert len(bars) == {1: 1, 2: 2, 4: 3}[len(axes)]  # labels have no bar
    for bar, ax in bars.items():
        gap = (bar.bbox.x0 - ax.bbox.x1) / figure.dpi
        assert 0.0 < gap <= 0.06 * ax.bbox.width / figure.dpi + 0.05
        np.testing.assert_allclose((bar.bbox.y0, bar.bbox.y1), (ax.bbox.y0, ax.bbox.y1), atol=0.5)
    for ax in axes:
        legend = ax.get_legend()
        below = ax.xaxis.get_tightbbox().y0
        if legend:  # close to the label of its own axes
            assert 0.0 <= below - box(legend).y1 <= 0.1 * figure.dpi


def test_labels_that_were_broken_become_whole_again():
    figure = Figure(figsize=(3.4, 3.0))
    left, right = figure.subplots(1, 2)
    dmft.plot(made.diagram(failures=False), ax=left)
    dmft.plot(made.diagram(failures=False), ax=right)
    assert "\n" in left.get_xlabel()
    figure.set_size_inches(7.0, 3.0)
    dmft.plot(made.diagram(failures=False), ax=right)
    assert left.get_xlabel() == right.get_xlabel() == r"learning rate $\gamma$"


def test_figures_with_legends_are_pickled():
    axes = dmft.plot(made.diagram(), ax=Figure().subplots())
    again = pickle.loads(pickle.dumps(axes.figure))
    assert len(again.axes) == len(axes.figure.axes)


def test_colours_of_the_caller_reach_the_picture(records):
    from matplotlib.colors import LogNorm, Normalize

    shown = made.diagram(failures=False)
    axes = dmft.plot(shown, cmap="magma", norm=LogNorm(1, 500), levels=[10.0, 30.0])
    mesh = axes.collections[0]
    assert mesh.cmap.name == "magma"
    assert (mesh.norm.vmin, mesh.norm.vmax) == (1, 500)
    lines = axes.collections[1]
    assert list(lines.levels) == [10.0, 30.0]
    # On a line of level v the diagram has the value v.
    for level, path in zip(lines.levels, lines.get_paths(), strict=True):
        x, y = path.vertices.T
        np.testing.assert_allclose(3.0 / (1.05 - x) ** 3 + 10 * y, level, rtol=0.03)
    (found,) = records("landscape")
    contours = dmft.plot(found, cmap="cividis", levels=7)[0]
    assert contours.collections[0].cmap.name == "cividis"
    assert len(contours.collections[0].levels) <= 9
    maps = dmft.plot(made.descent(), cmap="magma", norm=Normalize(0, 2))[1]
    assert {panel.collections[0].cmap.name for panel in maps} == {"magma"}
    for record, name in ((made.run(), "cmap"), (made.descent(), "levels")):
        with pytest.raises(BadParameter, match=f"{name} = .*phase diagrams and landscapes take"):
            dmft.plot(record, **{name: "magma"})
    plt.close("all")


def styles(axes, names):
    """Colour and line style of the curves with these names."""
    return [
        (line.get_color(), line.get_linestyle()) for line in axes.lines if line.get_label() in names
    ]


def test_colours_are_teachers_and_line_styles_are_runs():
    axes = dmft.plot(made.run(4, 3))
    names = ["$M_{j1}$", "$M_{j2}$", "$M_{j3}$", "$Q_{jj}$", "$Q_{jl}$"]
    assert [t.get_text() for t in axes[0].get_legend().get_texts()] == names
    looks = [set(styles(axes[0], [name])) for name in names]
    assert [len(look) for look in looks] == [1] * 5  # all units alike
    assert len(set.union(*looks)) == 5
    axes = dmft.plot(*(made.run(2, 2, rate=rate) for rate in (0.1, 0.5)))
    for ax in axes:
        drawn = [line for line in ax.lines if len(line.get_xdata())]
        halves = drawn[: len(drawn) // 2], drawn[len(drawn) // 2 :]
        assert [{line.get_linestyle() for line in half} for half in halves] == [{"-"}, {"--"}]
        assert [x.get_color() for x in halves[0]] == [x.get_color() for x in halves[1]]
    assert [t.get_text() for t in axes[0].get_legend().get_texts()] == names[:2] + names[3:]
    plt.close("all")


def test_runs_are_told_apart():
    """By the parameters in which they differ, else by their numbers."""
    rates = (0.1, 0.5, 2.0)
    _, risk = dmft.plot(*(made.run(rate=rate) for rate in rates))
    words = [t.get_text() for t in risk.get_legend().get_texts()]
    assert words == [f"$\\gamma$ = {rate:g}" for rate in rates]
    assert len(set(styles(risk, words))) == 3
    _, risk = dmft.plot(made.run(), made.run())
    assert [t.get_text() for t in risk.get_legend().get_texts()] == ["theory 1", "theory 2"]
    plt.close("all")


def test_a_boundary_shades_no_cell():
    """Points of the grid have the labels that were computed there; between them are the curves."""
    found = made.boundary()
    axes = dmft.plot(found)
    assert not [c for c in axes.collections if type(c).__name__ in ("QuadMesh", "PolyQuadMesh")]
    x, y = np.meshgrid(found.x, found.y)
    for points in axes.collections:
        for at in points.get_offsets():
            label = found.labels[np.argwhere((x == at[0]) & (y == at[1]))[0][0], :]
            assert points.get_label() in [str(each) for each in label]
    assert sum(len(points.get_offsets()) for points in axes.collections) == found.labels.size
    words = [t.get_text() for t in axes.get_legend().get_texts()]
    assert "between learns and does not learn" in words
    assert not [text for text in words if "|" in text or "points" in text]
    # Over a diagram only the curves are drawn.
    under = dmft.plot(made.diagram())
    before = len(under.collections)
    dmft.plot(found, ax=under)
    assert len(under.collections) == before
    plt.close("all")


def test_regions_end_at_their_curves():
    """The shading of a coarse grid would reach beyond the curves that are drawn over it."""
    found = made.regions()
    axes = dmft.plot(found)
    mesh = axes.collections[0]
    corners = mesh.get_coordinates()
    a = 0.5 * (corners[0, 1:, 0] + corners[0, :-1, 0])
    omega = 0.5 * (corners[1:, 0, 1] + corners[:-1, 0, 1])
    drawn = np.asarray(mesh.get_array()).reshape(omega.size, a.size)
    # Exact labels at points of a grid that the figure has never seen.
    exact = dmft.literature.positional_semantic_diagram(
        np.linspace(0.71, 0.99, 17), np.linspace(0.41, 0.99, 19)
    )
    right = [
        found.names[int(drawn[np.abs(omega - y).argmin(), np.abs(a - x).argmin()])]
        == exact.names[int(exact.labels[i, j])]
        for i, y in enumerate(exact.y)
        for j, x in enumerate(exact.x)
    ]
    assert np.mean(right) > 0.99
    plt.close("all")


def test_limits_are_written_where_the_plane_has_room(records):
    """In a narrow plane a legend names the regions; in a wide one no word lies over another."""
    (plane,) = records("regimes")
    narrow = dmft.plot(plane, width="column")
    words = [t.get_text() for t in narrow.get_legend().get_texts()]
    assert [w.replace("\n", " ").split(":")[0] for w in words] == [r.title for r in plane]
    assert not narrow.texts
    wide = dmft.plot(plane, width="page")
    wide.figure.draw_without_rendering()
    assert wide.get_legend() is None
    assert {t.get_text().split("\n")[0] for t in wide.texts} == {r.title for r in plane}
    # Turned words have boxes larger than themselves: their middles are apart by a line and more.
    middles = [np.mean(box(text).get_points(), axis=0) for text in wide.texts]
    gaps = [np.hypot(*(a - b)) for n, a in enumerate(middles) for b in middles[:n]]
    assert min(gaps) > 3 * wide.texts[0].get_fontsize() * wide.figure.dpi / 72
    plt.close("all")


def test_the_style_is_found_by_its_name():
    assert (importlib.resources.files("dmft") / "paper.mplstyle").is_file()
    before = dict(matplotlib.rcParams)
    with plt.style.context("dmft.paper"):
        assert matplotlib.rcParams["figure.figsize"] == [WIDTHS["column"], 2.5]
        assert matplotlib.rcParams["font.size"] == 8
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize("width", ["wide", 0.0, float("inf"), -3.0, 246])
def test_widths_that_are_none(width):
    with pytest.raises(BadParameter, match="a width in inches, 'column'"):
        dmft.plot(made.run(), width=width)


def test_widths_of_figures_are_no_widths_of_lines(tmp_path):
    """Figures have theirs in inches, lines of LaTeX in points: each verb refuses the other's."""
    model = dmft.literature.phase_retrieval(1)
    equations = dmft.derive(model, dmft.SGD(0.1))
    records = (equations, dmft.population_risk(model), equations.explain("Q", "sgd_noise"))
    for width in (3.4, "column", "page", 0, float("nan")):
        for printed in records:
            with pytest.raises(BadParameter, match=r"points, 150 or more.*figures, of dmft.plot"):
                printed.latex(width=width)
        with pytest.raises(BadParameter, match=r"are for dmft.plot|must be a number"):
            dmft.latex(tmp_path / "a.tex", equations, width=width)


def test_a_width_is_of_a_new_figure():
    with pytest.raises(BadParameter, match="width = 3 applies only to new figures"):
        dmft.plot(made.run(), width=3, ax=Figure().subplots(1, 2))


def test_mathematics_is_not_broken():
    assert broken("time $t = a b$", 3) == "time\n$t = a b$"
    assert broken("one two three", 7) == "one two\nthree"
    assert broken("M$_{1 2}$, so", 4) == "M$_{1 2}$,\nso"
