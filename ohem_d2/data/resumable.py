"""A training loader whose batches depend on the seed and their number alone, so that a run can be resumed.

Detectron2's loaders start over in each process: a run that is stopped often trains on its first images
alone. Here the order of the images comes from the seed, and each image has a seed of its own for its
augmentation, whatever process maps it. Where a run was stopped, the order is replayed without loading.
"""

import logging
import random
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any

from detectron2.data import DatasetFromList
from detectron2.data.samplers import TrainingSampler
from detectron2.utils import comm
from detectron2.utils.serialize import PicklableWrapper
from torch.utils.data import Dataset, Sampler

from ..config import DataLoaderOptions
from ..utils.images import UnreadableImageError
from ..utils.messages import name_some
from ..utils.seeding import seed_generators
from .workers import WatchedLoader

__all__ = ["ResumableLoader"]

logger = logging.getLogger(__name__)

# Images that are tried in place of one for which the mapper returns None.
_RETRIES = 100


class ResumableLoader:
    """Batches as of Detectron2's ``build_detection_train_loader``, from any of them on.

    Iterating starts with the first batch. The random numbers of the process are seeded anew for each image
    where there are no workers.

    Attributes:
        batch_size: images in a batch of this process.
        drawn: indices into the data set of the images of the last batch.
    """

    def __init__(
        self,
        dataset: list[dict[str, Any]] | Dataset,
        *,
        mapper: Callable[[dict[str, Any]], dict[str, Any] | None] | None,
        sampler: Iterable[int] | Callable[[int], Iterable[int]] | None = None,
        total_batch_size: int,
        aspect_ratio_grouping: bool = True,
        num_workers: int = 0,
        timeout: float = DataLoaderOptions.timeout,
        collate_fn: Callable[[list], Any] | None = None,
        seed: int = 0,
        skips_unreadable: bool = False,
        **kwargs: Any,
    ) -> None:
        """Take what ``build_detection_train_loader`` takes, for data sets with an index.

        Args:
            dataset: dataset dicts.
            mapper: a dict to what the model trains on; for None, another image is drawn instead.
            sampler: indices without end, the same whenever it is iterated; or a function that makes such a
                sampler from a seed. None: `TrainingSampler`.
            total_batch_size: images in the batches of all processes together.
            aspect_ratio_grouping: whether a batch has only landscape or only portrait images; the dicts then
                need ``width`` and ``height``.
            num_workers: processes that load images.
            timeout: seconds after which iterating is a RuntimeError where they send no image; 0: never.
            collate_fn: from the list of mapped dicts to a batch; None: the list.
            seed: of the order and the augmentations, >= 0; that of a resumed run replaces it.
            skips_unreadable: what happens where the mapper raises `UnreadableImageError`. False: the loader
                raises it. True: a warning names the file, and another image is drawn instead.
            kwargs: of PyTorch's `DataLoader`.

        Raises:
            ValueError: the number of processes does not divide `total_batch_size`.
        """
        if total_batch_size < 1 or total_batch_size % comm.get_world_size():
            valid = f"a multiple of the {comm.get_world_size()} processes, above 0"
            raise ValueError(f"{total_batch_size} images per batch (SOLVER.IMS_PER_BATCH); valid: {valid}")
        self.dataset = DatasetFromList(dataset, copy=False) if isinstance(dataset, list) else dataset
        self.batch_size = total_batch_size // comm.get_world_size()
        self.drawn: list[int] = []
        self._mapper, self._sampler, self._seed = mapper, sampler, seed
        self._collate, self._kwargs = collate_fn, {"num_workers": num_workers, "timeout": timeout, **kwargs}
        self._is_grouped = aspect_ratio_grouping
        self._skips, self._skipped = skips_unreadable, set[str]()
        self._groups: dict[int, int] = {}

    def __iter__(self) -> Iterator[Any]:
        return self.batches(self._seed)

    def batches(self, seed: int, num_done: int = 0, drawn: list[int] | None = None) -> Iterator[Any]:
        """The batches of the run with this seed, without the first `num_done`.

        Args:
            seed: >= 0.
            num_done: batches that were trained on before.
            drawn: images of the last of these, to check; a warning says if they are others now.
        """
        draws, waiting = self._draws(seed), ([], [])
        replayed = self._batched(((draw[1], draw) for draw in draws), waiting)
        last: list[int] = []
        for _ in range(num_done):
            last = [index for index, _ in next(replayed)]
        if drawn and last != drawn:
            logger.warning(
                "The data set, its order or the batch size has changed: batch %d had images %s, now %s",
                num_done, name_some(drawn), name_some(last),
            )  # fmt: skip
        samples = WatchedLoader(
            _MappedDraws(self.dataset, self._mapper, seed, self._skips),
            sampler=chain(sorted(draw for _, draw in chain(*waiting)), draws),
            batch_size=None,
            collate_fn=_as_it_is,
            **self._kwargs,
        )
        for batch in self._batched(samples, ([], [])):
            self.drawn = [index for index, _ in batch]
            mapped = [sample for _, (sample, _) in batch]
            self._tell([problem for _, (_, problems) in batch for problem in problems])
            yield self._collate(mapped) if self._collate else mapped

    def _tell(self, problems: list[str]) -> None:
        """Raise `UnreadableImageError`, or name in the log what is skipped for the first time."""
        if problems and not self._skips:
            raise UnreadableImageError(f"{problems[0]} (DATASETS.UNREADABLE_IMAGES 'skip' leaves such out)")
        for problem in problems:
            if problem not in self._skipped:
                self._skipped.add(problem)
                logger.warning("%s; skipped (unreadable images so far: %d)", problem, len(self._skipped))

    def _draws(self, seed: int) -> Iterator[tuple[int, int]]:
        """Of each image in order: its number among those of all processes, and its index."""
        sampler = TrainingSampler(len(self.dataset), seed=seed) if self._sampler is None else self._sampler
        if not isinstance(sampler, Sampler) and callable(sampler):
            sampler = sampler(seed)
        for number, index in enumerate(sampler):
            yield number * comm.get_world_size() + comm.get_rank(), index

    def _batched(
        self, items: Iterable[tuple[int, Any]], waiting: tuple[list, list]
    ) -> Iterator[list[tuple[int, Any]]]:
        """Lists of `batch_size` items of one group, as soon as they are full; the rest is in `waiting`."""
        for item in items:
            bucket = waiting[self._group(item[0])]
            bucket.append(item)
            if len(bucket) == self.batch_size:
                batch = bucket.copy()
                bucket.clear()
                yield batch

    def _group(self, index: int) -> int:
        """0 for landscape images, else 1; 0 for all without grouping."""
        if not self._is_grouped:
            return 0
        if index not in self._groups:
            record = self.dataset[index]
            self._groups[index] = int(record["width"] <= record["height"])
        return self._groups[index]


