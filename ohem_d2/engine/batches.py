"""The batches of a training, from any loader: named, counted, each with its own random numbers."""

import logging
from collections.abc import Iterable, Iterator
from typing import Any

from detectron2.utils import comm

from ..data import ResumableLoader
from ..utils.seeding import seed_generators

__all__ = ["TrainingBatches"]

logger = logging.getLogger(__name__)


class TrainingBatches:
    """Iterates over a loader; before each batch, all random generators are seeded anew.

    So what happens to a batch depends on the seed, the process and the number of the batch alone, and a
    checkpoint needs no more than these.

    Attributes:
        file_names: images of the last batch; "" where the loader does not say.
    """

    def __init__(self, loader: Iterable[list[dict[str, Any]]], seed: int):
        """Wrap `loader`, of which only a `ResumableLoader` can go on where another process stopped.

        Args:
            loader: endless.
            seed: of the run; negative: drawn.
        """
        self.loader = loader
        self.file_names: list[str] = []
        self._seed = seed if seed >= 0 else comm.shared_random_seed()
        self._num_done = 0
        self._drawn: list[int] = []

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        loader = self.loader
        resumable = isinstance(loader, ResumableLoader)
        batches = loader.batches(self._seed, self._num_done, self._drawn) if resumable else loader
        for batch in batches:
            self._num_done += 1
            self._drawn = loader.drawn if resumable else []
            self.file_names = [x.get("file_name", "") for x in batch]
            seed_generators(self._seed, comm.get_rank(), self._num_done)
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs to go on after the last batch."""
        state = {"seed": self._seed, "num_batches": self._num_done, "num_processes": comm.get_world_size()}
        if isinstance(self.loader, ResumableLoader):
            state.update(batch_size=self.loader.batch_size, drawn=self._drawn)
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where the state was saved; a warning says what cannot be restored."""
        if state["seed"] != self._seed:
            logger.info("The seed of the checkpoint is used: %d", state["seed"])
        self._seed, self._num_done, self._drawn = state["seed"], state["num_batches"], state.get("drawn", [])
        if not isinstance(self.loader, ResumableLoader):
            name = type(self.loader).__name__
            logger.warning("Not restored: the position in the data; a %s starts over", name)
            return
        if comm.get_rank() > 0:
            self._drawn = []  # those of the process that saved
        was, now = (
            (x["batch_size"], x["num_processes"]) for x in ({"batch_size": 0, **state}, self.state_dict())
        )
        if was != now:
            self._num_done = self._num_done * was[0] * was[1] // (now[0] * now[1])
            self._drawn = []
            logger.warning(
                "Not restored: which images share a batch. It was %d images on each of %d processes, it is "
                "%d on %d; training goes on after as many images", *was, *now,
            )  # fmt: skip
