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

from torchgeo_anysensor.cli import AnySensorCLI, lightning_cli
from torchgeo_anysensor.datamodules import MultiSensorDataModule
from torchgeo_anysensor.datasets import collate_sensors
from torchgeo_anysensor.models import encode
from torchgeo_anysensor.models.heads import as_map
from torchgeo_anysensor.samplers import AlignedGridSampler
from torchgeo_anysensor.tasks import SegmentationProbe
from torchgeo_anysensor.tasks.segmentation import seen_labels, segmentation_scores
from torchgeo_anysensor.types import IGNORE_INDEX

OUT = Path('logs/results.jsonl')
SEEDS = (0, 1, 2)
KEEP = 0.2  # share of the training pixels that a regression sees, drawn at random
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
    Experiment(
        'WorldCereal',
        f'{EXAMPLES}/worldcereal_probe.yaml',
        S2,
        (S2, L8),
        f'{EXAMPLES}/worldcereal_pretrain.yaml',
    ),
    Experiment('Aberystwyth', f'{EXAMPLES}/aberystwyth_probe.yaml', S2, (S2,), SIMULATED),
    Experiment('Zion', f'{EXAMPLES}/zion_probe.yaml', L8_L1, (L8_L1,), SIMULATED),
)
PROBE = 'probe, pretrained'  # the task, frozen, trained as its config says
FLOORS = ('majority class', 'logistic regression on bands')
# The same regression on the frozen tokens, by how the encoder came about (pretrained or not)
TOKENS = {'on tokens, pretrained': True, 'on tokens, untrained': False}
METHODS = (*FLOORS, PROBE, *TOKENS)


def cli(config: str, seed: int, folder: Path, **options: object) -> AnySensorCLI:
    """Make the objects of a config with another seed, logging to a folder of its own."""
    args = ['--config', config, '--seed_everything', str(seed)]
    args += ['--data.init_args.split.seed', str(seed)]
    args += ['--trainer.logger', 'false', '--trainer.enable_progress_bar', 'false']
    args += [
        '--trainer.enable_model_summary',
        'false',
        '--trainer.default_root_dir',
        'logs/results',
    ]
    for key, value in options.items():
        text = value if isinstance(value, str) else json.dumps(value)
        args += [f'--model.init_args.{key}', text]
    made = lightning_cli(args, run=False)
    assert made.trainer.checkpoint_callback is not None
    made.trainer.checkpoint_callback.dirpath = str(folder)
    return made


def pretrained(config: str, seed: int) -> str:
    """Checkpoint of a pretraining, made if it is not there.

    On simulated scenes it is made once: no probe's test ground is among them. On real ground it has
    the probe's seed, and so its split.
    """
    seed = 0 if config == SIMULATED else seed
    folder = Path('logs/results') / Path(config).stem / str(seed)
    checkpoint = folder / 'encoder.ckpt'
    if not checkpoint.exists():
        made = cli(config, seed, folder)
        made.trainer.fit(made.model, made.datamodule)
    return str(checkpoint)


def probe(experiment: Experiment, seed: int) -> dict[str, dict[str, float]]:
    """Train a probe, and test it at its best epoch with each sensor."""
    encoder = pretrained(experiment.pretrain, seed)
    folder = Path('logs/results') / experiment.name / experiment.train / str(seed)
    options = {'encoder': encoder, 'train_sensors': [experiment.train]}
    made = cli(experiment.config, seed, folder, **options)
    made.trainer.fit(made.model, made.datamodule)
    found = {}
    for sensor in experiment.tests:
        made.model.test_sensors = (sensor,)
        scores = made.trainer.test(made.model, made.datamodule, ckpt_path='best', verbose=False)[0]
        found[sensor] = {'miou': scores['test_miou'], 'accuracy': scores['test_accuracy']}
    return found


