# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Measure the tables of docs/results.md: probes and floors on the same splits of the ground.

    python benchmarks/results.py            # run what is missing, then print the tables
    python benchmarks/results.py --print    # print the tables alone

Each finished run is a line of logs/results.jsonl and is not run again. The seed of a run is that of
its weights, its patches and its deal of the blocks. Scores are those of the test blocks; the epoch
is chosen on the val blocks.
"""

import argparse
import json
import warnings
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from torchgeo_anysensor.datamodules import MultiSensorDataModule
from torchgeo_anysensor.datasets import collate_sensors
from torchgeo_anysensor.main import AnySensorCLI, lightning_cli
from torchgeo_anysensor.samplers import AlignedGridSampler
from torchgeo_anysensor.tasks.segmentation import segmentation_scores
from torchgeo_anysensor.types import IGNORE_INDEX

OUT = Path('logs/results.jsonl')
SEEDS = (0, 1, 2)
UNTRAINED = {
    'class_path': 'torchgeo_anysensor.models.anysensor_vit_tiny',
    'init_args': {'depth': 4},
}
S2, L8, L8_L1 = 'sentinel2_l2a', 'landsat_c2l2', 'landsat_c2l1'


@dataclass(frozen=True)
class Experiment:
    """A config, the sensor to train on and the sensors to test on."""

    name: str
    config: str
    train: str
    tests: tuple[str, ...]
    pretrain: str  # config of the pretraining, run once for each seed


SIMULATED = 'conf/pretrain.yaml'
EXAMPLES = 'conf/examples'
EXPERIMENTS = (
    Experiment('simulated', 'conf/probe.yaml', S2, (S2, L8), SIMULATED),
    Experiment(
        'WorldCereal',
        f'{EXAMPLES}/worldcereal_probe.yaml',
        S2,
        (S2, L8),
        f'{EXAMPLES}/worldcereal_pretrain.yaml',
    ),
    Experiment(
        'WorldCereal',
        f'{EXAMPLES}/worldcereal_probe.yaml',
        L8,
        (L8, S2),
        f'{EXAMPLES}/worldcereal_pretrain.yaml',
    ),
    Experiment('Aberystwyth', f'{EXAMPLES}/aberystwyth_probe.yaml', S2, (S2,), SIMULATED),
    Experiment('Zion', f'{EXAMPLES}/zion_probe.yaml', L8_L1, (L8_L1,), SIMULATED),
)
PROBES = {  # method: (pretrained, frozen)
    'pretrained, frozen': (True, True),
    'untrained, frozen': (False, True),
    'pretrained, fine-tuned': (True, False),
}
FLOORS = ('majority class', 'logistic regression')


def cli(config: str, seed: int, folder: Path, **options: object) -> AnySensorCLI:
    """Make the objects of a config with another seed, logging to a folder of its own."""
    args = ['--config', config, '--seed_everything', str(seed)]
    args += ['--data.init_args.split.seed', str(seed)]
    args += ['--trainer.logger', 'false', '--trainer.enable_progress_bar', 'false']
    args += ['--trainer.enable_model_summary', 'false']
    for key, value in options.items():
        text = value if isinstance(value, str) else json.dumps(value)
        args += [f'--model.init_args.{key}', text]
    made = lightning_cli(args, run=False)
    assert made.trainer.checkpoint_callback is not None
    made.trainer.checkpoint_callback.dirpath = str(folder)
    return made


def pretrained(config: str, seed: int) -> str:
    """Checkpoint of the pretraining with a seed, made if it is not there."""
    folder = Path('logs/results') / Path(config).stem / str(seed)
    checkpoint = folder / 'encoder.ckpt'
    if not checkpoint.exists():
        made = cli(config, seed, folder)
        made.trainer.fit(made.model, made.datamodule)
    return str(checkpoint)


def probe(experiment: Experiment, method: str, seed: int) -> dict[str, dict[str, float]]:
    """Train a probe, and test it at its best epoch with each sensor."""
    use_pretrained, frozen = PROBES[method]
    encoder = pretrained(experiment.pretrain, seed) if use_pretrained else UNTRAINED
    folder = Path('logs/results') / experiment.name / experiment.train / method / str(seed)
    options = {'encoder': encoder, 'freeze': frozen, 'train_sensors': [experiment.train]}
    made = cli(experiment.config, seed, folder, **options)
    made.trainer.fit(made.model, made.datamodule)
    found = {}
    for sensor in experiment.tests:
        made.model.test_sensors = (sensor,)
        scores = made.trainer.test(made.model, made.datamodule, ckpt_path='best', verbose=False)[0]
        found[sensor] = {'miou': scores['test_miou'], 'accuracy': scores['test_accuracy']}
    return found


def pixels(data: MultiSensorDataModule, split: str, sensor: str) -> tuple[Tensor, Tensor]:
    """Bands ``(n, C)`` and class ``(n,)`` of all labelled, valid pixels of a split."""
    ground = getattr(data.split(data.scenes), split)
    xs, ys = [], []
    for index in AlignedGridSampler(data.scenes, size=data.size, roi=ground):
        batch = collate_sensors([data.scenes[index]])
        mask = batch['mask']
        views = batch['sensors'][sensor]
        images = [F.interpolate(view['image'], mask.shape[-2:], mode='nearest') for view in views]
        valid = [
            F.interpolate(view['valid'][:, None].float(), mask.shape[-2:], mode='nearest') > 0
            for view in views
        ]
        good = torch.cat(valid, dim=1).all(dim=1) & (mask != IGNORE_INDEX)
        xs.append(torch.cat(images, dim=1).movedim(1, -1)[good])
        ys.append(mask[good])
    return torch.cat(xs), torch.cat(ys)


def logistic_regression(
    x: Tensor, y: Tensor, classes: int, *, most: int = 200_000
) -> torch.nn.Module:
    """Fit class weights to standardised bands, with a small ridge, to convergence."""
    if len(y) > most:  # evenly thinned: the fit does not change in the third digit
        keep = torch.linspace(0, len(y) - 1, most).long()
        x, y = x[keep], y[keep]
    mean, std = x.mean(dim=0), x.std(dim=0)
    linear = torch.nn.Linear(x.shape[1], classes)
    optimizer = torch.optim.LBFGS(linear.parameters(), max_iter=200, line_search_fn='strong_wolfe')
    inputs = (x - mean) / std

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(linear(inputs), y) + 1e-5 * linear.weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return torch.nn.Sequential(_Standardise(mean, std), linear)


class _Standardise(torch.nn.Module):
    """Bands to mean 0 and standard deviation 1."""

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.mean, self.std = mean, std

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


def floor(experiment: Experiment, method: str, seed: int) -> dict[str, dict[str, float]]:
    """Score of a floor on the same split, for each sensor that it can be tested with."""
    made = cli(experiment.config, seed, Path('logs/results/floor'), encoder=UNTRAINED)
    data, classes = made.datamodule, len(made.model.classes)
    x, y = pixels(data, 'train', experiment.train)
    found = {}
    for sensor in experiment.tests:
        x_test, y_test = pixels(data, 'test', sensor)
        if method == 'majority class':
            prediction = torch.full_like(y_test, int(y.bincount(minlength=classes).argmax()))
        elif sensor == experiment.train:  # the other sensor has other bands
            prediction = logistic_regression(x, y, classes)(x_test).argmax(dim=1)
        else:
            continue
        confusion = (y_test * classes + prediction).bincount(minlength=classes**2)
        scores = segmentation_scores(confusion.view(classes, classes))
        found[sensor] = {'miou': float(scores['miou']), 'accuracy': float(scores['accuracy'])}
    return found


def measure() -> None:
    """Run what is missing."""
    OUT.parent.mkdir(exist_ok=True)
    done = {(r['experiment'], r['train'], r['method'], r['seed']) for r in load()}
    runs = [
        (method, seed, experiment)
        for methods in (FLOORS, list(PROBES)[:2], list(PROBES)[2:])  # the slow ones last
        for seed in SEEDS
        for experiment in EXPERIMENTS
        for method in methods
    ]
    for method, seed, experiment in runs:
        if (experiment.name, experiment.train, method, seed) in done:
            continue
        scores = (floor if method in FLOORS else probe)(experiment, method, seed)
        row = {'experiment': experiment.name, 'train': experiment.train}
        row |= {'method': method, 'seed': seed, 'scores': scores}
        with OUT.open('a') as file:
            file.write(json.dumps(row) + '\n')


def load() -> list[dict]:
    """Finished runs."""
    return [json.loads(line) for line in OUT.read_text().splitlines()] if OUT.exists() else []


def tables() -> str:
    """Mean and standard deviation over seeds, as Markdown."""
    found = defaultdict(list)
    for row in load():
        for sensor, scores in row['scores'].items():
            key = row['experiment'], row['train'], sensor, row['method']
            found[key].append((scores['miou'], scores['accuracy']))
    lines = ['| data | train | test | method | seeds | mIoU | accuracy |', '| --- ' * 7 + '|']
    for experiment in EXPERIMENTS:
        for sensor in experiment.tests:
            for method in (*FLOORS, *PROBES):
                key = experiment.name, experiment.train, sensor, method
                if key in found:
                    scores = np.array(found[key])
                    cells = [f'{m:.3f} ± {s:.3f}' for m, s in zip(scores.mean(0), scores.std(0))]
                    lines.append('| ' + ' | '.join([*key, str(len(scores)), *cells]) + ' |')
    return '\n'.join(lines)


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--print', action='store_true', dest='only_print')
    if not parser.parse_args().only_print:
        warnings.filterwarnings('ignore', module='lightning|torch|jsonargparse')
        measure()
    print(tables())
