"""Records in netCDF files: named arrays, a few attributes for people, one JSON text for us.

Floor 0: knows no record. Files are written aside and moved into place, so that an interrupted
write never leaves half a file under the name that was asked for. Behind the HDF5 data stands a
seal, a digest of all bytes before it (HDF5 ignores what follows its end): damaged files are known
before the HDF5 library sees them, which may crash on them and reads changed numbers in silence.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from dmft.errors import BadParameter, DamagedFile, DmftError, MissingExtra
from dmft.names import variable_attributes

if TYPE_CHECKING:
    import xarray

# Raised when the layout of files changes. Files have the first and are sealed; data sets, which
# xarray writes, have the second.
FORMAT, UNSEALED = 4, 3
# A variable: its name, the names of its dimensions, its values.
Variable = tuple[str, tuple[str, ...], NDArray[Any]]
Arrays = dict[str, NDArray[Any]]
Record = TypeVar("Record")
# Before the digest at the end of a file; other programs that change a file cut it off.
SEAL = b"dmft seal 1 "
DIGEST_SIZE = 32
# Deflate shrinks by this factor at most: a variable that says it is larger is not in the file.
DEFLATE = 1100
# Bytes that are digested at once.
BLOCK = 1 << 22


def xarray_module() -> Any:
    """Import xarray, or name the extra that brings it."""
    try:
        import xarray
    except ImportError as error:
        raise MissingExtra('to_xarray needs xarray: pip install "dmft[io]"') from error
    return xarray


def attributes(kind: str, record: Mapping[str, Any], form: int = UNSEALED) -> dict[str, Any]:
    """Attributes of a file or data set of this kind; status and message are readable as such."""
    known = {name: record.get(name) for name in ("status", "message")}
    readable = {name: text for name, text in known.items() if isinstance(text, str)}
    return {"kind": kind, "format": form, **readable, "record": json.dumps(dict(record))}


def dataset(
    kind: str, record: Mapping[str, Any], data: Mapping[str, Any], coords: Mapping[str, Any]
) -> xarray.Dataset:
    """Data set of a record, whose known variables say what they are and in which units."""
    made: xarray.Dataset = xarray_module().Dataset(
        data, coords=coords, attrs=attributes(kind, record)
    )
    for name in made.variables:
        made[name].attrs |= variable_attributes(str(name), time_unit(record))
    return made


def time_unit(record: Mapping[str, Any]) -> str:
    """What time means in a record, in words where it says so."""
    return str((record.get("provenance") or {}).get("time_unit", "t"))


def write(
    path: str | Path,
    kind: str,
    record: Mapping[str, Any],
    variables: Sequence[Variable],
    names: Mapping[str, str] | None = None,
) -> Path:
    """Write one record; an existing file is replaced only by a complete one.

    `names` are the quantities that variables hold where these have other names. `BadParameter`
    names the reason why the file cannot be written: no such folder, no room, too long a name.
    """
    target = checked_path(path)
    partial = target.with_name(f".{uuid.uuid4().hex[:12]}.partial")
    try:
        if not target.parent.is_dir():
            raise BadParameter(f"cannot write {short(target)}: there is no folder {target.parent}")
        try:
            _write_variables(
                partial, attributes(kind, record, FORMAT), time_unit(record), variables, names
            )
            with partial.open("rb+") as file:
                digest = _digest(file, partial.stat().st_size)
                file.write(SEAL + digest)
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise BadParameter(f"cannot write {short(target)}: {error.strerror or error}") from error
    return target


def _write_variables(
    partial: Path,
    texts: Mapping[str, Any],
    unit: str,
    variables: Sequence[Variable],
    names: Mapping[str, str] | None,
) -> None:
    contents = {name: list(values.shape) for name, _, values in variables}
    with _h5netcdf().File(partial, "w") as file:
        for name, value in {**texts, "contents": json.dumps(contents)}.items():
            file.attrs[name] = value
        for name, dims, values in variables:
            for dim, size in zip(dims, values.shape, strict=True):
                if dim not in file.dimensions:
                    file.dimensions[dim] = size
            variable = file.create_variable(name, dims, data=values)
            holds = (names or {}).get(name, name)
            known = variable_attributes(holds, unit)
            for key, text in {"quantity": holds, **known}.items():
                variable.attrs[key] = text


def load(
    path: str | Path, restore: Mapping[str, Callable[[dict[str, Any], Arrays], Record]]
) -> Record:
    """Read a record of one of these kinds: the guard of all files that come from outside.

    `restore` maps a kind to what makes a record of the JSON text and the named arrays of its file.
    Raises `BadParameter` for no such file, another kind or a later version, and `DamagedFile` for
    one that `write` did not write, or that was changed since.
    """
    target = checked_path(path)
    try:
        if not target.is_file():
            raise BadParameter(f"no file {short(target)}")
        sealed = _is_sealed(target)
        with _opened(target) as file:
            texts = _texts(file)
            _check_kind(target, texts, sorted(restore))
            if texts["format"] > UNSEALED and not sealed:
                raise damaged(target, "its digest is missing: another program has changed the file")
            return _restored(file, target, texts, restore[texts["kind"]])
    except DmftError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno:  # of the system: a name too long, a right
            raise BadParameter(f"cannot read {short(target)}: {error.strerror}") from error
        missing = f"it has no {error.args[0]!r}" if isinstance(error, KeyError) else str(error)
        raise damaged(target, missing or type(error).__name__) from error


def checked_path(path: str | os.PathLike[str]) -> Path:
    """A path that was given by the user; its name is looked at by the system only later."""
    if not isinstance(path, str | os.PathLike) or not str(path) or "\0" in str(path):
        raise BadParameter(f"path = {path!r:.100} is not a file name: pass a string or a Path")
    return Path(path)


def short(path: Path) -> str:
    """A path in messages: a name of thousands of characters is cut in its middle."""
    text = repr(str(path))
    return text if len(text) <= 200 else f"{text[:100]}...{text[-80:]}"


def damaged(path: Path, reason: str) -> DamagedFile:
    """The error of all files that are not as this library writes them."""
    return DamagedFile(
        f"{short(path)} is a damaged or foreign file: {reason:.300}. Save the record again, or "
        "use an intact copy"
    )


def _digest(file: Any, size: int) -> bytes:
    """Digest of the first bytes of a file; it stands behind them then."""
    digest = hashlib.blake2b(digest_size=DIGEST_SIZE)
    while size > 0 and (block := file.read(min(size, BLOCK))):
        digest.update(block)
        size -= len(block)
    return digest.digest()


def _is_sealed(path: Path) -> bool:
    """Whether a file has a seal, which is compared: older ones have none, nor rewritten ones."""
    size = path.stat().st_size - len(SEAL) - DIGEST_SIZE
    if size <= 0:
        return False
    with path.open("rb") as file:
        file.seek(size)
        tail = file.read()
        if not tail.startswith(SEAL):
            return False
        file.seek(0)
        if _digest(file, size) != tail[len(SEAL) :]:
            raise damaged(path, "its bytes changed after it was written (the digest differs)")
    return True


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The HDF5 file; read without h5netcdf, which prints tracebacks for files of others."""
    _h5netcdf()
    import h5py

    if not h5py.is_hdf5(path):
        raise damaged(path, "it is not a netCDF file")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise damaged(path, f"it is not a netCDF file that can be opened ({error})") from error
    with file:
        yield file


