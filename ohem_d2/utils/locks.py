"""Locks on outputs: of two runs that write to one place, the second is refused."""

import hashlib
import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

__all__ = ["hold_lock"]

logger = logging.getLogger(__name__)

# Seconds between two touches of a lock, and without one after which its holder counts as dead.
_TOUCHED = 10.0
_SILENCE = 45.0


@contextmanager
def hold_lock(path: str | Path, what: str) -> Iterator[None]:
    """Hold the lock file `path` while the block runs.

    The file says which process holds it, which touches it now and then. It needs only exclusive creation and
    renaming, which network file systems have. The lock of a process that has died is taken over: at once, if
    it ran on this host, else when nobody has touched the file for a while.

    Args:
        path: lock file, removed when the block ends; missing folders are created.
        what: what is locked, for the message: "OUTPUT_DIR output/a".

    Raises:
        BlockingIOError: another process holds the lock; the message says which, and what to do.
        OSError: the file cannot be written.
    """
    path, mine = Path(path), _this_process()
    path.parent.mkdir(parents=True, exist_ok=True)
    while not (_create(path, mine) or _take_over(path, mine, what)):
        pass  # released or taken over by another process in between
    is_over = Event()
    thread = Thread(target=_keep_fresh, args=(path, mine, is_over), daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
        if _read(path) == mine:
            path.unlink(missing_ok=True)


def _keep_fresh(path: Path, mine: bytes, is_over: Event) -> None:
    """Touch the lock while it is held."""
    while not is_over.wait(_TOUCHED):
        try:
            if _read(path) == mine:
                os.utime(path)
        except OSError as error:  # a network file system may be away for a while
            logger.debug("%s cannot be touched: %s", path, error)


def _take_over(path: Path, mine: bytes, what: str) -> bool:
    """Replace the lock of a dead process; False: look again.

    Who takes over must first create a file that is named after the lock that it replaces, so that only one
    process at a time replaces it, and none replaces a later one.
    """
    held = _read(path)
    if held is None:
        return False
    _require_dead(held, path, what)
    claim = path.with_name(f"{path.name}.{hashlib.sha256(held).hexdigest()[:16]}")
    if not _create(claim, mine):
        raise BlockingIOError(f"{what}: another process takes it over; if none does, delete {claim}")
    if _read(path) == held:
        os.replace(claim, path)
        return True
    claim.unlink()
    return False


def _require_dead(held: bytes, path: Path, what: str) -> None:
    """Raise BlockingIOError unless the holder has died."""
    own = json.loads(_this_process())
    try:
        holder = json.loads(held)
        host, namespace, pid, started = (holder[key] for key in own)
        is_near = (host, namespace) == (own["host"], own["namespace"])
        is_dead = not _lives(pid, started) if is_near else _is_silent(path, f"process {pid} on {host}")
        who = f"process {pid} on {host}"
    except (ValueError, TypeError, KeyError, OverflowError):  # of a process that died when it began to write
        is_dead, who = _is_silent(path, "a process"), "another process"
    if not is_dead:
        raise BlockingIOError(f"{what} is in use by {who}; wait until it ends, or end it")


def _is_silent(path: Path, who: str) -> bool:
    """Whether nobody touches the lock for so long that its holder must have died, or it is gone."""
    logger.warning("%s is held by %s; %.0f s show whether it lives", path, who, _SILENCE)
    touched, end = _touched(path), time.monotonic() + _SILENCE
    while time.monotonic() < end:
        time.sleep(min(1.0, _SILENCE / 10))
        if _touched(path) != touched:
            return not path.exists()
    return True


def _touched(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def _create(path: Path, content: bytes) -> bool:
    """Create a file; False if it exists."""
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        return False
    try:
        os.write(descriptor, content)
    except OSError:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)
    return True


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _this_process() -> bytes:
    """What no two processes have in common, as JSON. Containers of one host name may count their own ids."""
    namespace = "/proc/self/ns/pid"
    holder = {
        "host": socket.gethostname(),
        "namespace": os.readlink(namespace) if os.path.exists(namespace) else "",
        "pid": os.getpid(),
        "started": _start_time(os.getpid()),
    }
    return json.dumps(holder).encode()


def _lives(pid: int, started: str) -> bool:
    """Whether the process that began at `started` lives; True where that cannot be told."""
    if os.name != "posix":  # elsewhere signal 0 is no question
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return _start_time(pid) in ("", started)


def _start_time(pid: int) -> str:
    """When a process began, since ids are used again: clock ticks since boot; "" where that is not known."""
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "ended" if state == "Z" else rest[18]