class _MappedDraws(Dataset):
    """From a draw, (number, index), to its index and the mapped dict, with what could not be read before."""

    def __init__(self, dataset, mapper, seed: int, skips: bool):
        self._dataset, self._seed, self._skips = dataset, seed, skips
        self._mapper = None if mapper is None else PicklableWrapper(mapper)  # so that a lambda will work

    def __getitem__(self, draw: tuple[int, int]) -> tuple[int, tuple[Any, list[str]]]:
        number, index = draw
        seed_generators(self._seed, number)
        chosen, problems = index, list[str]()
        for _ in range(_RETRIES):
            try:
                mapped = self._map(chosen)
            except UnreadableImageError as error:  # told to the training process, whose log is the user's
                mapped = None
                problems.append(str(error))
            if mapped is not None or (problems and not self._skips):
                return index, (mapped, problems)
            chosen = random.randrange(len(self._dataset))
        if problems:
            raise ValueError(f"{len(problems)} of {_RETRIES} images are unreadable; the last: {problems[-1]}")
        raise ValueError(f"the mapper returned None for each of {_RETRIES} images of the data set")

    def _map(self, index: int) -> Any:
        record = self._dataset[index]
        return record if self._mapper is None else self._mapper(record)


def _as_it_is(sample: Any) -> Any:
    return sample
