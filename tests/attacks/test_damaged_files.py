"""`dmft.load` of damaged and foreign files: one error, in words, and nothing else on the screen."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import sympy as sp

import dmft
from dmft.errors import BadParameter, DamagedFile
from dmft.netcdf import FORMAT, UNSEALED
from dmft.solvers.trajectory import Trajectory
from dmft.workflow.load import KINDS

h5py = pytest.importorskip("h5py")
pytest.importorskip("h5netcdf")

SEED = 13
z = sp.Symbol("z", real=True)


def _square():
    square = dmft.Committee(z**2, width=1)
    return dmft.Model(square, square, 0.1), dmft.SGD(0.05, constraint="sphere")


def trajectory():
    model, sgd = _square()
    start = dmft.Overlaps([[1.0]], [[0.1]], [[1.0]])
    half = dmft.Event("M[0,0]", 0.15, 1)
    return dmft.solve(dmft.derive(model, sgd), start, t_max=2.0, save_at=5, events=[half])


def ensemble():
    model, sgd = _square()
    start = dmft.Overlaps([[1.0]], [[0.5]])
    return dmft.simulate(model, sgd, 50, 1.0, 4, start, "overlaps", save_at=3)


def ensemble_of_sequences():
    fields = sp.symbols("z1:3", real=True)
    target = dmft.SequenceTarget(fields[0] * fields[1], fields)
    model = dmft.Model(dmft.SequenceNetwork(z**2, 2), target)
    start = dmft.Alignment(m=0.5)
    return dmft.simulate(model, dmft.SGD(0.1), 50, 0.1, 2, start, "overlaps")


def ensemble_of_descents():
    linear = dmft.Model(dmft.Committee(z, width=1), dmft.Committee(z, width=1))
    start = dmft.Overlaps([[1.0]], [[0.1]])
    return dmft.simulate(linear, dmft.GradientDescent(0.1, 2.0), 50, 2, 2, start)


def paths():
    linear = dmft.Committee(z, width=1)  # a square on the sphere compiles for twice as long
    eqs = dmft.derive(dmft.Model(linear, linear), dmft.SGD(0.05), dim=200, fluctuations=True)
    start = dmft.Overlaps([[1.0]], [[0.1]], [[1.0]])
    return dmft.solve(eqs, start, 0.5, dt=0.1, paths=4, seed=1)


def descent():
    linear = dmft.Committee(z, width=1)
    eqs = dmft.derive(dmft.Model(linear, linear), dmft.GradientDescent(0.1, 2.0))
    return dmft.solve(eqs, dmft.Overlaps([[1.0]], [[0.1]], [[1.0]]), 3, samples=2**8, scrambles=2)


def diagram():
    def label(x, y):
        return "low" if x < y else "high"

    return dmft.phase_diagram(label, ("x", [0.0, 1.0, 2.0]), ("y", [0.5, 1.0]))


def boundary():
    return dmft.boundary(lambda x, y: x * x + y * y - 1.0, ("x", -2, 2), ("y", -2, 2), step=0.2)


def regions():
    from dmft.analysis.diagram import RegionDiagram

    grid = np.arange(6.0).reshape(2, 3)
    whole = np.zeros((2, 3), dtype=np.int64)
    return RegionDiagram(
        "omega", "alpha", np.arange(3.0), np.arange(2.0), codes=whole, labels=whole,
        names=("none",), e=grid, m=grid, risk=grid, number=whole + 1,
    )  # fmt: skip


def swept():
    return dmft.sweep({"a": [0.0, 1.0], "b": [0.0, 2.0, 4.0]}, lambda a, b: a / b)


def two_time():
    t, s, rate = sp.symbols("t s rate")
    C, R = sp.symbols("C R", cls=sp.Function)
    rates = {C(t, s): -rate * C(t, s), R(t, s): -rate * R(t, s), C(t, t): 2 * rate - 2 * C(t, t)}
    system = dmft.TwoTime(rates=rates, values={R(t, t): 1}, start={C(0, 0): 0}, causal=[R])
    return dmft.solve(system, None, 1.0, rate=1.0, tol=1e-4)


def labelled():
    """A model of labels sign(h*), whose static limits are cheap."""
    line = dmft.Committee(z, width=1)
    return dmft.Model(line, dmft.MultiIndex(sp.sign(z), z))


def network():
    x, h = sp.symbols("x h", real=True)
    return dmft.RandomNetwork(-x + h, x, h, std=0.5)


def random_network():
    return dmft.solve(dmft.derive(network()), dmft.laws.Normal(), 1.0)


def simulated_network():
    return dmft.simulate(network(), dim=20, t_max=1.0, seeds=2, start=dmft.laws.Normal())


def bayes():
    return dmft.bayes_optimal(labelled(), 2.0)


def evolution():
    return dmft.state_evolution(labelled(), 2.0)


def all_thresholds():
    return dmft.thresholds(labelled())


def minimised():
    return dmft.erm(labelled(), "squared", 2.0, 0.5)


def best_ridge():
    return dmft.optimal_ridge(labelled())


def separable():
    return dmft.separability(labelled())


def spectrum_of_labels():
    return dmft.spectral(dmft.Model(dmft.Committee(z, 1), dmft.MultiIndex(z**2, z)), 2.0)


def messages():
    return dmft.approximate_message_passing(labelled(), 2.0, dim=50, seeds=2)


def complexity():
    return dmft.sample_complexity(labelled())


MADE = (
    trajectory, ensemble, ensemble_of_sequences, ensemble_of_descents, paths, descent, diagram,
    boundary, regions, swept, two_time, random_network, simulated_network, bayes, evolution,
    all_thresholds, minimised, best_ridge, separable, spectrum_of_labels, messages, complexity,
)  # fmt: skip
QUICK = (trajectory, diagram, boundary, swept, minimised)
FOREIGN: tuple[str, ...] = (
    "empty",
    "text",
    "zip",
    "json",
    "npy",
    "hdf5",
    "netcdf",
    "other kind",
    "no record",
    "words",
)


class Saved(dict):
    """Records of one session with their files, each made when it is asked for."""

    def __init__(self, folder):
        self.folder = folder

    def __missing__(self, make):
        record = make()
        self[make] = record, record.save(self.folder / f"{make.__name__}.nc")
        return self[make]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return Saved(tmp_path_factory.mktemp("records"))


def cut_off(rng, data):
    return data[: int(rng.integers(0, len(data)))]


def flipped(rng, data):
    bytes_ = bytearray(data)
    for place in rng.integers(0, len(bytes_), int(rng.integers(1, 9))):
        bytes_[place] ^= 1 << int(rng.integers(0, 8))
    return bytes(bytes_)


def zeroed(rng, data):
    """A page that the disk lost."""
    start = int(rng.integers(0, len(data)))
    page = data[start : start + 512]
    return data[:start] + bytes(len(page)) + data[start + 512 :] if any(page) else data[:-1]


def doubled(rng, data):
    return data + data[int(rng.integers(0, len(data) - 1)) :]


def removed(rng, path):
    """A variable or an attribute that another program took away; the seal goes with it."""
    with h5py.File(path, "r+") as file:
        file.attrs["format"] = UNSEALED  # as data sets of xarray
        names = [*file, "@kind", "@format", "@record"]
        name = names[int(rng.integers(0, len(names)))]
        if name.startswith("@"):
            del file.attrs[name[1:]]
            return True
        is_axis = b"not a netCDF variable" in bytes(file[name].attrs.get("NAME", b""))
        del file[name]
    return not is_axis  # an axis without values holds nothing


def changed(rng, path):
    """Another number, shape or text of the record."""
    with h5py.File(path, "r+") as file:
        # Records of numbers alone have no array that could change.
        arrays = [n for n in file if file[n].shape and file[n].dtype.kind == "f"]
        which = int(rng.integers(0, 4 if arrays else 2))
        if which == 0:
            file.attrs["record"] = file.attrs["record"][:-9]
            file.attrs["format"] = UNSEALED
        elif which == 1:
            record = json.loads(file.attrs["record"])
            keys = sorted(record)
            record.pop(keys[int(rng.integers(0, len(keys)))])
            del file.attrs["record"], file.attrs["kind"]
            file.attrs["record"], file.attrs["kind"] = json.dumps(record), "dmft trajectory of mine"
        elif which == 2:
            file[arrays[0]][...] = 7.25
        else:
            name = next(n for n in file if "quantity" in file[n].attrs)
            del file[name]
            file[name] = "a text"
            file.attrs["format"] = UNSEALED


def foreign(what, path):
    if what == "empty":
        path.write_bytes(b"")
    elif what == "text":
        path.write_text("t, Q\n0, 1\n" * 100)
    elif what == "zip":
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("a.txt", "a")
    elif what == "json":
        path.write_text(json.dumps({"kind": "dmft trajectory", "format": UNSEALED, "record": {}}))
    elif what == "npy":
        with path.open("wb") as file:
            np.save(file, np.arange(9.0))
    elif what == "words":
        path.write_bytes(b"\x89HDF\r\n\x1a\n" + b"and then nothing of that kind" * 9)
    else:
        with h5py.File(path, "w") as file:
            file["t"] = np.arange(3.0)
            if what == "netcdf":
                file.attrs["Conventions"] = "CF-1.8"
            if what == "other kind":
                file.attrs.update({"kind": "rain", "format": UNSEALED, "record": "{}"})
            if what == "no record":
                file.attrs.update({"kind": "dmft trajectory", "format": UNSEALED, "record": "[]"})


def refusal(path):
    """Message of the refusal; any other error than ours ends the test."""
    with pytest.raises(BadParameter) as caught:
        dmft.load(path)
    text = str(caught.value)
    assert type(caught.value) is DamagedFile, text
    assert "is a damaged or foreign file: " in text
    assert "Traceback" not in text
    return text


def attack(saved, kinds, folder, rng, tries):
    """Damage each record in each way; returns the number of files."""
    count = 0
    for make in kinds:
        (record, whole), name = saved[make], make.__name__
        data = whole.read_bytes()
        assert dmft.load(whole) == record
        for damage in (cut_off, flipped, zeroed, doubled):
            for n in range(tries):
                path = folder / f"{name}-{damage.__name__}-{n}.nc"
                path.write_bytes(damage(rng, data))
                refusal(path)
                count += 1
        for edit in (removed, changed):
            for n in range(tries):
                path = folder / f"{name}-{edit.__name__}-{n}.nc"
                path.write_bytes(data)
                if edit(rng, path) is False:
                    assert dmft.load(path) == record
                else:
                    refusal(path)
                count += 1
    for what in FOREIGN:
        foreign(what, folder / f"{what}.nc")
        refusal(folder / f"{what}.nc")
        count += 1
    return count


@pytest.mark.parametrize("kinds", [QUICK, pytest.param(MADE, marks=pytest.mark.slow)])
def test_each_kind_of_damage_to_each_kind_of_record(kinds, saved, tmp_path, capfd):
    rng = np.random.default_rng(SEED)
    assert attack(saved, kinds, tmp_path, rng, 1) == 6 * len(kinds) + len(FOREIGN)
    if kinds is MADE:
        made = {netcdf_kind(saved[make][1]) for make in kinds}
        assert made == {kind.KIND for kind in KINDS}
    gc.collect()  # what h5netcdf left behind used to print its tracebacks here
    assert capfd.readouterr().err == ""


@pytest.mark.slow
def test_hundreds_of_damaged_files(saved, tmp_path, capfd):
    assert attack(saved, MADE, tmp_path, np.random.default_rng(SEED + 1), 12) >= 300
    gc.collect()
    assert capfd.readouterr().err == ""


def netcdf_kind(path):
    with h5py.File(path) as file:
        return file.attrs["kind"]


@pytest.mark.slow
def test_nothing_is_printed_beside_the_refusal(tmp_path):
    """Issue 13, item 12: a traceback of h5netcdf stood beside the error.

    In this process: `test_each_kind_of_damage_to_each_kind_of_record`.
    """
    (tmp_path / "run.nc").write_text("no netCDF")
    script = "import dmft, sys\ntry: dmft.load(sys.argv[1])\nexcept dmft.errors.DmftError: pass"
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "run.nc")], capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("", "")


def test_what_is_missing_is_said(saved, tmp_path):
    _, whole = saved[trajectory]
    path = tmp_path / "a.nc"
    for edit, words in (
        (lambda file: file.__delitem__("risk"), "its variable 'risk' is missing"),
        (lambda file: file.attrs.__delitem__("record"), "it has no 'record'"),
        (lambda file: file.attrs.__delitem__("kind"), "does not record its kind"),
    ):
        path.write_bytes(whole.read_bytes())
        with h5py.File(path, "r+") as file:
            file.attrs["format"] = UNSEALED
            edit(file)
        assert words in refusal(path)


@pytest.mark.parametrize(("form", "words"), [(2, "an earlier"), (FORMAT + 1, "a later")])
def test_files_of_other_versions_are_refused(form, words, saved, tmp_path):
    """A file of format 2 has the kinds of today, and other fields."""
    _, whole = saved[trajectory]
    path = tmp_path / "a.nc"
    path.write_bytes(whole.read_bytes())
    with h5py.File(path, "r+") as file:
        file.attrs["format"] = form
    with pytest.raises(BadParameter, match=f"{words} version .* compute the record again") as error:
        dmft.load(path)
    assert not isinstance(error.value, DamagedFile)


def test_files_of_xarray_are_read(saved, tmp_path):
    pytest.importorskip("xarray")
    run, _ = saved[trajectory]
    if not run.events:
        run.to_xarray().to_netcdf(tmp_path / "x.nc", engine="h5netcdf")
        assert dmft.load(tmp_path / "x.nc").t.tolist() == run.t.tolist()


@pytest.mark.parametrize(
    "name", [3, None, "", "a\0b", b"a.nc", "x" * 4000 + ".nc", "y" * 300 + ".nc", "no/such/file.nc"]
)
def test_names_of_files(name, saved, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run, _ = saved[trajectory]
    with pytest.raises(BadParameter) as caught:
        dmft.load(name)
    assert len(str(caught.value)) < 500
    with pytest.raises(BadParameter, match=r"path = |cannot write"):
        run.save(name)
    assert list(tmp_path.iterdir()) == []
    long = "z" * 252 + ".nc"  # the longest that there is
    assert dmft.load(run.save(long)) == run


def test_a_file_of_another_kind_names_both(tmp_path):
    line = dmft.Committee(sp.Symbol("z", real=True), 1)
    start = dmft.Overlaps([[1.0]], [[0.1]])
    runs = dmft.simulate(
        dmft.Model(line, line), dmft.SGD(0.5), dim=20, t_max=0.2, seeds=2, start=start, save_at=2
    )
    runs.save(tmp_path / "runs.nc")
    with pytest.raises(BadParameter, match="is an ensemble, not a trajectory: use dmft"):
        Trajectory.load(tmp_path / "runs.nc")
