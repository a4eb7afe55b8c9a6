"""Generation of proposals for the images of a data set: resumable, and in shards that can be merged.

A run writes finished images to small stores in ``OUTPUT.parts``, in the order of the data set, and joins them
at the end; meanwhile it holds ``OUTPUT.lock``. The result depends only on the method, its parameters, the
data set and the version of this package: interrupted or sharded runs give the same bytes as a single one.
"""

import hashlib
import json
import logging
import re
import time
from collections import Counter
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from numpy.typing import NDArray
from tqdm import tqdm

from ..utils.locks import hold_lock
from ..utils.messages import name_some
from ..version import __version__
from .mapping import Proposals
from .reading import read_proposals
from .store import ProposalWriter

__all__ = ["ProposalMethod", "Shard", "generate_proposals", "merge_proposals", "unique_images"]

logger = logging.getLogger(__name__)

Entry = tuple[NDArray[Any], NDArray[Any]]
Records = Sequence[Mapping[str, Any]]
T = TypeVar("T")

# A part is written when one of these is reached, so an interruption loses little more than this.
_PART_IMAGES, _PART_SECONDS = 100, 10

# Only parts and shards have this key in their metadata: which piece of which list of images they hold.
_PIECE = "piece"


class ProposalMethod(Protocol):
    """A way to compute proposals."""

    @property
    def name(self) -> str:
        """Recorded in the store as ``method``."""

    @property
    def parameters(self) -> Mapping[str, Any]:
        """Everything besides the image that the result depends on; recorded as ``parameters``."""

    def __call__(self, records: Records) -> Generator[Entry, None, None]:
        """Boxes (n, 4) XYXY_ABS in pixels of the image and scores (n,) of each dataset dict, in order."""