def _texts(file: Any) -> dict[str, Any]:
    """Attributes of a file by name, texts as str and numbers without axes."""
    known = ("kind", "format", "record", "contents")
    found = {name: np.asarray(file.attrs[name]) for name in known if name in file.attrs}
    plain = {name: value.item() for name, value in found.items() if value.size == 1}
    return {n: v.decode() if isinstance(v, bytes) else v for n, v in plain.items()}


def _check_kind(path: Path, texts: Mapping[str, Any], kinds: Sequence[str]) -> None:
    """Refuse kinds and formats that are not read."""
    kind, form = texts.get("kind", ""), texts.get("format")
    if kind not in kinds and len(kinds) == 1 and str(kind).startswith("dmft "):
        own = kind[5:50]
        article = "an" if own[:1] in "aeiou" else "a"
        raise BadParameter(f"{short(path)} is {article} {own}, not a {kinds[0][5:]}: use dmft.load")
    if kind not in kinds:
        what = f"its kind is {kind!r:.80}" if kind else "it does not record its kind"
        raise damaged(path, f"{what}; this reads {', '.join(kinds)}")
    if not isinstance(form, int):
        raise damaged(path, "its attribute 'format' is missing")
    if form not in (FORMAT, UNSEALED):
        age = "a later" if form > FORMAT else "an earlier"
        raise BadParameter(
            f"{short(path)} has the format {form!r} of {age} version of dmft, and this one reads "
            f"{FORMAT}: read it with the version that wrote it, or compute the record again"
        )


def _restored(
    file: Any,
    path: Path,
    texts: Mapping[str, Any],
    restore: Callable[[dict[str, Any], Arrays], Record],
) -> Record:
    """Make the record, of which nothing that was written may be missing."""
    record = json.loads(texts["record"])
    if not isinstance(record, dict):
        raise damaged(path, "the description of its record is not a mapping")
    arrays = dict(_variables(file, path))
    for name, shape in json.loads(texts.get("contents", "{}")).items():
        if name not in arrays:
            raise damaged(path, f"its variable {name!r} is missing")
        if list(arrays[name].shape) != shape:
            raise damaged(path, f"its {name!r} has the shape {arrays[name].shape}, not {shape}")
    found = restore(record, arrays)
    repr(found)  # a record that cannot be shown is none
    return found


def _variables(file: Any, path: Path) -> Iterator[tuple[str, NDArray[Any]]]:
    """Arrays of a file; nothing is followed out of it."""
    import h5py

    most = DEFLATE * path.stat().st_size
    for name in file:
        link, data = file.get(name, getlink=True), file.get(name)
        if not isinstance(link, h5py.HardLink) or not isinstance(data, h5py.Dataset):
            continue
        if bytes(data.attrs.get("NAME", b"")).startswith(b"This is a netCDF dimension but not a"):
            continue
        if data.dtype.kind not in "fiub" or data.external or data.is_virtual:
            raise damaged(path, f"its variable {name!r} is not an array of numbers")
        if math.prod(data.shape) * data.dtype.itemsize > most:
            raise damaged(
                path, f"its {name!r} of shape {data.shape} cannot fit into so small a file"
            )
        yield name, np.array(data[...])


def _h5netcdf() -> Any:
    try:
        import h5netcdf
    except ImportError as error:
        raise MissingExtra('netCDF files need h5netcdf: pip install "dmft[io]"') from error
    return h5netcdf
