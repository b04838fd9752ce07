# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""What the encoders cost: parameters, operations, time and memory, at equal input.

    python benchmarks/encoders.py
    python benchmarks/encoders.py --device cuda --batch 64 --dtype bfloat16 --compile

Each row runs in a process of its own. Operations are those of torch's counter for one image,
forward. Times are medians for one image; the ratios are to a plain ViT of timm of the same width and
depth with as many tokens (a patch embedding of 12 bands), called turn by turn with the encoder. "Of matrix
rate" is the share of the operations a second that a product of large matrices reaches, forward and
back, as a GPU's utilisation is told. On a CPU the allocator keeps the memory that it has, as that of
a GPU does: fresh pages from the kernel can cost more than what is computed in them.
"""

import argparse
import multiprocessing
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import timm
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
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
    'Atomizer tiny': Entry(atomizer_tiny, 192, 3),
    'Atomizer small': Entry(atomizer_small, 384, 6),
    'timm ViT tiny': Entry(
        lambda: TimmEncoder([0.44 + 0.16 * i for i in range(12)], model='vit_tiny_patch16_224'),
        192,
        3,
    ),
    'DOFA base': Entry(DOFAEncoder, 768, 12),
    'Panopticon base': Entry(PanopticonEncoder, 768, 12),
    'Copernicus-FM base': Entry(CopernicusFMEncoder, 768, 12),
}
#: Name, pixel size in metres and bands of each grid, width of the patch and of a token in metres.
INPUTS: dict[str, tuple[list[tuple[float, int]], float, float]] = {
    '12 bands, 224 x 224': ([(10, 12)], 2240, 160),
    '200 bands, 224 x 224': ([(10, 200)], 2240, 160),
    'Sentinel-2, 2.4 km': ([(10, 4), (20, 6), (60, 2)], 2400, 120),
    'Landsat, 2.4 km': ([(30, 8)], 2400, 120),
    'both, 2.4 km': ([(10, 4), (20, 6), (60, 2), (30, 8)], 2400, 120),
}


def views(name: str, *, batch: int, device: str) -> list[SensorSample]:
    """Noise as an encoder gets it."""
    grids, width, _ = INPUTS[name]
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
    return [{key: x.to(device) for key, x in view.items()} for view in made]  # type: ignore[misc, attr-defined]


def reference(entry: Entry, name: str) -> tuple[torch.nn.Module, int]:
    """A plain ViT with as many tokens of 16 x 16 pixels, and the width of its image."""
    _, width, token_m = INPUTS[name]
    size = 16 * round(width / token_m)
    model = timm.models.VisionTransformer(
        img_size=size, in_chans=12, embed_dim=entry.dim, num_heads=entry.heads, num_classes=0
    )
    return model, size


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


def peak_mib(device: str) -> float:
    """Most memory that was in use, in MiB."""
    if device == 'cuda':
        return torch.cuda.max_memory_allocated() / 2**20
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used / (2**20 if sys.platform == 'darwin' else 2**10)  # kilobytes, but bytes on a Mac


def measure(encoder_name: str, input_name: str, options: argparse.Namespace) -> list[str]:
    """One row of the table."""
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    device, batch, entry = options.device, options.batch, ENCODERS[encoder_name]
    encoder = entry.build().to(device).eval()
    token_m = INPUTS[input_name][2]
    batched = views(input_name, batch=batch, device=device)
    dtype = getattr(torch, options.dtype)
    cast = torch.autocast(device, dtype, enabled=dtype != torch.float32)
    plain, size = reference(entry, input_name)
    plain, image = plain.to(device).eval(), torch.rand(batch, 12, size, size, device=device)

    def ours() -> Tensor:
        with cast:
            found: Tensor = encoder(batched, token_m=token_m).tokens
            return found

    def theirs() -> Tensor:
        with cast:
            found: Tensor = plain.forward_features(image)  # type: ignore[operator]
            return found

    encoder.requires_grad_(False)  # the counter does not know checkpoints that keep no gradient
    gflop, plain_gflop = (gflop_of(call) / batch for call in (ours, theirs))
    encoder.requires_grad_(True)
    if options.compile:
        encoder.compile(fullgraph=isinstance(encoder, AnySensorViT))
        plain.compile()
    found = [encoder_name, input_name]
    found += [f'{sum(p.numel() for p in encoder.parameters()) / 1e6:.1f}']
    with torch.no_grad():
        found += [str(ours().shape[1]), f'{gflop:.1f}', f'{gflop / plain_gflop:.2f}']
        before = peak_mib(device)
        found += timed(ours, theirs, options)
    forward_memory = peak_mib(device) - before
    encoder.train()
    plain.train()
    found += timed(backward(ours, encoder), backward(theirs, plain), options)
    rate = 3 * gflop / float(found[-2])  # forward, and twice that back, in GFLOP for a millisecond
    share = 1e12 * rate / matrix_rate(device, dtype)
    return [*found, f'{share:.2f}', f'{forward_memory:.0f}', f'{peak_mib(device) - before:.0f}']


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
) -> list[str]:
    """Median milliseconds of one image, and the median ratio to the plain ViT, turn by turn."""
    times, ratios = [], []
    for turn in range(options.repeats + 1):
        pair = []
        for call in (ours, theirs):
            start = time.perf_counter()
            call()
            if options.device == 'cuda':
                torch.cuda.synchronize()
            pair.append(time.perf_counter() - start)
        if turn:  # the first is not counted
            times.append(pair[0])
            ratios.append(pair[0] / pair[1])
    milliseconds = 1e3 * statistics.median(times) / options.batch
    return [
        f'{milliseconds:.2f}' if milliseconds < 10 else f'{milliseconds:.0f}',
        f'{statistics.median(ratios):.2f}',
    ]


def row(arguments: tuple[str, str, argparse.Namespace]) -> list[str]:
    """One row, in a process of its own."""
    try:
        return measure(*arguments)
    except ValueError as error:  # an encoder of fixed bands
        return [*arguments[:2], str(error).partition(':')[0]]


def main(args: Sequence[str] | None = None) -> None:
    """Measure, and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--device', default='cpu', choices=['cpu', 'cuda'])
    parser.add_argument('--dtype', default='float32', choices=['float32', 'bfloat16'])
    parser.add_argument('--batch', type=int, default=4)
    parser.add_argument('--repeats', type=int, default=9)
    parser.add_argument('--threads', type=int, default=torch.get_num_threads())
    parser.add_argument('--encoders', nargs='+', default=list(ENCODERS), choices=list(ENCODERS))
    parser.add_argument('--inputs', nargs='+', default=list(INPUTS), choices=list(INPUTS))
    parser.add_argument('--compile', action='store_true')
    options = parser.parse_args(args)
    heads = ['encoder', 'input', 'M parameters', 'tokens', 'GFLOP', 'GFLOP / ViT', 'ms', 'ms / ViT']
    heads += [
        'ms with backward',
        'with backward / ViT',
        'of matrix rate',
        'MiB',
        'MiB with backward',
    ]
    print(
        f'{options.device}, {options.dtype}, batches of {options.batch}, torch {torch.__version__}\n'
    )
    for line in (heads, ['---'] * len(heads)):
        print('| ' + ' | '.join(line) + ' |')
    os.environ |= KEEP_MEMORY  # read at the start of a process, as of the server below
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(['torch', 'timm', 'torchgeo_anysensor.models'])
    jobs = [(encoder, name, options) for encoder in options.encoders for name in options.inputs]
    with context.Pool(1, maxtasksperchild=1) as pool:
        for cells in pool.imap(row, jobs, chunksize=1):
            print('| ' + ' | '.join(cells) + ' |', flush=True)


if __name__ == '__main__':
    main()
