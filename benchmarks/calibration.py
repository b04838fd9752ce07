# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Measure docs/probabilistic.md: are variances true, and do they help when one sensor is clouded?

    python benchmarks/calibration.py                       # on the test ground
    python benchmarks/calibration.py --ground val          # to make choices
    python benchmarks/calibration.py --ground val --p 0    # trained without painted clouds

A small encoder is pretrained on the train ground of the simulated scenes. Then one sensor after the
other is clouded on held-out ground, and its quality band does not tell.
"""

import argparse
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import matplotlib as mpl
import torch
import torch.nn.functional as F
from matplotlib import pyplot as plt
from results import logistic_regression
from torch import Tensor
from torch.optim.lr_scheduler import OneCycleLR

from torchgeo_anysensor.datasets import (
    HLSL30,
    HLSS30,
    LabelRaster,
    LandsatC2L2,
    MultiSensorDataset,
    Sentinel2L2A,
    collate_sensors,
)
from torchgeo_anysensor.main import write_scenes
from torchgeo_anysensor.models import AnySensorViT, Gaussian, Reliability, fuse, reliability
from torchgeo_anysensor.models.gaussian import Fusion
from torchgeo_anysensor.samplers import AlignedGridSampler, BlockSplit
from torchgeo_anysensor.tasks import Latents, ProbabilisticContrastive
from torchgeo_anysensor.tasks.segmentation import segmentation_scores
from torchgeo_anysensor.transforms import RandomClouds, RandomFlipRotate
from torchgeo_anysensor.types import IGNORE_INDEX, MultiSensorSample

SIZE, TOKEN = 240, 60  # metres
CLASSES = 9
WAYS: tuple[Fusion, ...] = get_args(Fusion)
#: Also measured, where a sensor is clouded: leave it out, as somebody who knows would.
LEFT_OUT = 'mean of the others'
CLOUDS = {'opacity': (0.1, 1.0)}


def scenes(root: Path) -> MultiSensorDataset:
    """Four sensors and their labels."""
    return MultiSensorDataset(
        {
            'sentinel2_l2a': [Sentinel2L2A(root / 'sentinel2', res=res) for res in (10, 20)],
            'landsat_c2l2': LandsatC2L2(root / 'landsat'),
            'hls_s30': HLSS30(root / 'hls'),
            'hls_l30': HLSL30(root / 'hls'),
        },
        tolerance=3,
        labels=LabelRaster(root / 'landcover', classes={i + 1: i for i in range(CLASSES)}),
    )


def patches(dataset: MultiSensorDataset, count: int, ground: str, block: float) -> list:
    """Patches of one split of the ground, evenly from all of it."""
    split = BlockSplit(size=block, fractions=[0.6, 0.2, 0.2], buffer=60)(dataset)
    found = list(AlignedGridSampler(dataset, size=SIZE, roi=getattr(split, ground)))
    chosen = torch.linspace(0, len(found) - 1, min(count, len(found))).round().long()
    return [dataset[found[int(i)]] for i in chosen]


def batches(samples: Sequence[MultiSensorSample], size: int = 32) -> list[MultiSensorSample]:
    """All samples once, in order."""
    return [collate_sensors(samples[i : i + size]) for i in range(0, len(samples), size)]


def pretrain(
    samples: list[MultiSensorSample], options: argparse.Namespace, seed: int
) -> ProbabilisticContrastive:
    """Train with clouds that nobody tells of."""
    torch.manual_seed(seed)
    encoder = AnySensorViT(96, depth=3, num_heads=3, token_m=TOKEN)
    task = ProbabilisticContrastive(encoder, projection_dim=64)
    optimizer = torch.optim.AdamW(task.parameters(), lr=2e-3, weight_decay=0.05)
    schedule = OneCycleLR(optimizer, 2e-3, total_steps=options.steps, pct_start=0.1)
    turn, cloud = RandomFlipRotate(), RandomClouds(options.p, **CLOUDS)
    for _ in range(options.steps):
        chosen = torch.randperm(len(samples))[: options.batch].tolist()
        values = task.losses(cloud(turn(collate_sensors([samples[i] for i in chosen]))))
        optimizer.zero_grad()
        values['loss'].backward()
        torch.nn.utils.clip_grad_norm_(task.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return task.eval()


@torch.no_grad()
def look(task: ProbabilisticContrastive, samples: list, clouded: str | None = None) -> Latents:
    """Tokens of all samples, one row each ``(n, P)``; one sensor clouded everywhere, or none."""
    cloud = RandomClouds(1.0, sensors=[clouded] if clouded else [], **CLOUDS)
    torch.manual_seed(1)
    found = [task.latents(cloud(batch)) for batch in batches(samples)]
    names = found[0].tokens
    tokens = {
        name: Gaussian(*(torch.cat([x.flatten(0, 1) for x in parts]) for parts in zip(*rows)))
        for name, rows in ((n, [f.tokens[n] for f in found]) for n in names)
    }
    seen = {name: torch.cat([f.seen_tokens[name].flatten() for f in found]) for name in names}
    return found[0]._replace(tokens=tokens, seen_tokens=seen)


def majority(samples: list[MultiSensorSample]) -> Tensor:
    """The most frequent class of each token ``(n,)``."""
    mask = torch.stack([sample['mask'] for sample in samples])
    known = mask != IGNORE_INDEX
    hot = F.one_hot(torch.where(known, mask, 0), CLASSES).movedim(-1, 1) * known[:, None]
    cells = SIZE // TOKEN
    share = F.adaptive_avg_pool2d(hot.float(), (cells, cells))
    most, label = share.max(dim=1)
    return torch.where(most > 0, label, IGNORE_INDEX).flatten()


def without(latents: Latents, name: str) -> tuple[dict[str, Gaussian], dict[str, Tensor]]:
    """Tokens of the other sensors, and where they have seen them."""
    others = [n for n in latents.tokens if n != name]
    return {n: latents.tokens[n] for n in others}, {n: latents.seen_tokens[n] for n in others}


def calibrate(latents: Latents, names: Sequence[str]) -> Reliability:
    """Differences of sensors to the fused others, against the variances of both."""
    errors, variances = [], []
    for name in names:
        own, others = latents.tokens[name], fuse(*without(latents, name))
        both = latents.seen_tokens[name] & others.log_var.isfinite().all(dim=-1)
        errors.append((own.mean - others.mean)[both].flatten())
        variances.append(own.log_var.logaddexp(others.log_var)[both].flatten())
    return reliability(torch.cat(errors), torch.cat(variances))


def fuse_all(latents: Latents, clouded: str | None) -> dict[str, Tensor]:
    """Fused means of every way."""
    found = {way: fuse(latents.tokens, latents.seen_tokens, how=way).mean for way in WAYS}
    if clouded is not None:
        found[LEFT_OUT] = fuse(*without(latents, clouded), how='mean').mean
    return found


def measure(train: list, held_out: list, options: argparse.Namespace, seed: int) -> dict:
    """Scores of one seed by name, and the reliability of clear and clouded views."""
    task = pretrain(train, options, seed)
    names = list(train[0]['sensors'])
    clear = look(task, held_out)
    known, label = majority(train), majority(held_out)
    fitted = {
        way: logistic_regression(x[known != IGNORE_INDEX], known[known != IGNORE_INDEX], CLASSES)
        for way, x in fuse_all(look(task, train), None).items()
    }
    some = torch.stack([*clear.seen_tokens.values()]).any(dim=0) & (label != IGNORE_INDEX)
    whole = fuse_all(clear, None)
    scores = {
        (way, 'clear'): classify(fitted[way], x[some], label[some]) for way, x in whole.items()
    }
    curves = {'clear': calibrate(clear, names)}
    for name in names:
        painted = look(task, held_out, name)
        curves[name] = calibrate(painted, [name])
        # Only where the clouded sensor and another have seen the ground
        both = some & clear.seen_tokens[name]
        both &= torch.stack([*without(clear, name)[1].values()]).any(dim=0)
        for way, x in fuse_all(painted, name).items():
            target = whole['mean' if way == LEFT_OUT else way][both]
            spread = (target - target.mean(dim=0)).square().mean()
            distance = float((x[both] - target).square().mean() / spread)
            regression = fitted['mean' if way == LEFT_OUT else way]
            scores[way, name] = (distance, *classify(regression, x[both], label[both])[1:])
    return {'scores': scores, 'curves': curves}


def classify(regression: torch.nn.Module, x: Tensor, label: Tensor) -> tuple[float, float, float]:
    """No distance, mIoU and accuracy."""
    with torch.no_grad():
        predicted = regression(x).argmax(dim=1)
    confusion = (label * CLASSES + predicted).bincount(minlength=CLASSES**2)
    scores = segmentation_scores(confusion.view(CLASSES, CLASSES))
    return 0.0, float(scores['miou']), float(scores['accuracy'])


def report(found: list[dict]) -> str:
    """Tables of means and standard deviations over seeds."""
    lines = ['| clouded | fusion | squared distance | mIoU | accuracy |', '| --- ' * 5 + '|']
    rows = defaultdict(list)
    for run in found:
        each = defaultdict(list)
        for (way, case), score in run['scores'].items():
            each['none' if case == 'clear' else 'one sensor', way].append(score)
        for key, scores in each.items():
            rows[key].append(torch.tensor(scores).mean(dim=0))  # over the sensors
    for (case, way), scores in rows.items():
        x = torch.stack(scores)
        cells = [f'{m:.3f} ± {s:.3f}' for m, s in zip(x.mean(0), x.std(0, correction=0))]
        cells[0] = '-' if case == 'none' else cells[0]
        lines.append('| ' + ' | '.join([case, way, *cells]) + ' |')
    lines += ['', '| views | ENCE | predicted standard deviation | observed |', '| --- ' * 4 + '|']
    for case in found[0]['curves']:
        curves = [run['curves'][case] for run in found]
        numbers = [
            [float(c.ence), *(float(x.square().mean().sqrt()) for x in c[:2])] for c in curves
        ]
        x = torch.tensor(numbers)
        cells = [f'{m:.3f} ± {s:.3f}' for m, s in zip(x.mean(0), x.std(0, correction=0))]
        name = 'all clear' if case == 'clear' else f'{case} clouded'
        lines.append('| ' + ' | '.join([name, *cells]) + ' |')
    return '\n'.join(lines)


def draw(found: list[dict], path: Path) -> None:
    """Predicted against observed deviation; distance by way of fusion."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.8), layout='constrained')
    for number, run in enumerate(found):
        for case, curve in run['curves'].items():
            clear = case == 'clear'
            style = {'color': 'C0' if clear else 'C1', 'marker': 'o' if clear else '^'}
            label = ('all clear' if clear else 'one sensor clouded') if number == 0 else None
            label = None if not clear and case != list(run['curves'])[1] else label
            left.plot(*curve[:2], ms=3, lw=0.8, alpha=0.7, label=label, **style)
    top = max(left.get_xlim()[1], left.get_ylim()[1])
    left.plot([0, top], [0, top], color='0.6', lw=1, ls='--', label='calibrated')
    left.set(
        xlabel='predicted standard deviation',
        ylabel='root mean square difference',
        title='A sensor against the fused others',
    )
    left.legend(frameon=False)
    ways = [*WAYS, LEFT_OUT]
    cases = [case for case in found[0]['curves'] if case != 'clear']
    for i, way in enumerate(ways):
        x = torch.tensor([[run['scores'][way, case][0] for case in cases] for run in found])
        places = torch.arange(len(cases)) + (i - 1.5) * 0.2
        right.bar(places, x.mean(0), 0.18, yerr=x.std(0, correction=0), label=way, color=f'C{i}')
    right.set_xticks(range(len(cases)), cases, fontsize=8)
    right.set(title='Fused mean, clouded against clear', ylabel='squared distance / spread')
    right.set_ylim(0, 1.4 * right.get_ylim()[1])
    right.legend(frameon=False, ncols=2)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(args: Sequence[str] | None = None) -> None:
    """Measure, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--data', type=Path, default=Path('data/demo'))
    parser.add_argument('--ground', choices=('val', 'test'), default='test')
    parser.add_argument('--seeds', type=int, default=3)
    parser.add_argument('--steps', type=int, default=100)
    parser.add_argument('--batch', type=int, default=16)
    parser.add_argument('--p', type=float, default=0.3, help='probability of clouds in training')
    parser.add_argument('--train', type=int, default=240, help='patches')
    parser.add_argument('--held-out', type=int, default=96, help='patches')
    parser.add_argument('--block', type=float, default=1500, help='metres, of the split')
    parser.add_argument('--figure', type=Path, help='where to draw, such as docs/images/x.png')
    options = parser.parse_args(args)
    mpl.use('Agg')
    if not options.data.exists():
        write_scenes(options.data)
    dataset = scenes(options.data)
    train = patches(dataset, options.train, 'train', options.block)
    held_out = patches(dataset, options.held_out, options.ground, options.block)
    found = [measure(train, held_out, options, seed) for seed in range(options.seeds)]
    print(report(found))
    if options.figure is not None:
        draw(found, options.figure)


if __name__ == '__main__':
    main()