@dataclass(frozen=True)
class Shard:
    """Shard `index` of `count`, counted from 1, of a list of images: a contiguous slice.

    Raises:
        ValueError: not 1 <= index <= count.
    """

    index: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.index <= self.count:
            raise ValueError(f"shard {self} does not exist; shards are 1/n to n/n")

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Parse ``i/n``: "2/3" is the second of three shards."""
        match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
        if match is None:
            raise ValueError(f"shard {text!r} is not understood; give i/n, 2/3 for the second of three")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def of(self, items: Sequence[T]) -> Sequence[T]:
        """The slice of this shard. The shards partition `items`; their lengths differ by 1 at most."""
        begin, end = (len(items) * i // self.count for i in (self.index - 1, self.index))
        return items[begin:end]

    def path(self, output: str | Path) -> Path:
        """File of this shard: `output` if there is only one, else ``NAME.shard-i-of-n.SUFFIX`` beside it."""
        output = Path(output)
        if self.count == 1:
            return output
        return output.with_name(f"{output.stem}.shard-{self.index}-of-{self.count}{output.suffix}")


def generate_proposals(
    output: str | Path,
    method: ProposalMethod,
    dataset_dicts: Records,
    dataset: str,
    shard: Shard = Shard(),
    progress: bool = True,
) -> Path:
    """Compute the proposals of a data set, or of a shard of it, and write them as a store.

    The same call resumes an interrupted run: finished images are not computed again. Errors of `method` are
    passed on.

    Args:
        output: store to write, see `Shard.path`; replaced if it exists.
        method: computes the proposals.
        dataset_dicts: dicts in Detectron2's format. An image that is listed twice is computed once.
        dataset: name of the data set, recorded in the store.
        shard: which part of the images to compute; default: all.
        progress: show a progress bar on stderr.

    Returns:
        the file that was written.

    Raises:
        ValueError: one id for two files, or parts beside `output` of a run with other parameters or data.
        BlockingIOError: another run writes to the same file.
        OSError: the store cannot be written.
    """
    records = unique_images(dataset_dicts)
    ids, target = [str(record["image_id"]) for record in records], shard.path(output)
    metadata = _metadata(method, dataset)
    piece = {**metadata, _PIECE: _text({"shard": str(shard), "images": len(ids), "ids": _digest(ids)})}
    with hold_lock(f"{target}.lock", str(target)):
        parts = _Parts(Path(f"{target}.parts"), shard.of(ids), piece)
        done, total = parts.count(), len(parts.ids)
        if done:
            logger.info("%s: %d of %d images are finished, going on", target, done, total)
        with closing(method(shard.of(records)[done:])) as entries:
            bar = tqdm(entries, method.name, total, initial=done, unit="image", disable=not progress)
            parts.write(bar, done)
        parts.join(target, piece if shard.count > 1 else metadata)
    return target


def merge_proposals(output: str | Path, shards: Sequence[str | Path]) -> None:
    """Join the shards of one run, in any order; the file is byte-identical to that of a run without shards.

    Raises:
        FileNotFoundError: a shard does not exist.
        ValueError: a file is not a shard; shards are missing, repeated, or of other parameters or another
            data set; images are missing or repeated.
    """
    opened = {Path(path): read_proposals(path) for path in shards}
    if not opened:
        raise ValueError(f"{output}: no shards given")
    for path, proposals in opened.items():
        if _PIECE not in proposals.metadata:
            raise ValueError(f"{path} is no shard: it was not made by `generate ... --shard i/n`")
    first = next(iter(opened))
    metadata, piece = _split(first, opened[first].metadata)
    by_index: dict[int, Path] = {}
    for path, proposals in opened.items():
        _require_same(path, _split(path, proposals.metadata), (metadata, piece), f"in {first}")
        index = Shard.parse(json.loads(proposals.metadata[_PIECE])["shard"]).index
        if by_index.setdefault(index, path) != path:
            raise ValueError(f"{path} and {by_index[index]} are both shard {index}/{piece['shards']}")
    missing = [f"{i}/{piece['shards']}" for i in range(1, piece["shards"] + 1) if i not in by_index]
    if missing:
        raise ValueError(f"{output}: {len(missing)} shards are missing: {name_some(missing)}")
    ordered = [by_index[index] for index in sorted(by_index)]
    _require_all_images(output, [opened[path] for path in ordered], piece)
    _join(Path(output), ordered, metadata)


def unique_images(dataset_dicts: Records) -> list[Mapping[str, Any]]:
    """The dicts without those of an image that came before.

    Raises:
        ValueError: one id for two files.
    """
    records: dict[str, Mapping[str, Any]] = {}
    for record in dataset_dicts:
        known = records.setdefault(str(record["image_id"]), record)
        if known["file_name"] != record["file_name"]:
            raise ValueError(
                f"image id {str(record['image_id'])!r} stands for two files, {known['file_name']} and "
                f"{record['file_name']}: write the proposals of these data sets to two files"
            )
    return list(records.values())


class _Parts:
    """The finished images of a run: stores that, sorted by name, hold the first images of `ids`."""

    def __init__(self, folder: Path, ids: Sequence[str], metadata: Mapping[str, str]) -> None:
        self.folder, self.ids, self.metadata = folder, ids, metadata

    def paths(self) -> list[Path]:
        return sorted(self.folder.glob("*.safetensors"))

    def count(self) -> int:
        """Number of finished images; a part of another run is an error."""
        done = 0
        for path in self.paths():
            proposals = read_proposals(path)
            hint = f"in this run; finish that one, or remove {self.folder}"
            _require_same(path, _split(path, proposals.metadata), _split(path, self.metadata), hint)
            found = list(proposals)
            if found != list(self.ids[done : done + len(found)]):
                raise ValueError(f"{path}: its images are not the next ones; remove {self.folder}")
            done += len(found)
        return done

    def write(self, entries: Iterable[Entry], done: int) -> None:
        """Write entries as they come, for the ids from `done` on; on an error, those that came before it."""
        finished: list[tuple[str, NDArray[Any], NDArray[Any]]] = []
        began = time.monotonic()
        try:
            for (boxes, scores), image_id in zip(entries, self.ids[done:], strict=True):
                finished.append((image_id, boxes, scores))
                if len(finished) >= _PART_IMAGES or time.monotonic() - began >= _PART_SECONDS:
                    done, finished, began = self._flush(done, finished), [], time.monotonic()
        finally:
            if finished:
                self._flush(done, finished)

    def _flush(self, done: int, finished: Sequence[tuple[str, NDArray[Any], NDArray[Any]]]) -> int:
        with ProposalWriter(self.folder / f"{done:09}.safetensors", self.metadata) as writer:
            for entry in finished:
                writer.add(*entry)
        return done + len(finished)

    def join(self, target: Path, metadata: Mapping[str, str]) -> None:
        """Write all images to `target` and remove the parts, unless one is missing."""
        done, paths = self.count(), self.paths()
        if done != len(self.ids):
            raise ValueError(f"{self.folder}: {done} of {len(self.ids)} images are there; call this again")
        _join(target, paths, metadata)
        for path in [*paths, *self.folder.glob(".*.safetensors.*.tmp")]:  # also of interrupted writes
            path.unlink()
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()


def _join(target: Path, paths: Sequence[Path], metadata: Mapping[str, str]) -> None:
    with ProposalWriter(target, metadata) as writer:
        for path in paths:
            for image_id, entry in read_proposals(path).items():
                writer.add(image_id, *entry)


def _metadata(method: ProposalMethod, dataset: str) -> dict[str, str]:
    """Metadata of the store, in a fixed order, without anything that could differ between equal runs."""
    tool = f"ohem_d2 {__version__}"
    return {"tool": tool, "method": method.name, "parameters": _text(method.parameters), "dataset": dataset}


def _split(path: Path, metadata: Mapping[str, str]) -> tuple[dict[str, str], dict[str, Any]]:
    """Split the metadata of a part or shard: those of the whole store, and which shards and images it has."""
    try:
        piece = json.loads(metadata.get(_PIECE, ""))
        count = Shard.parse(piece["shard"]).count
        whole = {key: metadata[key] for key in ("tool", "method", "parameters", "dataset")}
        return whole, {"shards": count, "images": int(piece["images"]), "ids": piece["ids"]}
    except (KeyError, TypeError, ValueError):
        text = f"{dict(metadata)!s:.200}"
        raise ValueError(f"{path}: its metadata are not those of a part or shard: {text}") from None


def _require_same(path: Path, found: Any, expected: Any, where: str) -> None:
    (whole, piece), (other_whole, other_piece) = found, expected
    for key, value in {**other_whole, **other_piece}.items():
        own = {**whole, **piece}[key]
        if own != value:
            raise ValueError(f"{path}: {key} is {own}, but {value} {where}")


def _require_all_images(output: str | Path, shards: Sequence[Proposals], piece: Mapping[str, Any]) -> None:
    ids = [image_id for proposals in shards for image_id in proposals]
    repeated = [image_id for image_id, count in Counter(ids).items() if count > 1]
    if repeated:
        raise ValueError(f"{output}: {len(repeated)} images are in two shards: {name_some(repeated)}")
    if len(ids) != piece["images"] or _digest(ids) != piece["ids"]:
        total = piece["images"]
        raise ValueError(f"{output}: the shards hold {len(ids)} images, but not the {total} of the data set")


def _digest(ids: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(list(ids)).encode()).hexdigest()


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
