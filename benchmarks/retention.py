# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Measure docs/objectives.md: does what only one sensor sees survive the pretraining?

    python benchmarks/retention.py                  # on the test ground
    python benchmarks/retention.py --ground val     # to make choices

Two traits that vary over the ground are put into the pixels of the simulated scenes: one in the red edge, which
Sentinel-2 alone sees, and one in the short-wave infrared, which all sensors see. Encoders are
pretrained on the train ground and frozen; a ridge regression reads the traits from the tokens of
Sentinel-2.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from calibration import batches, patches, scenes
from torch import Tensor
from torch.optim.lr_scheduler import OneCycleLR

from torchgeo_anysensor.datasets import collate_sensors
from torchgeo_anysensor.main import write_scenes
from torchgeo_anysensor.models import AnySensorViT, CanonicalEncoder, SensorEncoder, encode
from torchgeo_anysensor.tasks import CrossSensorContrastive, EncoderPretraining, MaskedAutoencoding
from torchgeo_anysensor.transforms import RandomFlipRotate
from torchgeo_anysensor.types import MultiSensorSample, SensorSample

SIZE, TOKEN, PIXEL = 240, 60, 10  # metres
SEER = 'sentinel2_l2a'
#: Name, wavelength, width (standard deviation) in um, and size in reflectance of a trait.
TRAITS = {'seen by Sentinel-2 alone': (0.74, 0.03, 0.03), 'seen by all': (1.61, 0.05, 0.03)}
PENALTIES = [10.0**k for k in range(-8, 2)]
DIM = 96


def contrastive(**options: object) -> Callable[[SensorEncoder], EncoderPretraining]:
    """Make a cross-sensor task with options."""
    return lambda encoder: CrossSensorContrastive(encoder, projection_dim=64, **options)


#: Beside the contrast, as in conf/pretrain.yaml.
RECONSTRUCTION = {'reconstruction': 3.0, 'patch_weight': 0.1, 'token_weight': 0.1}
#: What the encoder learns, and whether from Sentinel-2 alone.
WAYS: dict[str, tuple[Callable[[SensorEncoder], EncoderPretraining] | None, bool]] = {
    'untrained': (None, False),
    'Sentinel-2 alone, reconstruction': (MaskedAutoencoding, True),
    '(a) contrast': (contrastive(), False),
    '(b) contrast, reconstruction': (contrastive(**RECONSTRUCTION), False),
    '(c) contrast, reconstruction, private part': (
        contrastive(**RECONSTRUCTION, private_dim=24),
        False,
    ),
}


