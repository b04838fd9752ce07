# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""What patches side by side do to the negatives of a contrastive batch.

    python benchmarks/neighbours.py --data data/demo

Pretrains on the simulated scenes with batches of single patches and of neighbours, all else equal.
"km apart" is the median distance of the negatives in a training batch, "alike" how much of their
land cover two of them have in common (the sum of the lesser shares of each class; places count as
far apart as their coordinates are). Retrieval and IoU are those of the val ground after training.
"""

import argparse
import contextlib
import io
import itertools
import logging
import statistics
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from calibration import CLASSES, SIZE, scenes
from lightning.pytorch import Trainer, seed_everything

from torchgeo_anysensor.callbacks import KNNProbe, RepresentationMonitor
from torchgeo_anysensor.datamodules import MultiSensorDataModule
from torchgeo_anysensor.main import write_scenes
from torchgeo_anysensor.models import AnySensorViT
from torchgeo_anysensor.samplers import BlockSplit
from torchgeo_anysensor.tasks import CrossSensorContrastive
from torchgeo_anysensor.transforms import RandomFlipRotate


def data_module(options: argparse.Namespace, neighbours: int) -> MultiSensorDataModule:
    """The four sensors of the simulated scenes."""
    return MultiSensorDataModule(
        scenes(options.data),
        size=SIZE,
        split=BlockSplit(options.block, (0.6, 0.2, 0.2), buffer=60),
        batch_size=options.batch,
        length=options.steps * options.batch,
        neighbours=neighbours,
        train_transforms=[RandomFlipRotate()],
    )


def negatives(data: MultiSensorDataModule, batches: int) -> tuple[float, float]:
    """Median distance in km of two patches of a training batch, and how alike their classes are."""
    apart, alike = [], []
    for batch in itertools.islice(data.train_dataloader(), batches):
        (view, *_), *_ = batch['sensors'].values()
        # The reference sensor is there in every sample
        corner = view['bounds'][:, [0, 3]] / 1000
        shares = torch.stack([(batch['mask'] == c).float().mean((1, 2)) for c in range(CLASSES)], 1)
        common = torch.minimum(shares[:, None], shares[None]).sum(-1)
        one, other = torch.triu_indices(len(corner), len(corner), offset=1)
        apart.append(torch.linalg.norm(corner[one] - corner[other], dim=1))
        alike.append(common[one, other])
    return float(torch.cat(apart).median()), float(torch.cat(alike).mean())


def run(options: argparse.Namespace, neighbours: int, seed: int) -> list[float]:
    """One pretraining: numbers of the negatives, retrieval, and mean IoU."""
    with contextlib.redirect_stdout(io.StringIO()):
        seed_everything(seed)
    data = data_module(options, neighbours)
    encoder = AnySensorViT(96, depth=2, num_heads=4, token_m=60)
    trainer = Trainer(
        max_epochs=1,
        accelerator='cpu',
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=[RepresentationMonitor(), KNNProbe()],
    )
    trainer.fit(CrossSensorContrastive(encoder, projection_dim=64, lr=options.lr), data)
    metrics = trainer.callback_metrics
    told = [float(metrics[name]) for name in ('val_retrieval', 'val_knn_miou')]
    return [*negatives(data, options.looks), *told]


def main(args: Sequence[str] | None = None) -> None:
    """Train, and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--data', type=Path, default=Path('data/demo'))
    parser.add_argument('--neighbours', type=int, nargs='+', default=[1, 4, 16])
    parser.add_argument('--steps', type=int, default=120)
    parser.add_argument('--batch', type=int, default=32)
    parser.add_argument('--seeds', type=int, default=3)
    parser.add_argument('--block', type=float, default=1500, help='metres of a block of the split')
    parser.add_argument('--lr', type=float, default=1e-3)
    parser.add_argument(
        '--looks', type=int, default=20, help='batches whose negatives are measured'
    )
    options = parser.parse_args(args)
    warnings.simplefilter('ignore')
    logging.getLogger('lightning.pytorch').setLevel(logging.ERROR)
    if not options.data.exists():
        write_scenes(options.data)
    print('| neighbours | places in a batch | km apart | alike | retrieval | kNN mIoU |')
    print('| --- | --- | --- | --- | --- | --- |')
    for neighbours in options.neighbours:
        found = [run(options, neighbours, seed) for seed in range(options.seeds)]
        cells = [
            f'{statistics.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})'
            for values in zip(*found)
        ]
        places = options.batch / neighbours
        print(f'| {neighbours} | {places:g} | {" | ".join(cells)} |', flush=True)


if __name__ == '__main__':
    main()