def pixels(
    data: MultiSensorDataModule, split: str, sensor: str, *, task: SegmentationProbe, tokens: bool
) -> tuple[Tensor, Tensor]:
    """Bands, or frozen tokens, ``(n, C)`` and class ``(n,)`` of the pixels that the sensor saw."""
    ground = getattr(data.split(data.scenes), split)
    xs, ys = [], []
    for index in AlignedGridSampler(data.scenes, size=data.size, roi=ground):
        batch = collate_sensors([data.scenes[index]])
        views, mask = batch['sensors'][sensor], seen_labels(batch, [sensor])
        if tokens:
            with torch.no_grad():
                maps = [as_map(encode(task.encoder.eval(), views, token_m=task.token_m))]
        else:
            maps = [view['image'] for view in views]
        same = [F.interpolate(x, mask.shape[-2:], mode='nearest') for x in maps]
        good = mask != IGNORE_INDEX
        thin = good & (torch.rand(mask.shape) < KEEP) if split == 'train' else good
        xs.append(torch.cat(same, dim=1).movedim(1, -1)[thin])
        ys.append(mask[thin])
    return torch.cat(xs), torch.cat(ys)


def logistic_regression(x: Tensor, y: Tensor, classes: int) -> torch.nn.Module:
    """Fit class weights to standardised features, with a small ridge, to convergence."""
    mean, std = x.mean(dim=0), x.std(dim=0) + 1e-6
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


def regressions(
    experiment: Experiment, methods: tuple[str, ...], seed: int
) -> dict[str, dict[str, dict[str, float]]]:
    """Scores of the floors, or of a regression on tokens, for each sensor that they can read."""
    use_pretrained = TOKENS.get(methods[-1])
    encoder = pretrained(experiment.pretrain, seed) if use_pretrained else UNTRAINED
    made = cli(experiment.config, seed, Path('logs/results/floor'), encoder=encoder)
    data, classes = made.datamodule, len(made.model.classes)
    options = {'task': made.model, 'tokens': methods[-1] in TOKENS}
    x, y = pixels(data, 'train', experiment.train, **options)
    majority = int(y.bincount(minlength=classes).argmax())
    regression = logistic_regression(x, y, classes)
    found: dict[str, dict[str, dict[str, float]]] = {method: {} for method in methods}
    for sensor in experiment.tests:
        x_test, y_test = pixels(data, 'test', sensor, **options)
        predictions = {'majority class': torch.full_like(y_test, majority)}
        if x_test.shape[1] == x.shape[1]:  # another sensor has other bands, but the same tokens
            predictions[methods[-1]] = regression(x_test).argmax(dim=1)
        for method in set(methods) & predictions.keys():
            confusion = (y_test * classes + predictions[method]).bincount(minlength=classes**2)
            scores = segmentation_scores(confusion.view(classes, classes))
            numbers = {'miou': float(scores['miou']), 'accuracy': float(scores['accuracy'])}
            found[method][sensor] = numbers
    return found


def record(experiment: Experiment, method: str, seed: int, scores: dict) -> None:
    """Add a finished run."""
    row = {'experiment': experiment.name, 'train': experiment.train, 'method': method}
    with OUT.open('a') as file:
        file.write(json.dumps(row | {'seed': seed, 'scores': scores}) + '\n')


def measure() -> None:
    """Run what is missing."""
    OUT.parent.mkdir(exist_ok=True)
    done = {(r['experiment'], r['train'], r['method'], r['seed']) for r in load()}
    for methods in (FLOORS, (PROBE,), *((method,) for method in TOKENS)):
        for seed in SEEDS:
            for experiment in EXPERIMENTS:
                if all((experiment.name, experiment.train, m, seed) in done for m in methods):
                    continue
                if methods == (PROBE,):
                    found = {PROBE: probe(experiment, seed)}
                else:
                    found = regressions(experiment, methods, seed)
                for method, scores in found.items():
                    record(experiment, method, seed, scores)


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
            for method in METHODS:
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
