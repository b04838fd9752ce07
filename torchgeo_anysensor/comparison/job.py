# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""A comparison, and where its files are."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from ..datamodules import MultiSensorDataModule
from .cells import (
    Cell,
    Result,
    ground_of,
    load_result,
    map_key,
    plain_cell,
    plan,
    run_cell,
    save_result,
)
from .learning import Ground, Method, digest
from .patches import Patches, check_labels, load_patches, read_patches, save_patches
from .protocols import Case, Protocol
from .training import Budget, default_precision

#: What decides the patches that are read, in a config.
_DATA_KEYS = ('size', 'split', 'dataset')


@dataclass(frozen=True)
class Comparison:
    """Methods x protocols x seeds on the same ground, labels and budget.

    Attributes:
        data: Labelled patches of all sensors. The seed of the split is replaced by each of *seeds*.
        classes: Names of the classes 0, 1, ...
        methods: By name.
        protocols: The questions.
        subjects: Names of the methods that the verdict is about; the others are their rivals.
        seeds: Of the deal of the blocks, the weights and all draws.
        budget: What each method may spend.
        out: Folder for results; what is finished there is not run again.
        workers: Processes; 0 runs all in this one.
    """

    data: MultiSensorDataModule
    classes: list[str]
    methods: dict[str, Method]
    protocols: list[Protocol]
    subjects: list[str]
    seeds: list[int]
    budget: Budget
    out: str = 'logs/compare'
    workers: int = 2

    def __post_init__(self) -> None:
        """Check the names.

        Raises:
            ValueError: If a subject is no method, or two protocols or tests have one name.
        """
        if unknown := [name for name in self.subjects if name not in self.methods]:
            raise ValueError(f'subjects={unknown} are no methods of {list(self.methods)}')
        names = [protocol.name for protocol in self.protocols]
        if len(set(names)) < len(names):
            raise ValueError(f'protocols need different names, got {names}')
        sensors = list(self.data.scenes.datasets)
        tests = [map_key(c, t) for p in self.protocols for c in p.cases(sensors) for t in c.tests]
        if twice := {key for key in tests if tests.count(key) > 1}:
            raise ValueError(f'these tests are there twice: {sorted(twice)}')


def parser() -> ArgumentParser:
    """The options of ``torchgeo-anysensor compare``."""
    made = ArgumentParser(
        'torchgeo-anysensor compare',
        description='Compare ways to combine sensors, and say which is better.',
    )
    made.add_argument('--config', action='config', help='YAML file, as conf/compare.yaml')
    made.add_argument(
        '--demo', type=str | None, help='folder of simulated scenes, written if it does not exist'
    )
    made.add_argument(
        '--again', type=list[str], default=[], help='methods to run again, though finished'
    )
    made.add_class_arguments(Comparison)
    return made


@dataclass(frozen=True)
class Job:
    """A config with its objects, and where its files are."""

    comparison: Comparison
    plain: Mapping[str, Any]  #: the config as plain values

    @property
    def out(self) -> Path:
        """Folder of the results."""
        return Path(self.comparison.out)

    def keep(self, seed: int) -> Path:
        """Folder of what was trained without labels on the ground of a seed."""
        return self.out / 'unlabelled' / digest(self.patches_path(seed).stem, self._transforms())

    def _transforms(self) -> Any:
        """Transforms of training batches, as plain values."""
        return self.plain['data']['init_args'].get('train_transforms')

    def prepared(self, cell: Cell) -> Path | None:
        """File of what the method of a cell learns without labels."""
        method = self.comparison.methods[cell.method]
        name = method.prepared(cell.case, self.comparison.budget, cell.seed)
        return None if name is None else self.keep(cell.seed) / name

    def patches_path(self, seed: int) -> Path:
        """File of the patches of a seed."""
        data = {key: self.plain['data']['init_args'][key] for key in _DATA_KEYS}
        data['split'] = {**data['split'], 'seed': seed}
        return self.out / 'patches' / f'{seed}-{digest(data)}.pt'

    def patches(self, seed: int) -> dict[str, Patches]:
        """Patches of a seed, which must have been read."""
        return _load(str(self.patches_path(seed)))

    def read(self, seed: int) -> None:
        """Read the patches of a seed into their file, if they are not there."""
        path = self.patches_path(seed)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            data = self.comparison.data
            patches = read_patches(data, replace(data.split, seed=seed))
            check_labels(patches, len(self.comparison.classes))
            save_patches(patches, path)

    def cell_path(self, cell: Cell) -> Path:
        """File of what a cell found."""
        budget = self.comparison.budget
        method = dict(self.plain['methods'][cell.method])
        # Which protocols a method takes part in changes none of its results, nor does an empty list
        given = method.pop('init_args', {}).items()
        init_args = {k: v for k, v in given if k != 'only' and v != []}
        what = [
            self.patches_path(cell.seed).stem,
            self.comparison.classes,
            asdict(replace(budget, precision=budget.precision or default_precision())),
            self._transforms(),
            method,
            init_args,
            self.comparison.methods[cell.method].weights(),
            plain_cell(cell),
        ]
        folder = self.out / 'cells' / cell.method.replace('/', '-')
        return folder / f'{cell.seed}-{digest(what)}.npz'

    def ground(self, cell: Cell) -> Ground:
        """What the method of a cell may learn from."""
        keep, c = self.keep(cell.seed), self.comparison
        keep.mkdir(parents=True, exist_ok=True)
        return ground_of(
            cell,
            self.patches(cell.seed),
            classes=c.classes,
            budget=c.budget,
            keep=keep,
            transforms=c.data.train_transforms,
        )

    def prepare(self, cell: Cell) -> None:
        """Learn without labels."""
        self.comparison.methods[cell.method].prepare(self.ground(cell))

    def run(self, cell: Cell) -> None:
        """Run a cell."""
        path = self.cell_path(cell)
        if not path.exists():
            method, test = self.comparison.methods[cell.method], self.patches(cell.seed)['test']
            save_result(run_cell(cell, method, self.ground(cell), test), path)

    def cells(self) -> tuple[list[Cell], list[str]]:
        """All cells, and what is left out."""
        c = self.comparison
        return plan(c.methods, c.protocols, c.seeds, list(c.data.scenes.datasets))

    def cases(self) -> list[Case]:
        """The cases of all protocols."""
        sensors = list(self.comparison.data.scenes.datasets)
        return [case for protocol in self.comparison.protocols for case in protocol.cases(sensors)]

    def results(self) -> list[Result]:
        """What is finished."""
        paths = [self.cell_path(cell) for cell in self.cells()[0]]
        return [load_result(path) for path in paths if path.exists()]


@lru_cache(maxsize=1)
def _load(path: str) -> dict[str, Patches]:
    """Patches, kept for the next cell of the process."""
    return load_patches(Path(path))


def make_job(config: Namespace) -> Job:
    """Make the objects of a parsed config."""
    its_parser = parser()
    plain = json.loads(its_parser.dump(config, format='json', skip_validation=True))
    made = its_parser.instantiate(config)
    for key in ('config', 'demo', 'again'):
        made.pop(key, None)
    return Job(Comparison(**made.as_dict()), plain)
