# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""What detail costs: RAMEN over the width of its tokens, Atomizer over pixels and bands.

Usage:
    python benchmarks/encoder_tradeoffs.py [--size tiny] [--patch-m 1200] [--repeats 3]

Prints two tables in Markdown, for the forward pass of one patch of noise on the CPU. A multiply-add
counts as 2 FLOP; sines and exponentials do not count. Time is the best of the repeats. The last
column of Atomizer is what each further token costs beyond the first row of its block; where it is
the same in all rows, the growth is linear.
"""

import argparse
import time
from collections.abc import Sequence

import torch
from encoders import gflop_of, noise

from torchgeo_anysensor.models import (
    SensorEncoder,
    atomizer_small,
    atomizer_tiny,
    encode,
    ramen_small,
    ramen_tiny,
)
from torchgeo_anysensor.types import SensorSample

TOKENS_M = (120.0, 60.0, 30.0, 20.0)
BUILDERS = {'tiny': (ramen_tiny, atomizer_tiny), 'small': (ramen_small, atomizer_small)}


def measure(
    encoder: SensorEncoder, view: SensorSample, *, token_m: float, repeats: int
) -> tuple[int, float, float]:
    """Count the ground tokens, the GFLOP and the seconds of a forward pass."""
    tokens = encode(encoder, view, token_m=token_m).tokens.shape[1]
    gflop = gflop_of(lambda: encode(encoder, view, token_m=token_m))
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        encode(encoder, view, token_m=token_m)
        seconds.append(time.perf_counter() - start)
    return tokens, gflop, min(seconds)


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table in Markdown."""
    for row in (head, ['---:'] * len(head), *rows):
        print('|', ' | '.join(row), '|')


def ramen_table(encoder: SensorEncoder, *, patch_m: float, repeats: int) -> None:
    """Print what RAMEN costs over the width of its tokens."""
    (view,), rows = noise([(10.0, 12)], patch_m), []
    for token_m in TOKENS_M:
        tokens, gflop, seconds = measure(encoder, view, token_m=token_m, repeats=repeats)
        rows.append([f'{token_m:g}', str(tokens), f'{gflop:.2f}', f'{1000 * seconds:.0f}'])
    print(f'\nRAMEN, a patch of {patch_m:g} m, 12 bands of 10 m\n')
    print_table(('token_m (m)', 'ground tokens', 'GFLOP', 'ms'), rows)


def atomizer_table(encoder: SensorEncoder, *, patch_m: float, repeats: int) -> None:
    """Print what Atomizer costs over the pixels and the bands of the same ground."""
    blocks = (
        [(bands, 10.0) for bands in (1, 4, 12, 48, 200)],
        [(12, res) for res in (60.0, 30.0, 20.0, 10.0, 5.0)],
    )
    rows = []
    for block in blocks:
        first: tuple[int, float] | None = None
        for bands, res in block:
            (view,) = noise([(res, bands)], patch_m)
            _, gflop, seconds = measure(encoder, view, token_m=60.0, repeats=repeats)
            pixels = view['valid'].numel()
            tokens = pixels * bands
            more = 1e6 * (gflop - first[1]) / (tokens - first[0]) if first else None
            first = first or (tokens, gflop)
            row = [str(bands), f'{res:g}', str(pixels), str(tokens), f'{gflop:.2f}']
            rows.append([*row, f'{1000 * seconds:.0f}', f'{more:.2f}' if more else ''])
    print(f'\nAtomizer, a patch of {patch_m:g} m, token_m 60\n')
    head = ('bands', 'pixel (m)', 'pixels', 'pixel-band tokens', 'GFLOP', 'ms')
    print_table((*head, 'kFLOP for a further token'), rows)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--size', choices=BUILDERS, default='tiny')
    parser.add_argument('--patch-m', type=float, default=1200.0, help='a multiple of 120')
    parser.add_argument('--repeats', type=int, default=3)
    args = parser.parse_args()
    torch.manual_seed(0)
    ramen, atomizer = (build().eval().requires_grad_(False) for build in BUILDERS[args.size])
    ramen_table(ramen, patch_m=args.patch_m, repeats=args.repeats)
    atomizer_table(atomizer, patch_m=args.patch_m, repeats=args.repeats)


if __name__ == '__main__':
    main()
