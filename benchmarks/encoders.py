# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""What the encoders cost: parameters, operations, time and memory, at equal input.

    python benchmarks/encoders.py
    python benchmarks/encoders.py --device cuda --batch 64 --dtype bfloat16 --compile

Each row runs in a process of its own. Operations are those of torch's counter for one image,
forward. Times are medians for one image; the factor is that to a plain ViT of timm of the same width
and depth with as many tokens (a patch embedding of 12 bands), measured just before and after.
"""

import argparse
import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import timm
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from torchgeo_anysensor.models import (
    SensorEncoder,
    anysensor_vit_base,
    anysensor_vit_small,
    anysensor_vit_tiny,
)
from torchgeo_anysensor.types import SensorSample

ENCODERS: dict[str, Callable[[], SensorEncoder]] = {
    'AnySensorViT tiny': anysensor_vit_tiny,
    'AnySensorViT small': anysensor_vit_small,
    'AnySensorViT base': anysensor_vit_base,
}
HEADS = {192: 3, 384: 6, 768: 12}
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


def reference(dim: int, depth: int, name: str) -> tuple[torch.nn.Module, int]:
    """A plain ViT with as many tokens of 16 x 16 pixels, and the width of its image."""
    _, width, token_m = INPUTS[name]
    size = 16 * round(width / token_m)
    model = timm.models.VisionTransformer(
        img_size=size, in_chans=12, embed_dim=dim, depth=depth, num_heads=HEADS[dim], num_classes=0
    )
    return model, size


def seconds(call: Callable[[], Any], *, device: str, repeats: int) -> float:
    """Median time of a call, after one that is not counted."""
    times = []
    for number in range(repeats + 1):
        start = time.perf_counter()
        call()
        if device == 'cuda':
            torch.cuda.synchronize()
        if number:
            times.append(time.perf_counter() - start)
    return statistics.median(times)


def backward(forward: Callable[[], Tensor], model: torch.nn.Module) -> Callable[[], None]:
    """Make a call that goes forward and back."""

    def call() -> None:
        model.zero_grad(set_to_none=True)
        forward().float().square().mean().backward()

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
    device, batch = options.device, options.batch
    encoder = ENCODERS[encoder_name]().to(device).eval()
    token_m = INPUTS[input_name][2]
    batched = views(input_name, batch=batch, device=device)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        tokens = encoder(batched, token_m=token_m).tokens
    gflop = counter.get_total_flops() / batch / 1e9
    plain, size = reference(encoder.embed_dim, len(encoder.cells.trunk.blocks), input_name)  # type: ignore[arg-type, union-attr]
    plain, image = plain.to(device).eval(), torch.rand(batch, 12, size, size, device=device)
    if options.compile:
        encoder.compile(fullgraph=False)
        plain.compile()
    dtype = getattr(torch, options.dtype)
    cast = torch.autocast(device, dtype, enabled=dtype != torch.float32)

    def ours() -> Tensor:
        with cast:
            found: Tensor = encoder(batched, token_m=token_m).tokens
            return found

    def theirs() -> Tensor:
        with cast:
            found: Tensor = plain.forward_features(image)  # type: ignore[operator]
            return found

    def timed(call: Callable[[], Any]) -> float:
        return seconds(call, device=device, repeats=options.repeats) / batch

    before = peak_mib(device)
    with torch.no_grad():
        plain_time, forward_time = timed(theirs), timed(ours)
        plain_time = (plain_time + timed(theirs)) / 2
    forward_memory = peak_mib(device) - before
    encoder.train()
    both_time = timed(backward(ours, encoder))
    plain.train()
    plain_both = timed(backward(theirs, plain))
    parameters = sum(p.numel() for p in encoder.parameters()) / 1e6
    numbers = [
        f'{parameters:.1f}',
        str(tokens.shape[1]),
        f'{gflop:.1f}',
        f'{1e3 * forward_time:.0f}',
        f'{forward_time / plain_time:.2f}',
        f'{1e3 * both_time:.0f}',
        f'{both_time / plain_both:.2f}',
        f'{forward_memory:.0f}',
        f'{peak_mib(device) - before:.0f}',
    ]
    return [encoder_name, input_name, *numbers]


def row(arguments: tuple[str, str, argparse.Namespace]) -> list[str]:
    """One row, in a process of its own."""
    return measure(*arguments)


def main(args: Sequence[str] | None = None) -> None:
    """Measure, and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--device', default='cpu', choices=['cpu', 'cuda'])
    parser.add_argument('--dtype', default='float32', choices=['float32', 'bfloat16'])
    parser.add_argument('--batch', type=int, default=4)
    parser.add_argument('--repeats', type=int, default=5)
    parser.add_argument('--threads', type=int, default=torch.get_num_threads())
    parser.add_argument('--encoders', nargs='+', default=list(ENCODERS), choices=list(ENCODERS))
    parser.add_argument('--compile', action='store_true')
    options = parser.parse_args(args)
    heads = ['encoder', 'input', 'M parameters', 'tokens', 'GFLOP', 'ms', 'ms / ViT']
    heads += ['ms with backward', 'with backward / ViT', 'MiB', 'MiB with backward']
    print(
        f'{options.device}, {options.dtype}, batches of {options.batch}, torch {torch.__version__}\n'
    )
    for line in (heads, ['---'] * len(heads)):
        print('| ' + ' | '.join(line) + ' |')
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(['torch', 'timm', 'torchgeo_anysensor.models'])
    jobs = [(encoder, name, options) for encoder in options.encoders for name in INPUTS]
    with context.Pool(1, maxtasksperchild=1) as pool:
        for cells in pool.imap(row, jobs, chunksize=1):
            print('| ' + ' | '.join(cells) + ' |', flush=True)


if __name__ == '__main__':
    main()
