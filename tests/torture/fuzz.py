"""Runs a reader on many mutated files in a process of its own, which may die.

A case passes if the reader takes the file or refuses it with one line that names it. ``python -m
tests.torture.fuzz READER NUMBER`` runs one case again and shows its traceback.
"""

import logging
import multiprocessing
import random
import re
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .mutations import Mutation, mutate

__all__ = ["Outcome", "Reader", "fuzz", "run_case"]

# Bounds of a case: seconds of the CPU, and bytes beyond those of the process before.
MAX_SECONDS, MAX_BYTES = 5, 2**30
# Seconds on the clock without a sign of the process, after which it hangs.
_PATIENCE = 60
_REFUSALS = (ValueError, OSError, KeyError)
_KEY = re.compile(r"\b[A-Z][A-Z_]+\.[A-Z_.]+\b|data set ['{]")


@dataclass(frozen=True)
class Reader:
    """A reader of files that others made.

    `make` writes valid files into a folder and returns those to mutate; `read` gets one of them, in its
    place. With `by_key`, a line that names a config key or a data set need not name the file.
    """

    name: str
    make: Callable[[Path], Sequence[Path]]
    read: Callable[[Path], Any]
    mutations: tuple[Mutation, ...] = ()
    by_key: bool = False


@dataclass
class Outcome:
    """Of all cases of a reader. `findings`: what was wrong -> its cases, each with what was said."""

    reader: str
    cases: int = 0
    accepted: int = 0
    refused: int = 0
    findings: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    seconds: float = 0.0  # of the CPU, the most of a case
    mib: float = 0.0  # the most beyond the memory of the process before

    @property
    def foreign(self) -> int:
        return sum(map(len, self.findings.values()))

    def add(self, number: int, said: str, seconds: float, mib: float) -> None:
        self.cases += 1
        self.accepted += said == "accepted"
        self.refused += said == "refused"
        if said not in ("accepted", "refused"):
            what, _, message = said.partition(": ")
            self.findings.setdefault(what, []).append((number, message))
        self.seconds, self.mib = max(self.seconds, seconds), max(self.mib, mib)


def fuzz(reader: Reader, num_cases: int) -> Outcome:
    """Run the cases from 0 on; a process that dies or hangs is a finding, and another one goes on."""
    outcome, context = Outcome(reader.name), multiprocessing.get_context("fork")
    while outcome.cases < num_cases:
        receiver, sender = context.Pipe(duplex=False)
        numbers = range(outcome.cases, num_cases)
        process = context.Process(target=_run_cases, args=(reader, numbers, sender), daemon=True)
        process.start()
        sender.close()
        try:
            for number in numbers:
                if not receiver.poll(_PATIENCE):
                    outcome.add(number, "hangs", _PATIENCE, 0)
                    break
                outcome.add(number, *receiver.recv())
        except EOFError:
            process.join()
            if process.exitcode == 1:  # an error of Python
                raise RuntimeError(f"the harness failed at {reader.name}, case {outcome.cases}") from None
            outcome.add(outcome.cases, f"the process died: {process.exitcode}", 0, 0)
        finally:
            process.kill()
            process.join()
    return outcome


def _run_cases(reader: Reader, numbers: Iterable[int], sender: Any) -> None:
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        seeds = _seeds(reader, folder)
        for seed in seeds:
            reader.read(seed)  # imports what it needs, and must take it
        before = _peak()
        address_space = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (address_space + MAX_BYTES,) * 2)
        signal.signal(signal.SIGPROF, _raise_too_long)
        for number in numbers:
            begun = time.process_time()
            said = run_case(reader, seeds, number)
            sender.send((said, time.process_time() - begun, (_peak() - before) / 2**20))


def _seeds(reader: Reader, folder: str) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in reader.make(Path(folder))}


def _write_case(reader: Reader, seeds: dict[Path, bytes], number: int) -> Path:
    rng = random.Random(f"{reader.name} {number}")
    path = rng.choice(list(seeds))
    path.write_bytes(mutate(seeds[path], rng, reader.mutations))
    return path


def run_case(reader: Reader, seeds: dict[Path, bytes], number: int) -> str:
    """ "accepted", "refused", or what is wrong with how the reader failed; the files are as before."""
    path = _write_case(reader, seeds, number)
    try:
        signal.setitimer(signal.ITIMER_PROF, MAX_SECONDS)
        reader.read(path)
        return "accepted"
    except (Exception, _TooLong) as error:
        return _fault(error, reader, path) or "refused"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        path.write_bytes(seeds[path])


class _TooLong(BaseException):
    """The time of a case is over."""


def _raise_too_long(number: int, frame: Any) -> None:
    raise _TooLong(f"more than {MAX_SECONDS} s")


def _fault(error: BaseException, reader: Reader, path: Path) -> str | None:
    """What is wrong with an error of a reader; None if it is one clear line that names the file."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{type(error).__name__} in {Path(place.filename).name}:{place.lineno}"
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    chain: BaseException | None = error
    while chain is not None:
        if isinstance(chain, MemoryError) or "can't allocate" in str(chain):
            return f"{where}, more than {MAX_BYTES >> 20} MiB: {text:.80}"
        chain = chain.__cause__ or chain.__context__
    if not isinstance(error, _REFUSALS):
        return f"{where}: {text:.80}"
    if "\n" in text or (len(text) > 1500 and not isinstance(error, OSError)):
        return f"{where}, several lines: {text:.80}"
    named = path.name in text or tempfile.gettempdir() in text or (reader.by_key and _KEY.search(text))
    return None if named else f"{where}, names no file: {text:.80}"


def _peak() -> int:
    """The most bytes that this process ever had in memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _main(name: str, number: str) -> None:
    from .readers import READERS

    reader = next(reader for reader in READERS if reader.name == name)
    path = _write_case(reader, _seeds(reader, tempfile.mkdtemp()), int(number))
    print(f"the file: {path}")
    try:
        print("accepted:", reader.read(path))
    except Exception as error:
        traceback.print_exc()
        print("judged:", _fault(error, reader, path) or "refused")


if __name__ == "__main__":
    _main(*sys.argv[1:])
