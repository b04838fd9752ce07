# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Processes that work on a comparison."""

import multiprocessing
import os
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, Self

import torch
from jsonargparse import Namespace

from .job import Job, make_job, parser


class Workers:
    """Processes that do calls on a job of their own, and end with this one."""

    def __init__(self, config: Namespace, job: Job) -> None:
        """Start nothing yet.

        Args:
            config: Parsed; each process makes its own objects of it.
            job: Its objects in this process, which works itself if the comparison has no workers.
        """
        self.config = config
        self.job = job
        self.pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        """Start the processes."""
        count = self.job.comparison.workers
        if count:
            threads = max(1, (os.cpu_count() or 1) // count)
            text = parser().dump(self.config, skip_validation=True)
            self.pool = ProcessPoolExecutor(
                count,
                mp_context=multiprocessing.get_context('spawn'),
                initializer=_start,
                initargs=(text, threads),
            )
        return self

    def __exit__(self, *error: object) -> None:
        """Let what runs end, and start no more."""
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)

    def do(
        self, calls: Sequence[tuple[str, tuple[Any, ...], str]]
    ) -> Iterator[tuple[str, float, str | None]]:
        """Do calls of methods of the job.

        Args:
            calls: Method, arguments and text of each.

        Yields:
            Text, seconds, and the error if there was one, as each is done.
        """
        if self.pool is None:
            for name, args, text in calls:
                yield text, *_timed(self.job, name, args)
            return
        futures: dict[Future[tuple[float, str | None]], str] = {
            self.pool.submit(_in_worker, name, args): text for name, args, text in calls
        }
        for future in as_completed(futures):
            yield futures[future], *future.result()


_worker_job: Job | None = None


def _start(text: str, threads: int) -> None:
    """Make the job of a worker process."""
    global _worker_job
    end_with_parent()
    torch.set_num_threads(threads)
    _worker_job = make_job(parser().parse_string(text))


def end_with_parent() -> None:
    """From now on, end this process when the one that started it ends, be it killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _in_worker(name: str, args: tuple[Any, ...]) -> tuple[float, str | None]:
    """Do a call in a worker process."""
    assert _worker_job is not None
    return _timed(_worker_job, name, args)


def _timed(job: Job, name: str, args: tuple[Any, ...]) -> tuple[float, str | None]:
    """Do a call; give the seconds, and the error if there was one."""
    start = time.perf_counter()
    try:
        getattr(job, name)(*args)
    except Exception as error:  # noqa: BLE001  # the other cells go on
        where = traceback.extract_tb(error.__traceback__)[-1]
        text = f'{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})'
        return time.perf_counter() - start, text
    return time.perf_counter() - start, None
