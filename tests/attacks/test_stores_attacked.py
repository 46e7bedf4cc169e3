"""Stores against other hash seeds, changed functions, foreign files and lost messages."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import sympy as sp

import dmft
from dmft.analysis.phase_diagram import STATUSES
from dmft.analysis.sweeps import run_sweep as run_sweep_module
from dmft.analysis.sweeps.named import name_of
from dmft.analysis.sweeps.run_sweep import collect, run_sweep
from dmft.analysis.sweeps.store import Store, open_store
from dmft.cli.main import main
from dmft.errors import BadParameter
from dmft.names import Status
from dmft.progress import Progress
from dmft.workflow.diagrams.measures import chosen_measure

POINTS = {"a": [1.0, 2.0, 3.0]}
SCRIPT = """
from dmft.analysis.sweeps.named import name_of
NAMES = {"red", "green", "blue", "yellow"}
def around(bound):
    return lambda a: a in {"x", "y", "z", "w"} or a in bound or a in NAMES
def inner(a):
    return [b for b in a if b in {"p", "q", "r"}]
def measure(a, k=frozenset({"one", "two", "three"})):
    return inner(a) or a in NAMES
print(name_of(around({"u", "v", "t"})), name_of(measure))
"""


def test_names_do_not_depend_on_the_hash_seed():
    """Issue 13, item 13: constants of code hold sets, printed in another order in each process."""
    found = set()
    for seed in (0, 1):  # of which each of these sets has another order
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True,
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
        )  # fmt: skip
        found.add(done.stdout)
    assert len(found) == 1
    assert found != {""}


def module(text):
    """Functions of a module of this text, as `measure` in it."""
    names = {"__name__": "of_the_user"}
    exec(compile(text, "of_the_user.py", "exec"), names)
    return names["measure"]


CHANGES = [
    ("def measure(a):\n    return a", "def measure(a):\n    return 2 * a"),
    ("K = 1\ndef measure(a):\n    return K * a", "K = 2\ndef measure(a):\n    return K * a"),
    (
        "def f(a):\n    return a\ndef measure(a):\n    return f(a)",
        "def f(a):\n    return -a\ndef measure(a):\n    return f(a)",
    ),
    ("def measure(a, k=1):\n    return k * a", "def measure(a, k=2):\n    return k * a"),
    ("def measure(a, *, k=1):\n    return k * a", "def measure(a, *, k=2):\n    return k * a"),
    (
        "T = {'u': [1]}\ndef measure(a):\n    return [T['u'][0] * b for b in (a,)][0]",
        "T = {'u': [2]}\ndef measure(a):\n    return [T['u'][0] * b for b in (a,)][0]",
    ),
    (
        "class M:\n    def __init__(s, k): s.k = k\n    def __call__(s, a): return s.k * a\n"
        "measure = M(1)",
        "class M:\n    def __init__(s, k): s.k = k\n    def __call__(s, a): return s.k * a\n"
        "measure = M(2)",
    ),
    (
        "class M:\n    def __call__(s, a): return a\nmeasure = M()",
        "class M:\n    def __call__(s, a): return -a\nmeasure = M()",
    ),
    (
        "import numpy as np\nW = np.zeros(99)\ndef measure(a):\n    return a + W.sum()",
        "import numpy as np\nW = np.ones(99)\ndef measure(a):\n    return a + W.sum()",
    ),
]


@pytest.mark.parametrize(("before", "after"), CHANGES)
def test_a_changed_function_is_not_served_from_the_old_store(tmp_path, before, after):
    run_sweep(POINTS, module(before), store=tmp_path / "s")
    assert run_sweep(POINTS, module(before), store=tmp_path / "s").computed == 0
    with pytest.raises(BadParameter, match="contains another sweep: its measure is"):
        run_sweep(POINTS, module(after), store=tmp_path / "s")


WORDS = {
    0: "another code", 1: "K = 1, here 2", 2: "another f", 3: "k = 1, here 2", 6: "k = 1, here 2",
    7: "another code", 8: "another W",
}  # fmt: skip


@pytest.mark.parametrize("case", WORDS)
def test_a_store_names_what_changed_in_a_function(tmp_path, case):
    before, after = CHANGES[case]
    run_sweep(POINTS, module(before), store=tmp_path / "s")
    with pytest.raises(BadParameter, match=rf"its measure is one with .*{WORDS[case]}") as refused:
        run_sweep(POINTS, module(after), store=tmp_path / "s")
    assert not re.search(r"[0-9a-f]{16}", str(refused.value).rpartition("its measure")[2])


def identity_of(measure, **options):
    return chosen_measure(measure, None, False, **options).known


def declared(noise=0.1, rate=0.05, m=0.1, decay=None, **options):
    """A sweep of equations, which no point needs: its store is made, and compared."""
    square = dmft.Committee(sp.Symbol("z", real=True) ** 2, width=1)
    eqs = dmft.derive(dmft.Model(square, square, noise), dmft.SGD(rate, constraint="sphere"))
    if decay is not None:
        j, r = eqs.indices["j"], eqs.indices["r"]
        eqs = eqs.with_term("M", "decay", decay * eqs.symbols["M"][j, r])
    start = dmft.Overlaps([[1.0]], [[m]])
    return {"equations": eqs, "start": start, "t_max": 1.0, **options}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"noise": 0.2}, "its declared.model.label_noise is 0.1, here 0.2"),
        ({"rate": 0.5}, "its declared.algorithm.learning_rate is 0.05, here 0.5"),
        ({"decay": 1}, r"its declared.changes is none, here M  added    decay: M\[j,r\]"),
        ({"m": 0.25}, r"its start is one with M\[0\]\[0\] = 0.1, here 0.25"),
        ({"rtol": 1e-9}, "its options.rtol is none, here 1e-09"),
        ({"t_max": 2.0}, "its t_max is 1.0, here 2.0"),
    ],
)
def test_a_store_names_what_changed_in_a_declaration(tmp_path, change, words):
    identity = identity_of("final_risk", **declared())
    Store.open(tmp_path / "s", identity, ("final_risk",))
    Store.open(tmp_path / "s", identity_of("final_risk", **declared()), ("final_risk",))
    other = identity_of("final_risk", **declared(**change))
    with pytest.raises(BadParameter, match=words) as refused:
        Store.open(tmp_path / "s", other, ("final_risk",))
    assert not re.search(r"[0-9a-f]{16}", str(refused.value).rpartition("another sweep")[2])
    # A store without words of its digests: what differs is named all the same.
    manifest = tmp_path / "s" / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "words": {}}))
    with pytest.raises(BadParameter, match="start is another" if "is one" in words else words):
        Store.open(tmp_path / "s", other, ("final_risk",))


def test_a_store_knows_the_scalars_of_a_start(tmp_path):
    """Of rules of vectors: starts that differ in them alone shared their points."""
    equations = dmft.derive(dmft.literature.reinforce())

    def identity(b):
        start = dmft.Overlaps([[1.0]], [[0.1]], [[1.0]], scalars={"b": b})
        return identity_of("reward", equations=equations, start=start, t_max=1.0)

    Store.open(tmp_path / "s", identity(0.0), ("reward",))
    with pytest.raises(BadParameter, match=r"its start is one with scalar_b = 0.0, here 0.7"):
        Store.open(tmp_path / "s", identity(0.7), ("reward",))


def test_results_at_another_declared_rate_are_not_served(tmp_path):
    """The fingerprint of equations holds symbols: .536 was the final risk at every rate."""
    points, keys = {"label_noise": [0.0]}, {"store": tmp_path / "s"}
    dmft.sweep(points, "final_risk", **declared(rate=0.05), **keys)
    with pytest.raises(BadParameter, match=r"algorithm\.learning_rate is 0\.05, here 0\.01"):
        dmft.sweep(points, "final_risk", **declared(rate=0.01), **keys)


def test_a_resumed_sweep_says_how_many_points_it_reused(tmp_path, monkeypatch):
    labels = []
    bar = lambda option, label: labels.append(label) or Progress(False, label)  # noqa: E731
    monkeypatch.setattr(run_sweep_module, "Progress", bar)
    first = dmft.sweep({"a": [1.0, 2.0]}, abs_of, store=tmp_path / "s")
    again = dmft.sweep({"a": [1.0, 2.0, 3.0]}, abs_of, store=tmp_path / "s")
    assert (first.reused, again.reused, again.computed) == (0, 2, 1)
    assert "from the store" not in repr(first)
    assert "2 of them from the store" in repr(again)
    assert labels == ["value", "value (2 of 3 points from the store)"]


def test_what_is_around_a_function_and_no_data_of_it():
    """Locks, modules and what calls itself have names; nothing is looked into without end."""
    text = (
        "import math, threading\nLOCK = threading.Lock()\n"
        "def measure(a):\n    with LOCK:\n        return measure(a - 1) if a > 1 else math.sqrt(a)"
    )
    assert name_of(module(text)) == name_of(module(text))
    assert name_of(math.sqrt) == "sqrt"
    assert name_of(np.sin) == "sin" or "sin" in name_of(np.sin)


@pytest.mark.parametrize(
    "name",
    ["shard-3of0-x.bin", "shard-5of3-x.bin", f"shard-0of{'9' * 99}-x.bin", "shard-0of1-x.bin/"],
)
def test_foreign_shard_names_are_refused_in_words(tmp_path, name):
    run_sweep(POINTS, abs_of, store=tmp_path / "s")
    path = tmp_path / "s" / name
    path.mkdir() if name.endswith("/") else path.write_bytes(b"1234")
    for read in (
        lambda: run_sweep(POINTS, abs_of, store=tmp_path / "s"),
        lambda: collect(POINTS, open_store(tmp_path / "s")),
    ):
        with pytest.raises(BadParameter, match="is not a shard of this store"):
            read()


def abs_of(a):
    return abs(a)


MANIFESTS = [
    "", "{", "[]", "null", "3", '"text"', "[" * 5000, "\udcff",
    {"identity": None}, {"identity": []}, {"identity": 3}, {"quantities": None},
    {"quantities": []}, {"quantities": [3]}, {"quantities": ["a", "a"]}, {"quantities": "value"},
    {"quantities": [f"q{n}" for n in range(99)]}, {"format": None}, {"format": "3"},
    {"format": 10**30}, {"identity": {"measure": "other"}}, {"identity": {"plane": 3}},
]  # fmt: skip


@pytest.mark.parametrize("bad", MANIFESTS, ids=str)
def test_bad_manifests_are_refused_in_words(tmp_path, bad):
    run_sweep(POINTS, abs_of, store=tmp_path / "s")
    manifest = tmp_path / "s" / "manifest.json"
    whole = json.loads(manifest.read_text())
    text = bad if isinstance(bad, str) else json.dumps({**whole, **bad})
    manifest.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(BadParameter, match=r"store|contains"):
        run_sweep(POINTS, abs_of, store=tmp_path / "s")
    if not (isinstance(bad, dict) and bad.get("identity")):
        with pytest.raises(BadParameter, match="store"):
            open_store(tmp_path / "s")


@pytest.mark.parametrize("damage", ["gone", "cut at a line", "cut in a line", "flipped"])
def test_a_point_whose_message_is_lost_is_computed_again(tmp_path, damage):
    def measure(a):
        return 1 / (a - 2.0) + 1 / (a - 3.0)

    first = run_sweep(POINTS, measure, store=tmp_path / "s", workers=1)
    assert list(first.messages) == [1, 2]
    (words,) = (tmp_path / "s").glob("*.txt")
    data = words.read_bytes()
    line = data.index(b"\n") + 1
    if damage == "gone":
        words.unlink()
    else:
        cut = {"cut at a line": data[:line], "cut in a line": data[: line + 9]}
        words.write_bytes(cut.get(damage, data[:line] + data[line:].replace(b"float", b"fleat")))
    again = run_sweep(POINTS, measure, store=tmp_path / "s")
    lost = 2 if damage == "gone" else 1
    assert again.computed == lost
    assert again.torn >= lost
    assert again.messages == first.messages
    assert run_sweep(POINTS, measure, store=tmp_path / "s").computed == 0


def test_statuses_that_there_are_not(tmp_path):
    store = Store.open(tmp_path / "s", {"measure": "x"}, ("value",))
    records = np.zeros(3, dtype=store.kind)
    records["low"], records["status"] = np.arange(3), [0, len(STATUSES), 2**63]
    store.append(records, {})
    found = store.read()
    assert (found.records.size, found.torn) == (1, 2)


def test_points_outside_the_domain_of_math_are_data(tmp_path):
    """Issue 13, item 13: math.sqrt(-1) is a ValueError, and used to end the diagram."""
    found = dmft.phase_diagram(lambda x, y: math.sqrt(x) + y, ("x", [-1.0, 4.0]), ("y", [0.0, 1]))
    assert found.status.tolist() == [["nonfinite", "ok"]] * 2
    assert "math domain error" in found.messages[0, 0]
    with pytest.raises(ValueError, match="mine"):
        dmft.phase_diagram(failing, ("x", [-1.0, 4.0]), ("y", [0.0, 1.0]))


def failing(x, y):
    raise ValueError("mine")


CALLS: list[int] = []


def counted(x, y):
    COUNTER.add()
    return "low" if x * y < 1.0 else "high"


def whole(x, y):
    COUNTER.add()
    return x * y < 1.0


def smooth(x, y):
    COUNTER.add()
    return x * y - 1.0


def failing_in_part(x, y):
    COUNTER.add()
    return 1.0 / (x - 1.0) + y


class Counter:
    """Counts calls; no plain data, so that functions that read it stay the same."""

    def __init__(self):
        self.count = 0

    def add(self):
        self.count += 1


COUNTER = Counter()
X, Y = ("x", np.linspace(0.0, 2.0, 17)), ("y", np.linspace(0.1, 2.0, 17))


@pytest.mark.parametrize("measure", [counted, whole, smooth, failing_in_part])
@pytest.mark.parametrize("adaptive", [False, True])
def test_diagrams_go_on_from_their_store(tmp_path, measure, adaptive):
    """The same diagram as without a store, from a part of the points, from all, and refined."""
    keys = {"store": tmp_path / "s", "threads": 2}
    plain = dmft.phase_diagram(measure, X, Y, adaptive=adaptive)
    part = ("x", X[1][::2])
    dmft.phase_diagram(measure, part, Y, **keys)
    before = COUNTER.count
    first = dmft.phase_diagram(measure, X, Y, adaptive=adaptive, **keys)
    assert 0 < COUNTER.count - before < 17 * 17
    before = COUNTER.count
    again = dmft.phase_diagram(measure, X, Y, adaptive=adaptive, **keys)
    assert COUNTER.count == before
    assert again == first
    for name in ("values", "status", "computed"):
        np.testing.assert_array_equal(getattr(first, name), getattr(plain, name))
    assert first.names == plain.names
    assert first.messages == plain.messages
    with pytest.raises(BadParameter, match="contains a phase diagram, but this call has a sweep"):
        dmft.sweep({"x": [1.0], "y": [1.0]}, measure, store=tmp_path / "s")
    with pytest.raises(BadParameter, match="contains another sweep: its measure is"):
        dmft.phase_diagram(lambda x, y: x, X, Y, **keys)


def test_a_diagram_of_equations_goes_on_from_its_store(tmp_path):
    square = dmft.Committee(sp.Symbol("z", real=True) ** 2, width=1)
    eqs = dmft.derive(dmft.Model(square, square, 0.1), dmft.SGD(0.05, constraint="sphere"))
    keys = {
        "equations": eqs, "start": dmft.Overlaps([[1.0]], [[0.1]]), "t_max": 500.0,
        "store": tmp_path / "s",
    }  # fmt: skip
    axes = ("learning_rate", [0.12, 0.16]), ("label_noise", [0.0, 1.0])
    first = dmft.phase_diagram("fixed_point", *axes, **keys)
    assert first.labels.tolist()[1] == ["specialised", "uninformative"]
    assert dmft.phase_diagram("fixed_point", *axes, **keys) == first
    with pytest.raises(BadParameter, match="contains another sweep"):
        dmft.phase_diagram("fixed_point", *axes, **{**keys, "t_max": 400.0})


def test_collect_and_status_check_the_model(tmp_path, capsys):
    """Issue 13, item 13: a store of another model was reported as if it were this one's."""
    text = (
        '[student]\nactivation = "z**2"\nwidth = 1\n[teacher]\nactivation = "z**2"\nwidth = 1\n'
        '[algorithm]\nkind = "sgd"\nlearning_rate = 0.05\nconstraint = "sphere"\n'
        '[start]\nkind = "overlaps"\nQ = [[1.0]]\nM = [[{m}]]\n[solve]\nt_max = 2.0\n'
        '[sweep]\nmeasure = "final_risk"\nstore = "store"\n'
        'axes = [{{name = "label_noise", from = 0.0, to = 1.0, points = 2}}]\n'
    )
    file = tmp_path / "model.toml"
    file.write_text(text.format(m=0.1))
    assert main(["sweep", "run", str(file), "--no-progress"]) == 0
    assert main(["sweep", "status", str(file)]) == 0
    file.write_text(text.format(m=0.2))
    for action in ("status", "collect"):
        assert main(["sweep", action, str(file)]) != 0
        assert "contains another sweep: its start is" in capsys.readouterr().err
    assert Status.OK == "ok"
