"""Folders and files whose content will be executed: only where nobody else can write."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
import tempfile
import time
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import IO

from dmft.progress import stage

# Stands for "no folder": below a file, nothing can be written, and nothing is ever found.
NOWHERE = Path(os.devnull, "dmft")
DIGEST_SIZE = 32
OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
# Links on one way, as Linux counts them.
MOST_LINKS = 40
# Seconds of waiting for another process until a warning says so, and until the wait ends: two
# processes may both compile, which costs time only.
WARNED, LONGEST_WAIT = 20.0, 300.0
_TOLD: set[str] = set()


def cache_directory() -> Path:
    """Directory of the generated modules, created when it is missing.

    ``DMFT_CACHE_DIR`` if set, else ``$XDG_CACHE_HOME/dmft``, else ``~/.cache/dmft``. When that
    cannot be written, or when others could write there (its owner and mode count, and those of all
    folders above it), a private directory under the system's temporary one, with one warning.
    Where none of them can be used, a path at which nothing is found and nothing can be written:
    what is compiled lives in memory.
    """
    wanted = os.environ.get("DMFT_CACHE_DIR") or "~/.cache/dmft"
    try:
        directory = _wanted_directory()
        wanted = str(directory)
        reason = refusal(directory)
    except (RuntimeError, OSError):  # of pathlib: no such user, no such working directory
        reason = "its location is unknown (is HOME set? does that user exist?)"
    if not reason:
        return directory
    fallback = _private_temporary_directory()
    here = "compiled code is not kept and will be compiled again at the next start"
    instead = here if fallback == NOWHERE else f"using {fallback} instead"
    tell_once(
        f"the cache directory {wanted} is not used: {reason}; {instead} "
        "(set DMFT_CACHE_DIR to a directory where only you can write, to keep compiled code)"
    )
    return fallback


def refusal(directory: Path, mode: int = 0o700) -> str:
    """Why no compiled code is kept in `directory`; empty if it may be.

    Missing folders are made, with `mode`, except where others could replace them.
    """
    try:
        if reason := danger(directory):
            return reason
        _make(directory, mode)
        if not directory.is_dir():
            return "it is not a directory"
        if not os.access(directory, os.W_OK | os.X_OK):
            return "it cannot be written"
        return danger(directory)
    except OSError as error:
        return f"{error.strerror or error} ({error.filename})"


def danger(directory: Path) -> str:
    """How others could put files into `directory`; empty if they cannot.

    Every folder and every link on the way counts: whoever can write in one can replace what is
    below it. But in a folder with the sticky bit, as /tmp, only the owner of an entry can replace
    the entry. Levels that are missing are ours to make.
    """
    if not hasattr(os, "geteuid"):  # Windows: folders of a user are private by default
        return ""
    for level, status in _way(directory.absolute()):
        found = _who_else(status)
        # The level below is checked next.
        if found and not (status.st_mode & stat.S_ISVTX and _is_trusted(status.st_uid)):
            return f"{level} {found}"
    with contextlib.suppress(FileNotFoundError):
        if found := _who_else(directory.stat()):
            return f"{directory} {found}"
    return ""


def _way(path: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Folders and links from the root to `path`, each link before what it leads through."""
    here, ahead, links = Path(path.anchor), [*path.parts[:0:-1]], 0
    yield here, here.lstat()
    while ahead:
        name = ahead.pop()
        level = here.parent if name == ".." else here / name
        try:
            status = level.lstat()
        except FileNotFoundError:
            return
        yield level, status
        if not stat.S_ISLNK(status.st_mode):
            here = level
            continue
        links += 1
        if links > MOST_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
        target = level.readlink()
        here = Path(target.anchor) if target.is_absolute() else here
        ahead += target.parts[: 0 if target.is_absolute() else None : -1]


def _who_else(status: os.stat_result) -> str:
    """Who can write a file or folder beside us and root, in words; empty if nobody."""
    if not _is_trusted(status.st_uid):
        return f"belongs to another user (number {status.st_uid})"
    if status.st_mode & OTHERS_WRITE and not stat.S_ISLNK(status.st_mode):
        return f"can be written by others (mode {stat.S_IMODE(status.st_mode):o}; chmod go-w)"
    return ""


def _is_trusted(user: int) -> bool:
    return not hasattr(os, "geteuid") or (user in (0, os.geteuid()) and user != _of_strangers())


@cache
def _of_strangers() -> int | None:
    """The number that a namespace shows for users without one in it; None where all have one."""
    try:
        if Path("/proc/self/uid_map").read_text().split() == ["0", "0", str(2**32 - 1)]:
            return None
        return int(Path("/proc/sys/kernel/overflowuid").read_text())
    except (OSError, ValueError):
        return None


