# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Worker processes do not outlive the comparison that started them."""

import multiprocessing
import os
import signal
import time

from torchgeo_anysensor.comparison.workers import end_with_parent

FORK = multiprocessing.get_context('fork')


def work(pipe):
    """A worker in the midst of a long task."""
    pipe.send(os.getpid())
    end_with_parent()
    time.sleep(60)


def start_worker(pipe):
    """A comparison that waits for its worker."""
    worker = FORK.Process(target=work, args=(pipe,))
    worker.start()
    pipe.close()
    worker.join()


def test_a_worker_ends_when_its_comparison_is_killed():
    receive, send = FORK.Pipe(duplex=False)
    comparison = FORK.Process(target=start_worker, args=(send,))
    comparison.start()
    send.close()
    worker = receive.recv()
    os.kill(comparison.pid, signal.SIGKILL)
    comparison.join()
    gone = receive.poll(10)  # nobody holds the other end any more
    if not gone:
        os.kill(worker, signal.SIGKILL)
    assert gone
