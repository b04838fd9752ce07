# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Worker processes do not outlive the comparison that started them."""

import multiprocessing
import os
import signal
import time
from types import SimpleNamespace

import torch

from torchgeo_anysensor.comparison import workers
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


def test_a_worker_watches_from_its_start(monkeypatch):
    calls = []
    monkeypatch.setattr(workers, 'end_with_parent', lambda: calls.append('watched'))
    monkeypatch.setattr(workers, 'parser', lambda: SimpleNamespace(parse_string=calls.append))
    monkeypatch.setattr(workers, 'make_job', lambda config: calls.append('made'))
    workers._start('the config', torch.get_num_threads())
    assert calls == ['watched', 'the config', 'made']