def with_traits(sample: MultiSensorSample, seed: int) -> MultiSensorSample:
    """A sample with traits in its pixels; ``mask`` becomes their values ``(T, H, W)`` at 10 m."""
    generator = torch.Generator().manual_seed(seed)
    nodes = torch.randn(1, len(TRAITS), SIZE // 60, SIZE // 60, generator=generator)
    fields = F.interpolate(nodes, (SIZE // PIXEL,) * 2, mode='bicubic')
    sensors = {
        name: tuple(_add(view, fields) for view in views)
        for name, views in sample['sensors'].items()
        if name != 'hls_s30'  # the same instrument as Sentinel-2
    }
    return {**sample, 'sensors': sensors, 'mask': fields[0]}


def _add(view: SensorSample, fields: Tensor) -> SensorSample:
    """A view in which each band shows the traits at its wavelength."""
    size = view['image'].shape[-2:]
    shown = F.adaptive_avg_pool2d(fields, tuple(size))[0]  # (T, H, W)
    image = view['image'].clone()
    for field, (centre, width, reflectance) in zip(shown, TRAITS.values()):
        response = torch.exp(-0.5 * ((view['wavelength'] - centre) / width) ** 2)
        image += reflectance * response[:, None, None] * field
    return {**view, 'image': image * view['valid']}


def pretrain(
    way: str, samples: list[MultiSensorSample], options: argparse.Namespace, seed: int
) -> EncoderPretraining | SensorEncoder:
    """Train, or draw random weights."""
    torch.manual_seed(seed)
    encoder = AnySensorViT(DIM, depth=3, num_heads=3, token_m=TOKEN)
    objective, alone = WAYS[way]
    if objective is None:
        return encoder.eval()
    task = objective(encoder).train()
    optimizer = torch.optim.AdamW(task.parameters(), lr=options.lr, weight_decay=0.05)
    schedule = OneCycleLR(optimizer, options.lr, total_steps=options.steps, pct_start=0.1)
    turn = RandomFlipRotate()
    for _ in range(options.steps):
        chosen = torch.randperm(len(samples))[: options.batch].tolist()
        batch = turn(collate_sensors([samples[i] for i in chosen]))
        if alone:
            batch['sensors'] = {SEER: batch['sensors'][SEER]}
            batch['present'] = {SEER: batch['present'][SEER]}
        loss = task.losses(batch)['loss']
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(task.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return task.eval()


@torch.no_grad()
def read(samples: list[MultiSensorSample], encoder: SensorEncoder | None) -> tuple[Tensor, Tensor]:
    """Tokens of Sentinel-2 ``(n, D)``, or its bands and their squares, and the traits ``(n, T)``."""
    xs, ys = [], []
    cells = (SIZE // TOKEN,) * 2
    for batch in batches(samples):
        views = batch['sensors'][SEER]
        whole = torch.stack([view['valid'].flatten(1).all(dim=1) for view in views]).all(dim=0)
        if encoder is None:
            bands = [F.adaptive_avg_pool2d(view['image'], cells) for view in views]
            x = torch.cat(bands, dim=1).flatten(2).mT
            x = torch.cat([x, x.square()], dim=-1)
        else:
            x = encode(encoder, views).tokens
        y = F.adaptive_avg_pool2d(batch['mask'][batch['present'][SEER]], cells).flatten(2).mT
        xs.append(x[whole].flatten(0, 1))
        ys.append(y[whole].flatten(0, 1))
    return torch.cat(xs).double(), torch.cat(ys).double()


def explained(
    train: tuple[Tensor, Tensor], val: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]
) -> list[float]:
    """R2 of each trait by ridge regression; the penalty is chosen on val."""
    (x, y), mean = train, train[0].mean(dim=0)
    size = (x - mean).square().mean().sqrt()  # features keep their sizes against each other
    centre = y.mean(dim=0)

    def fit(penalty: float) -> Tensor:
        z = (x - mean) / size
        gram = z.T @ z / len(z) + penalty * torch.eye(z.shape[1], dtype=z.dtype)
        return torch.linalg.solve(gram, z.T @ (y - centre) / len(z))

    def r2(weights: Tensor, of: tuple[Tensor, Tensor]) -> Tensor:
        error = (of[0] - mean) / size @ weights + centre - of[1]
        return 1 - error.square().mean(dim=0) / of[1].var(dim=0, correction=0)

    fits = [fit(penalty) for penalty in PENALTIES]
    on_val = torch.stack([r2(weights, val) for weights in fits])  # (P, T)
    best = on_val.argmax(dim=0)
    return [float(r2(fits[int(i)], test)[t]) for t, i in enumerate(best)]


def measure(
    data: dict[str, list[MultiSensorSample]], options: argparse.Namespace, seed: int
) -> dict[str, list[float]]:
    """R2 of the traits by row, of one seed."""

    def probe(encoder: SensorEncoder | None) -> list[float]:
        return explained(*(read(data[split], encoder) for split in ('train', 'val', 'ground')))

    rows = {'bands and squares': probe(None)}
    for way in WAYS:
        found = pretrain(way, data['train'], options, seed)
        rows[way] = probe(getattr(found, 'encoder', found))
        if isinstance(found, CrossSensorContrastive):
            rows[f'{way}; canonical'] = probe(CanonicalEncoder(found.encoder).fit(found.moments))
    return rows


def report(found: list[dict[str, list[float]]]) -> str:
    """Table of means and standard deviations over seeds, and the share of the single sensor's."""
    lines = [
        '| features | ' + ' | '.join(TRAITS) + ' | share |',
        '| --- ' * (len(TRAITS) + 2) + '|',
    ]
    mean = {way: torch.tensor([run[way] for run in found]).mean(dim=0) for way in found[0]}
    alone = mean['Sentinel-2 alone, reconstruction'][0]
    for way in found[0]:
        x = torch.tensor([run[way] for run in found])
        cells = [f'{m:.3f} ± {s:.3f}' for m, s in zip(x.mean(0), x.std(0, correction=0))]
        share = f'{float(mean[way][0] / alone):.0%}'
        lines.append('| ' + ' | '.join([way, *cells, share]) + ' |')
    return '\n'.join(lines)


def main(args: Sequence[str] | None = None) -> None:
    """Measure and print; a seed that is in the file of results is not run again."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--data', type=Path, default=Path('data/demo'))
    parser.add_argument('--ground', choices=('val', 'test'), default='test')
    parser.add_argument('--seeds', type=int, default=3)
    parser.add_argument('--steps', type=int, default=100)
    parser.add_argument('--batch', type=int, default=16)
    parser.add_argument('--lr', type=float, default=3e-4, help='as in conf/pretrain.yaml')
    parser.add_argument('--train', type=int, default=400, help='patches')
    parser.add_argument('--held-out', type=int, default=150, help='patches')
    parser.add_argument('--block', type=float, default=1500, help='metres, of the split')
    parser.add_argument('--out', type=Path, help='JSON file of the seeds that are finished')
    options = parser.parse_args(args)
    if not options.data.exists():
        write_scenes(options.data)
    kept = json.loads(options.out.read_text()) if options.out and options.out.exists() else {}
    dataset = scenes(options.data)
    counts = {'train': options.train, 'val': options.held_out, options.ground: options.held_out}
    samples = {name: patches(dataset, n, name, options.block) for name, n in counts.items()}
    samples['ground'] = samples[options.ground]
    for seed in range(options.seeds):
        if str(seed) in kept:
            continue
        data = {
            split: [
                with_traits(x, (3 * seed + k) * 10_000 + i) for i, x in enumerate(samples[split])
            ]
            for k, split in enumerate(('train', 'val', 'ground'))
        }
        kept[str(seed)] = measure(data, options, seed)
        if options.out:
            options.out.write_text(json.dumps(kept, indent=1))
    print(report([kept[str(seed)] for seed in range(options.seeds)]))


if __name__ == '__main__':
    main()
