# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""What the objectives for several sensors cost: time and memory, by sensors and batch.

    python benchmarks/losses.py
    python benchmarks/losses.py --full
    python benchmarks/losses.py --device cuda --full

All sensors are present in all samples. Times are medians of the loss and its gradient, on a CPU of
processor time, which other jobs disturb less; all rows of one batch size are measured in turn, and
ratios are medians of those of the turns. "Of linear" is
the time for each sensor, over that of two sensors. Operations are those of torch's counter, matrix
products alone. Memory is the most that was in use beyond the embeddings.
"""

import argparse
import statistics
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from torchgeo_anysensor.losses import (
    AllPairsInfoNCE,
    AnchorInfoNCE,
    CrossSensorInfoNCE,
    CrossSensorVICReg,
    GramVolume,
    Symile,
)

#: How each objective is made with a number of rows in a chunk.
OBJECTIVES: dict[str, Callable[[int], nn.Module]] = {
    'CrossSensorInfoNCE': lambda chunk: CrossSensorInfoNCE(chunk=chunk),
    'the same, sigmoid': lambda chunk: CrossSensorInfoNCE(sigmoid=True, chunk=chunk),
    'AllPairsInfoNCE': lambda chunk: AllPairsInfoNCE(chunk=chunk),
    'AnchorInfoNCE': lambda chunk: AnchorInfoNCE('s0', chunk=chunk),
    'GramVolume': lambda chunk: GramVolume('s0', chunk=chunk),
    'Symile': lambda chunk: Symile(chunk=chunk),
    'CrossSensorVICReg': lambda _: CrossSensorVICReg(private=16),
}
OURS = 'CrossSensorInfoNCE'
PAIRS = 'AllPairsInfoNCE'


class Memory(TorchDispatchMode):
    """Counts the bytes of tensors that are made, until nothing holds them."""

    def __init__(self) -> None:
        """Start at nothing."""
        super().__init__()
        self.now = self.most = 0
        self.known: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        """Run an operation, and count what it made."""
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, tuple | list) else [out]:
            if isinstance(x, Tensor):
                self.count(x.untyped_storage())
        return out

    def count(self, storage: torch.UntypedStorage) -> None:
        """Count memory that is not yet known."""
        address, size = storage.data_ptr(), storage.nbytes()
        if not size or address in self.known:
            return
        self.known.add(address)
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self.forget, address, size)

    def forget(self, address: int, size: int) -> None:
        """Take off what nothing holds any more."""
        self.known.discard(address)
        self.now -= size


def draw(sensors: int, batch: int, options: argparse.Namespace) -> dict[str, Tensor]:
    """Embeddings of places that the sensors see with some noise."""
    torch.manual_seed(0)
    place = torch.randn(batch, options.dim, device=options.device)
    return {f's{m}': (place + torch.randn_like(place)).requires_grad_() for m in range(sensors)}


def step(loss: nn.Module, embeddings: dict[str, Tensor]) -> None:
    """Loss and gradient."""
    for x in embeddings.values():
        x.grad = None
    loss(embeddings).backward()


def peak_mib(call: Callable[[], None], device: str) -> float:
    """Most memory that a call used, in MiB."""
    if device == 'cuda':
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    with Memory() as memory:
        call()
    return memory.most / 2**20


def seconds(call: Callable[[], None], device: str) -> float:
    """Time of one call."""
    if device == 'cpu':
        start = time.process_time()
        call()
        return time.process_time() - start
    torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def measure(batch: int, options: argparse.Namespace) -> list[list[str]]:
    """Rows of the table for one batch size."""
    calls: dict[tuple[str, int], Callable[[], None]] = {}
    for sensors in options.sensors:
        embeddings = draw(sensors, batch, options)
        for name in options.objectives:
            loss = OBJECTIVES[name](options.chunk).to(options.device)
            calls[name, sensors] = lambda loss=loss, x=embeddings: step(loss, x)  # type: ignore[misc]
    memory, gflop = {}, {}
    for key, call in calls.items():
        call()  # the first is not counted
        memory[key] = peak_mib(call, options.device)
        with FlopCounterMode(display=False) as counter:
            call()
        gflop[key] = counter.get_total_flops() / 1e9
    turns = [
        {key: seconds(call, options.device) for key, call in calls.items()}
        for _ in range(options.repeats)
    ]

    def ratio(key: tuple[str, int], other: tuple[str, int], factor: float = 1.0) -> str:
        if other not in calls:
            return ''
        return f'{factor * statistics.median(turn[key] / turn[other] for turn in turns):.2f}'

    least = min(options.sensors)
    return [
        [
            name,
            str(sensors),
            str(batch),
            f'{1e3 * statistics.median(turn[name, sensors] for turn in turns):.1f}',
            f'{gflop[name, sensors]:.2f}',
            f'{memory[name, sensors]:.1f}',
            ratio((name, sensors), (name, least), least / sensors),
            ratio((name, sensors), (PAIRS, sensors)),
        ]
        for name, sensors in calls
    ]


def main(args: Sequence[str] | None = None) -> None:
    """Measure, and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--device', default='cpu', choices=['cpu', 'cuda'])
    parser.add_argument('--dim', type=int, default=128)
    parser.add_argument('--sensors', type=int, nargs='+', default=[2, 3, 5, 8])
    parser.add_argument('--batch', type=int, nargs='+', default=[256, 1024])
    parser.add_argument('--full', action='store_true', help='batches of 256 to 8192')
    parser.add_argument('--chunk', type=int, default=512)
    parser.add_argument('--repeats', type=int, default=7)
    parser.add_argument('--threads', type=int, default=torch.get_num_threads())
    parser.add_argument(
        '--objectives', nargs='+', default=list(OBJECTIVES), choices=list(OBJECTIVES)
    )
    options = parser.parse_args(args)
    if options.full:
        options.batch = [256, 512, 1024, 2048, 4096, 8192]
    torch.set_num_threads(options.threads)
    print(
        f'{options.device}, {options.threads} threads, D = {options.dim}, chunks of {options.chunk}, '
        f'torch {torch.__version__}\n'
    )
    heads = ['objective', 'sensors', 'batch', 'ms', 'GFLOP', 'MiB', 'of linear', '/ all pairs']
    for line in (heads, ['---'] * len(heads)):
        print('| ' + ' | '.join(line) + ' |')
    for batch in options.batch:
        for cells in measure(batch, options):
            print('| ' + ' | '.join(cells) + ' |', flush=True)


if __name__ == '__main__':
    main()
