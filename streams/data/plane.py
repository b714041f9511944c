"""The asynchronous side of the pipeline: folds in one thread while the batch before is committed in another."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from streams.data.pipeline import Assignment

if TYPE_CHECKING:
    from collections.abc import Callable

    from streams.data.batch import Batch
    from streams.data.fold import Folded
    from streams.data.pipeline import Pipeline
    from streams.data.progress import Progress


class DataPlane:
    """Takes what the source hands over, in order.

    Args:
        pipeline: Folds and commits.
        progress: Told what was committed.
        fail: Called with whatever goes wrong. From then on nothing more is committed.
        committed: Called with every batch whose counts have become visible.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        progress: Progress,
        fail: Callable[[BaseException], None],
        committed: Callable[[Folded], None] = lambda _: None,
    ) -> None:
        self._pipeline = pipeline
        self._progress = progress
        self._fail = fail
        self._committed = committed
        self._folding = ThreadPoolExecutor(1, thread_name_prefix="stagekeeper-fold")
        self._writing = ThreadPoolExecutor(1, thread_name_prefix="stagekeeper-commit")
        self._committing: asyncio.Task[None] | None = None
        self.assignment: Assignment | None = None

    async def take(self, item: Assignment | Batch) -> None:
        """Deal with the next item; returns once a batch is folded and the one before it is committed.

        Raises:
            Exception: Whatever went wrong; `fail` has been called with it.
        """
        try:
            await self._take(item)
        except Exception as error:
            self._fail(error)
            raise

    async def _take(self, item: Assignment | Batch) -> None:
        if isinstance(item, Assignment):
            await self._settle()
            self._pipeline.assign(item)
            self.assignment = item
            self._progress.reach(item.number)
        else:
            loop = asyncio.get_running_loop()
            folded = await loop.run_in_executor(self._folding, self._pipeline.fold, item)
            await self._settle()
            self._committing = asyncio.create_task(self._commit(folded))

    async def _commit(self, folded: Folded) -> None:
        loop = asyncio.get_running_loop()
        try:
            seconds = await loop.run_in_executor(self._writing, self._pipeline.commit, folded)
        except Exception as error:
            self._fail(error)  # at once: the next batch, which would meet this error, may never come
            raise
        self._committed(folded)
        self._progress.count(folded.tally, seconds)
        self._progress.reach(folded.number)

    async def _settle(self) -> None:
        """Wait for the commit that is under way."""
        if self._committing is not None:
            await self._committing
            self._committing = None

    def close(self) -> None:
        """Begin nothing new. What is being committed ends by itself, or with the process."""
        for pool in (self._folding, self._writing):
            pool.shutdown(wait=False, cancel_futures=True)
