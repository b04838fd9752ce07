# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""What the encoders cost: parameters, operations, time and memory, at equal input.

    python benchmarks/encoders.py
    python benchmarks/encoders.py --device cuda --dtype bfloat16 --compile --largest 4096

Each row runs in a process of its own. Operations are those of torch's counter for one image,
forward. Times are medians for one image; the ratios are to a plain ViT of timm of the same width and
depth with as many tokens (a patch embedding of 12 bands), called turn by turn with the encoder. "Of matrix
rate" is the share of the operations a second that a product of large matrices reaches, forward and
back, as a GPU's utilisation is told. MiB are the most that the tensors of a call take at a time,
beside weights and input, for the whole batch. On a CPU the allocator keeps the memory that it has, as that of
a GPU does: fresh pages from the kernel can cost more than what is computed in them.
"""

import argparse
import itertools
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, NamedTuple

import timm
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from torchgeo_anysensor.models import (
    AnySensorViT,
    CopernicusFMEncoder,
    DOFAEncoder,
    PanopticonEncoder,
    SensorEncoder,
    TimmEncoder,
    anysensor_vit_base,
    anysensor_vit_small,
    anysensor_vit_tiny,
    atomizer_small,
    atomizer_tiny,
    ramen_small,
    ramen_tiny,
)
from torchgeo_anysensor.types import SensorSample

#: For glibc: no block goes back to the kernel.
KEEP_MEMORY = {f'MALLOC_{name}_THRESHOLD_': str(2**33) for name in ('MMAP', 'TRIM')}


class Entry(NamedTuple):
    """An encoder, and the plain ViT that it is compared with."""

    build: Callable[[], SensorEncoder]
    dim: int
    heads: int


#: All of depth 12. Those of TorchGeo have random weights: the cost is the same.
ENCODERS = {
    'AnySensorViT tiny': Entry(anysensor_vit_tiny, 192, 3),
    'AnySensorViT small': Entry(anysensor_vit_small, 384, 6),
    'AnySensorViT base': Entry(anysensor_vit_base, 768, 12),
    'RAMEN tiny': Entry(ramen_tiny, 192, 3),
    'RAMEN small': Entry(ramen_small, 384, 6),
    'timm ViT tiny': Entry(
        lambda: TimmEncoder([0.44 + 0.16 * i for i in range(12)], model='vit_tiny_patch16_224'),
        192,
        3,
    ),
    'DOFA base': Entry(DOFAEncoder, 768, 12),
    'Panopticon base': Entry(PanopticonEncoder, 768, 12),
    'Copernicus-FM base': Entry(CopernicusFMEncoder, 768, 12),
    'Atomizer tiny': Entry(atomizer_tiny, 192, 3),
    'Atomizer small': Entry(atomizer_small, 384, 6),
}
#: Name, pixel size in metres and bands of each grid, width of the patch and of a token in metres.
INPUTS: dict[str, tuple[list[tuple[float, int]], float, float]] = {
    '12 bands, 224 x 224': ([(10, 12)], 2240, 160),
    '200 bands, 224 x 224': ([(10, 200)], 2240, 160),
    'Sentinel-2, 2.4 km': ([(10, 4), (20, 6), (60, 2)], 2400, 120),
    'Landsat, 2.4 km': ([(30, 8)], 2400, 120),
    'both, 2.4 km': ([(10, 4), (20, 6), (60, 2), (30, 8)], 2400, 120),
}


def views(name: str, *, batch: int, device: str, hole: bool = False) -> list[SensorSample]:
    """Noise as an encoder gets it; of a patch with a hole, one pixel is not valid."""
    grids, width, _ = INPUTS[name]
    made = noise(grids, width, batch=batch)
    for view in made if hole else ():
        view['valid'][..., 0, 0] = False
    return [{key: x.to(device) for key, x in view.items()} for view in made]  # type: ignore[misc, attr-defined]


def noise(
    grids: Sequence[tuple[float, int]], width: float, *, batch: int = 1
) -> list[SensorSample]:
    """Noise on grids of a pixel size in metres and a number of bands each, `width` metres wide."""
    made = []
    for res, bands in grids:
        n = round(width / res)
        made.append(
            SensorSample(
                image=torch.rand(batch, bands, n, n),
                valid=torch.ones(batch, n, n, dtype=torch.bool),
                wavelength=torch.linspace(0.44, 2.2, bands),
                bandwidth=torch.full((bands,), 0.05),
                gsd=torch.full((bands,), float(res)),
                res=torch.tensor(float(res)),
                t=torch.zeros(batch, dtype=torch.float64),
                dx=torch.zeros(batch),
                dy=torch.zeros(batch),
                bounds=torch.zeros(batch, 9),
                transform=torch.zeros(batch, 9),
            )
        )
    return made


def reference(entry: Entry, name: str) -> torch.nn.Module:
    """A plain ViT with as many tokens, of 16 x 16 pixels."""
    _, width, token_m = INPUTS[name]
    return timm.models.VisionTransformer(
        img_size=16 * round(width / token_m),
        in_chans=12,
        embed_dim=entry.dim,
        num_heads=entry.heads,
        num_classes=0,
    )


def forwards(
    encoder: SensorEncoder,
    plain: torch.nn.Module,
    name: str,
    options: argparse.Namespace,
    *,
    hole: bool = False,
) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
    """Make the calls forward, of the encoder and of the plain ViT, for a batch of an input."""
    dtype = getattr(torch, options.dtype)
    cast = torch.autocast(options.device, dtype, enabled=dtype != torch.float32)
    batched = views(name, batch=options.batch, device=options.device, hole=hole)
    size = plain.patch_embed.img_size  # type: ignore[union-attr]
    image = torch.rand(options.batch, 12, *size, device=options.device)  # type: ignore[misc]

    def ours() -> Tensor:
        with cast:
            found: Tensor = encoder(batched, token_m=INPUTS[name][2]).tokens
            return found

    def theirs() -> Tensor:
        with cast:
            found: Tensor = plain.forward_features(image)  # type: ignore[operator]
            return found

    return ours, theirs


def gflop_of(call: Callable[[], Any]) -> float:
    """Operations of a call in billions, a multiply-add being two."""
    # The fused attention of a CPU would not be counted
    with torch.no_grad(), FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        call()
    return counter.get_total_flops() / 1e9


def backward(forward: Callable[[], Tensor], model: torch.nn.Module) -> Callable[[], None]:
    """Make a call that goes forward and back."""

    def call() -> None:
        model.zero_grad(set_to_none=True)
        torch.autograd.backward(forward().float().square().mean())

    return call


def peak_mib(call: Callable[[], Any], device: str) -> float:
    """Most MiB of tensors that a call has at a time, beside those that were there before."""
    if device == 'cuda':
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        call()
    assert found.profiler is not None
    events = [e for e in found.profiler.kineto_results.events() if e.name() == '[memory]']
    taken = itertools.accumulate(e.nbytes() for e in sorted(events, key=lambda e: e.start_ns()))
    return max(taken, default=0) / 2**20


def with_batch(options: argparse.Namespace, batch: int) -> argparse.Namespace:
    """The options with a batch of another size."""
    return argparse.Namespace(**vars(options) | {'batch': batch})


def largest(
    encoder: SensorEncoder, plain: torch.nn.Module, name: str, options: argparse.Namespace
) -> argparse.Namespace:
    """Double the batch as long as it fits, forward and back, and is not over what was asked for."""
    while 2 * options.batch <= options.largest:
        more = with_batch(options, 2 * options.batch)
        try:
            for forward, model in zip(forwards(encoder, plain, name, more), (encoder, plain)):
                backward(forward, model)()
                model.zero_grad(set_to_none=True)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            break
        options = more
    return options


def measure(encoder_name: str, input_name: str, options: argparse.Namespace) -> list[str]:
    """One row of the table."""
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    entry, device = ENCODERS[encoder_name], options.device
    encoder, plain = entry.build().to(device), reference(entry, input_name).to(device)
    encoder.eval().requires_grad_(False)  # the counter knows no checkpoints that keep no gradient
    one = with_batch(options, 1)  # with a hole, where nothing is saved
    gflop, plain_gflop = map(gflop_of, forwards(encoder, plain, input_name, one, hole=True))
    encoder.requires_grad_(True)
    if options.compile:
        encoder.compile(fullgraph=isinstance(encoder, AnySensorViT), backend=options.compile)
        plain.compile(backend=options.compile)
    options = largest(encoder.train(), plain.train(), input_name, options)
    ours, theirs = forwards(encoder, plain, input_name, options)
    there, back = backward(ours, encoder), backward(theirs, plain)
    if options.compile:
        there()
    encoder.zero_grad(set_to_none=True)
    memory = [peak_mib(there, device)]
    times = timed(there, back, options)
    encoder.eval()
    plain.eval()
    with torch.no_grad():
        tokens = ours().shape[1]
        memory.insert(0, peak_mib(ours, device))
        times = timed(ours, theirs, options) + times
    # Forward, and twice that back
    share = 3e9 * gflop / times[2] / matrix_rate(device, getattr(torch, options.dtype))
    parameters = sum(p.numel() for p in encoder.parameters()) / 1e6
    found = [encoder_name, input_name, f'{parameters:.1f}', str(tokens)]
    found += [f'{gflop:.1f}', f'{gflop / plain_gflop:.2f}']
    for seconds, ratio in itertools.batched(times, 2):
        found += [digits(1e3 * seconds), f'{ratio:.2f}']
    found += [digits(1 / times[2]), f'{share:.2f}', str(options.batch)]
    return found + [f'{mib:.0f}' for mib in memory]


def digits(x: float) -> str:
    """Write a positive number with three digits."""
    return f'{x:.0f}' if x >= 99.95 else f'{x:#.3g}'


def matrix_rate(device: str, dtype: torch.dtype) -> float:
    """Operations a second of a product of two large matrices, the best of some."""
    n = 8192 if device == 'cuda' else 2048
    a = torch.rand(n, n, device=device, dtype=dtype)
    times = []
    for _ in range(10):
        start = time.perf_counter()
        a @ a
        if device == 'cuda':
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return 2 * n**3 / min(times)


def timed(
    ours: Callable[[], Any], theirs: Callable[[], Any], options: argparse.Namespace
) -> list[float]:
    """Median seconds of one image, and the median ratio to the plain ViT, turn by turn.

    The first call of both is not counted; that of the encoder measured its memory.
    """
    times, ratios = list[float](), list[float]()
    theirs()
    while len(times) < options.repeats and sum(times) < options.seconds:
        pair = []
        for call in (ours, theirs):
            start = time.perf_counter()
            call()
            if options.device == 'cuda':
                torch.cuda.synchronize()
            pair.append(time.perf_counter() - start)
        times.append(pair[0])
        ratios.append(pair[0] / pair[1])
    return [statistics.median(times) / options.batch, statistics.median(ratios)]


def row(encoder_name: str, input_name: str, options: argparse.Namespace) -> list[str]:
    """One row, measured in a process of its own, or what hindered it."""
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(['torch', 'timm', 'torchgeo_anysensor.models'])
    try:
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            return pool.submit(measure, encoder_name, input_name, options).result()
    except torch.OutOfMemoryError:
        why = 'out of memory'
    except BrokenProcessPool:
        why = 'killed, as a machine does that is out of memory'
    except ValueError as error:
        if 'fixed bands' not in str(error):
            raise
        why = str(error).partition(':')[0]
    return [encoder_name, input_name, why]


def main(args: Sequence[str] | None = None) -> None:
    """Measure, and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--device', default='cpu', choices=['cpu', 'cuda'])
    parser.add_argument('--dtype', default='float32', choices=['float32', 'bfloat16'])
    parser.add_argument('--batch', type=int, default=4)
    parser.add_argument('--repeats', type=int, default=21)
    parser.add_argument(
        '--seconds', type=float, default=10, help='of the encoder, after which no turn begins'
    )
    parser.add_argument('--threads', type=int, default=torch.get_num_threads())
    parser.add_argument('--encoders', nargs='+', default=list(ENCODERS), choices=list(ENCODERS))
    parser.add_argument('--inputs', nargs='+', default=list(INPUTS), choices=list(INPUTS))
    parser.add_argument('--compile', nargs='?', const='inductor', metavar='BACKEND')
    parser.add_argument(
        '--largest',
        type=int,
        default=0,
        metavar='BATCH',
        help='double the batch up to this as long as it fits',
    )
    options = parser.parse_args(args)
    heads = ['encoder', 'input', 'M parameters', 'tokens', 'GFLOP', 'GFLOP / ViT', 'ms', 'ms / ViT']
    heads += [
        'ms with backward',
        'with backward / ViT',
        'images / s with backward',
        'of matrix rate',
        'batch',
    ]
    heads += ['MiB', 'MiB with backward']
    print(f'{options.device}, {options.dtype}, torch {torch.__version__}\n')
    for line in (heads, ['---'] * len(heads)):
        print('| ' + ' | '.join(line) + ' |')
    os.environ |= KEEP_MEMORY  # read at the start of a process, as of the server below
    for encoder_name, input_name in itertools.product(options.encoders, options.inputs):
        cells = row(encoder_name, input_name, options)
        print('| ' + ' | '.join(cells) + ' |', flush=True)


if __name__ == '__main__':
    main()
