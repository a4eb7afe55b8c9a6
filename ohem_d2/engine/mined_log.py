"""The log of what is mined, ``OUTPUT_DIR/mined``: which RoIs, with which losses."""

import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.engine.hooks import HookBase
from detectron2.utils import comm
from torch.nn.parallel import DistributedDataParallel

from ..modeling import OHEMMixin
from ..modeling.mixin import LastMined
from ..utils.mined_rois import MinedRoIs, join

__all__ = ["MinedLog", "has_mined_log"]

logger = logging.getLogger(__name__)

# A file is written when one of these is reached, so that a kill loses no more than this.
_FILE_ROIS, _FILE_SECONDS = 100_000, 60.0


def _heads(model: torch.nn.Module) -> Any:
    return getattr(model.module if isinstance(model, DistributedDataParallel) else model, "roi_heads", None)


def has_mined_log(model: torch.nn.Module) -> bool:
    """Whether `model` mines RoIs, and not naively, and its options ask for the log."""
    heads = _heads(model)
    if not (isinstance(heads, OHEMMixin) and heads.is_mining):
        return False
    return heads.ohem.log_mib > 0 and not heads.ohem.naive


class MinedLog(HookBase):
    """Records the mined RoIs of each iteration, in files of which each is written whole.

    The host does not wait for the device: what is copied in an iteration is read after the next. If the
    files are larger than ``MODEL.OHEM.LOG_MIB``, the oldest are thinned: of each image half of the visits
    stay, drawn at random. A resumed run drops what it will record again.
    """

    def __init__(self, folder: str | Path):
        """Record into `folder`, ``OUTPUT_DIR/mined``."""
        self._folder, self._rank = Path(folder), comm.get_rank()
        self._waiting: tuple[int, list[str], LastMined, torch.Tensor] | None = None
        self._parts: list[MinedRoIs] = []
        self._written = time.monotonic()
        self._has_warned = False

    def before_train(self) -> None:
        heads = _heads(self.trainer.model)
        heads.keeps_mined = True
        self._max_bytes = heads.ohem.log_mib * 2**20 // comm.get_world_size()
        for file in sorted(self._folder.glob("*.safetensors")) if self._rank == 0 else ():
            self._drop_from(file, self.trainer.start_iter)

    def after_step(self) -> None:
        self._read_waiting()
        heads = _heads(self.trainer.model)
        mined, heads.last_mined = heads.last_mined, None  # a batch without proposals mines nothing
        if mined is not None:
            copied = mined.rois.to("cpu", non_blocking=True)
            self._waiting = self.trainer.iter, list(self.trainer.batch_files), mined, copied
        rois = sum(len(part.labels) for part in self._parts)
        if rois >= _FILE_ROIS or (rois and time.monotonic() - self._written >= _FILE_SECONDS):
            self._write()

    def after_train(self) -> None:
        if self._waiting is not None and self._waiting[2].rois.is_cuda:
            torch.cuda.synchronize()
        self._read_waiting()
        if self._parts:
            self._write()

    def _read_waiting(self) -> None:
        """Take what was copied in the iteration before; mining has waited for the device since."""
        if self._waiting is not None:
            iteration, names, mined, copied = self._waiting
            self._waiting = None
            self._parts.append(_as_records(iteration, names, mined, copied.numpy()))

    def _write(self) -> None:
        records = join(self._parts)
        self._parts, self._written = [], time.monotonic()
        try:
            records.save(self._path(records))
            self._thin()
        except OSError as error:  # of a full disk
            if not self._has_warned:
                self._has_warned = True
                logger.warning("The mined log has gaps: %s; training goes on", error)

    def _path(self, records: MinedRoIs, rank: str = "") -> Path:
        first, last = records.iterations[0], records.iterations[-1]
        return self._folder / f"{first:08}-{last:08}.{rank or f'rank{self._rank}'}.safetensors"

    def _files(self) -> list[Path]:
        """Of this process, the oldest first."""
        return sorted(self._folder.glob(f"*.rank{self._rank}.safetensors"))

    def _thin(self) -> None:
        """Join the two oldest files and keep half of each image's visits, until all fit."""
        while sum(file.stat().st_size for file in self._files()) > self._max_bytes:
            oldest = self._files()[:2]
            records = join([MinedRoIs.load(file) for file in oldest])
            kept = records.take(_half_of_each_image(records))
            if len(kept) == len(records):  # one visit of each image
                oldest[0].unlink()
                continue
            kept.save(self._path(kept))
            for file in oldest:
                if file != self._path(kept):
                    file.unlink()

    def _drop_from(self, file: Path, iteration: int) -> None:
        """Drop what was recorded in `iteration` and later."""
        span, rank, _ = file.name.split(".")
        if int(span.split("-")[1]) < iteration:
            return
        records = MinedRoIs.load(file)
        earlier = np.flatnonzero(records.iterations < iteration)
        if len(earlier):
            kept = records.take(earlier)
            kept.save(self._path(kept, rank))
        file.unlink()


def _as_records(iteration: int, names: list[str], mined: LastMined, rois: np.ndarray) -> MinedRoIs:
    num_visits = len(mined.num_rois)
    return MinedRoIs(
        images=names,
        iterations=np.full(num_visits, iteration),
        visited=np.arange(num_visits),
        sizes=np.array(mined.sizes, np.int64).reshape(-1, 2)[:, ::-1],
        offsets=np.cumsum([0, *mined.num_rois]),
        boxes=rois[:, :4],
        labels=rois[:, 4].astype(np.int64),
        objects=rois[:, 5].astype(np.int64),
        ious=rois[:, 6],
        cls_losses=rois[:, 7],
        box_losses=rois[:, 8],
    )


def _half_of_each_image(records: MinedRoIs) -> np.ndarray:
    """Visits, ascending: of each image half of its own, rounded up, drawn at random."""
    rng = np.random.default_rng(int(records.iterations[-1]))
    order = rng.permutation(len(records))
    order = order[np.argsort(records.visited[order], kind="stable")]
    grouped = records.visited[order]
    ranks = np.arange(len(order)) - np.searchsorted(grouped, grouped)
    sizes = np.bincount(records.visited)[grouped]
    return np.sort(order[ranks < (sizes + 1) // 2])
