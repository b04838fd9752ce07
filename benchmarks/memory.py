# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""What a step of the contrast costs in memory and time, and what chunks and checkpointing save.

    python benchmarks/memory.py
    python benchmarks/memory.py --device cuda --encoder small --batch 64 256 --chunk 16 --dtype bfloat16

Sentinel-2 on two grids and Landsat, noise; with reconstruction, as in conf/pretrain.yaml. Memory is the most that was in use beyond parameters and batch; time is the median
of the step, forward and back, on a CPU of processor time.
"""

import argparse
import statistics
from collections.abc import Sequence
from typing import cast

import torch
from losses import peak_mib, seconds

from torchgeo_anysensor.models import (
    SensorEncoder,
    anysensor_vit_base,
    anysensor_vit_small,
    anysensor_vit_tiny,
)
from torchgeo_anysensor.tasks import CrossSensorContrastive
from torchgeo_anysensor.types import MultiSensorSample, SensorSample

ENCODERS = {'tiny': anysensor_vit_tiny, 'small': anysensor_vit_small, 'base': anysensor_vit_base}
#: Pixel size in metres and bands of each grid.
GRIDS = {'sentinel2_l2a': [(10, 4), (20, 6)], 'landsat_c2l2': [(30, 6)]}
WIDTH_M, TOKEN_M = 240, 30


def draw(batch: int, device: str) -> MultiSensorSample:
    """Noise as the task gets it."""

    def view(res: float, bands: int) -> SensorSample:
        n = round(WIDTH_M / res)
        made = {
            'image': torch.rand(batch, bands, n, n),
            'valid': torch.ones(batch, n, n, dtype=torch.bool),
            'wavelength': torch.linspace(0.44, 2.2, bands),
            'bandwidth': torch.full((bands,), 0.05),
            'gsd': torch.full((bands,), float(res)),
            'res': torch.tensor(float(res)),
            'bounds': torch.zeros(batch, 9),
            **{key: torch.zeros(batch) for key in ('t', 'dx', 'dy')},
        }
        return cast(SensorSample, {key: x.to(device) for key, x in made.items()})

    return {
        'sensors': {name: tuple(view(*grid) for grid in grids) for name, grids in GRIDS.items()},
        'present': {name: torch.ones(batch, dtype=torch.bool, device=device) for name in GRIDS},
    }


def measure(batch: int, way: str, options: argparse.Namespace) -> list[str]:
    """One row of the table."""
    torch.manual_seed(0)
    encoder: SensorEncoder = ENCODERS[options.encoder](token_m=TOKEN_M, depth=options.depth)
    task = CrossSensorContrastive(encoder, reconstruction=3.0)
    task = task.to(options.device).train()
    encoder.batch_chunk = options.chunk if 'chunk' in way else None
    encoder.set_grad_checkpointing('checkpointing' in way)
    sample, dtype = draw(batch, options.device), getattr(torch, options.dtype)

    def step() -> None:
        task.zero_grad(set_to_none=True)
        with torch.autocast(options.device, dtype, enabled=dtype != torch.float32):
            loss = task.losses(sample)['loss']
        torch.autograd.backward(loss)

    step()  # the first is not counted
    # Each fourth step also looks at what sensors agree about
    mib = max(peak_mib(step, options.device) for _ in range(4))
    times = [seconds(step, options.device) for _ in range(options.repeats)]
    return [str(batch), way, f'{mib:.0f}', f'{1e3 * statistics.median(times) / batch:.1f}']


def main(args: Sequence[str] | None = None) -> None:
    """Measure, and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--device', default='cpu', choices=['cpu', 'cuda'])
    parser.add_argument('--dtype', default='float32', choices=['float32', 'bfloat16'])
    parser.add_argument('--encoder', default='tiny', choices=list(ENCODERS))
    parser.add_argument('--depth', type=int, default=12)
    parser.add_argument('--batch', type=int, nargs='+', default=[16, 32, 64])
    parser.add_argument('--chunk', type=int, default=8)
    parser.add_argument('--repeats', type=int, default=3)
    options = parser.parse_args(args)
    print(f'{options.device}, {options.dtype}, {options.encoder}, torch {torch.__version__}\n')
    ways = ['plain', 'checkpointing', f'chunks of {options.chunk}']
    ways.append(f'checkpointing, chunks of {options.chunk}')
    heads = ['batch', 'way', 'MiB', 'ms a sample']
    for line in (heads, ['---'] * len(heads)):
        print('| ' + ' | '.join(line) + ' |')
    for batch in options.batch:
        for way in ways:
            print('| ' + ' | '.join(measure(batch, way, options)) + ' |', flush=True)


if __name__ == '__main__':
    main()