def read_own(path: Path) -> bytes:
    """Content of a file that nobody but us and root can have written.

    Raises
    ------
    OSError
        The file is missing or cannot be read, or others could have written it: a folder that was
        open to others may still hold what they left there.
    """
    with path.open("rb") as file:
        found = _who_else(os.fstat(file.fileno())) if hasattr(os, "geteuid") else ""
        if found:
            raise PermissionError(errno.EPERM, f"the file {found}", str(path))
        return file.read()


def read_sealed(path: Path, context: str = "") -> bytes | None:
    """Content of a file of our own, where the digest before it is right."""
    try:
        sealed = read_own(path)
    except OSError:
        return None
    content = sealed[DIGEST_SIZE:]
    return content if sealed[:DIGEST_SIZE] == _seal(path.name, context, content) else None


def keep_sealed(path: Path, content: bytes, context: str = "") -> bool:
    """Like `keep`, preceded by a digest of the name, a context and the content."""
    return keep(path, _seal(path.name, context, content) + content)


def _seal(name: str, context: str, content: bytes) -> bytes:
    digest = hashlib.blake2b(f"{name}\0{context}\0".encode(), digest_size=DIGEST_SIZE)
    digest.update(content)
    return digest.digest()


def write_own(path: Path, content: bytes) -> None:
    """Write a file by an atomic rename, for us alone; several processes may do it at once."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix="dmft-", suffix=".tmp")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        Path(temporary).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(temporary).unlink()
        raise


def keep(path: Path, content: bytes) -> bool:
    """Write a file that can be made again, and say whether it worked; one warning if not."""
    try:
        write_own(path, content)
    except OSError as error:
        if path.parent != NOWHERE:  # else told already
            reason = error.strerror or str(error)
            tell_once(
                f"cannot write in the cache directory {path.parent} ({reason}): code will be "
                "compiled again at the next start",
                about=reason,
            )
        return False
    return True


def tell_once(message: str, about: str | None = None) -> None:
    """Warn, but not twice in one process with the same words or `about` the same."""
    key = message if about is None else about
    if key not in _TOLD:
        _TOLD.add(key)
        warnings.warn(message, UserWarning, stacklevel=3)


def _wanted_directory() -> Path:
    chosen = os.environ.get("DMFT_CACHE_DIR")
    if chosen:
        return Path(chosen).expanduser().absolute()
    xdg = os.environ.get("XDG_CACHE_HOME")
    # The XDG specification says that a relative path there is to be ignored.
    base = Path(xdg) if xdg and Path(xdg).is_absolute() else Path("~/.cache").expanduser()
    return (base / "dmft").absolute()


def _make(directory: Path, mode: int) -> None:
    """Make `directory` and what is missing above it, all with `mode` (mkdir's holds for one)."""
    if not directory.exists():
        _make(directory.parent, mode)
        directory.mkdir(mode, exist_ok=True)


@cache
def _private_temporary_directory() -> Path:
    """Per-user directory that nobody else can write: its content will be executed."""
    user = os.geteuid() if hasattr(os, "geteuid") else 0
    places = [Path("/tmp"), Path("/var/tmp")]
    with contextlib.suppress(OSError):  # nothing can be written at all
        places.insert(0, Path(tempfile.gettempdir()))
    for place in places:
        directory = place / f"dmft-cache-{user}"
        if place.is_dir() and not refusal(directory):
            return directory
    return NOWHERE


@contextlib.contextmanager
def process_lock(path: Path) -> Iterator[None]:
    """Hold an advisory lock between processes; the system frees it if this process dies."""
    try:
        import fcntl
    except ImportError:  # Windows: two processes may both compile, which costs time only.
        yield
        return
    with contextlib.ExitStack() as held:
        # A full disk, a file system without locks: they cost a second compilation only.
        with contextlib.suppress(OSError):
            file = held.enter_context(path.open("a"))
            with stage("waiting for another process that compiles the same code"):
                is_ours = _wait_for(file)
            if is_ours:
                # Not by closing alone: a child that was forked meanwhile holds the file open.
                held.callback(fcntl.flock, file, fcntl.LOCK_UN)
        yield


def _wait_for(file: IO[str]) -> bool:
    """Lock a file; False where another process holds it for `LONGEST_WAIT`."""
    import fcntl

    began, pause = time.monotonic(), 1e-3
    while True:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        waited = time.monotonic() - began
        if waited > WARNED:
            tell_once(
                f"another process holds {file.name} and compiles the same code (or is stopped): "
                f"this one waits up to {LONGEST_WAIT:g} s, then compiles it too"
            )
        if waited > LONGEST_WAIT:
            return False
        time.sleep(pause)
        pause = min(2 * pause, 0.05)
