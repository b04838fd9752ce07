# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Run a comparison: what is missing, in several processes, and then the report."""

import json
import multiprocessing
import os
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import torch
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
from .figures import draw
from .learning import Ground, Method, digest
from .patches import Patches, check_labels, load_patches, read_patches, save_patches
from .protocols import Case, Protocol
from .report import Report
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


def forget(job: Job, names: Sequence[str], cells: Sequence[Cell]) -> None:
    """Remove what methods have finished, and what others have made of the same pretraining.

    Args:
        job: The job.
        names: Of the methods.
        cells: All cells.

    Raises:
        ValueError: If a method is not known.
    """
    methods = job.comparison.methods
    if unknown := [name for name in names if name not in methods]:
        raise ValueError(f'--again: no method {unknown[0]!r} in {list(methods)}')
    shared = {job.prepared(cell) for cell in cells if cell.method in names} - {None}
    for cell in cells:
        if cell.method in names or job.prepared(cell) in shared:
            job.cell_path(cell).unlink(missing_ok=True)
    for path in shared:
        assert path is not None
        path.unlink(missing_ok=True)


def run(config: Namespace, job: Job, say: Callable[[str], None]) -> list[str]:
    """Run what is missing.

    Args:
        config: Parsed; worker processes make their own objects of it.
        job: Its objects in this process.
        say: Gets a line for each thing that is done.

    Returns:
        What failed.
    """
    cells, left_out = job.cells()
    forget(job, config.again, cells)
    todo = [cell for cell in cells if not job.cell_path(cell).exists()]
    say(f'{len(cells)} cells, {len(cells) - len(todo)} of them finished before')
    for line in left_out:
        say(f'left out: {line}')
    seeds = sorted({cell.seed for cell in todo}, key=job.comparison.seeds.index)
    preparing = {job.prepared(cell): cell for cell in todo}
    preparing = {path: c for path, c in preparing.items() if path and not path.exists()}
    failed: list[str] = []
    with _Workers(config, job) as workers:
        for stage, calls in (
            ('read', [('read', (seed,), f'patches of seed {seed}') for seed in seeds]),
            ('prepare', [('prepare', (c,), _text(c)) for c in preparing.values()]),
            ('run', [('run', (c,), _text(c)) for c in todo]),
        ):
            for number, (text, seconds, error) in enumerate(workers.do(calls), start=1):
                say(f'[{stage} {number}/{len(calls)}] {text}: {error or f"{seconds:.0f} s"}')
                if error:
                    failed.append(f'{stage}, {text}: {error}')
            if failed and stage == 'read':
                break
    return failed


def _text(cell: Cell) -> str:
    """A cell in words."""
    return f'{cell.method}, {cell.case.protocol}, {cell.case.name}, seed {cell.seed}'


class _Workers:
    """Processes that do calls on a job of their own."""

    def __init__(self, config: Namespace, job: Job) -> None:
        self.config = config
        self.job = job
        self.pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        count = self.job.comparison.workers
        if count:
            threads = max(1, (os.cpu_count() or 1) // count)
            text = parser().dump(self.config, skip_validation=True)
            self.pool = ProcessPoolExecutor(
                count,
                mp_context=multiprocessing.get_context('spawn'),
                initializer=_start,
                initargs=(text, threads),
            )
        return self

    def __exit__(self, *error: object) -> None:
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)

    def do(
        self, calls: Sequence[tuple[str, tuple[Any, ...], str]]
    ) -> Iterator[tuple[str, float, str | None]]:
        """Do calls of methods of the job.

        Args:
            calls: Method, arguments and text of each.

        Yields:
            Text, seconds, and the error if there was one, as each is done.
        """
        if self.pool is None:
            for name, args, text in calls:
                yield text, *_timed(self.job, name, args)
            return
        futures: dict[Future[tuple[float, str | None]], str] = {
            self.pool.submit(_in_worker, name, args): text for name, args, text in calls
        }
        for future in as_completed(futures):
            yield futures[future], *future.result()


_worker_job: Job | None = None


def _start(text: str, threads: int) -> None:
    """Make the job of a worker process."""
    global _worker_job
    torch.set_num_threads(threads)
    _worker_job = make_job(parser().parse_string(text))


def _in_worker(name: str, args: tuple[Any, ...]) -> tuple[float, str | None]:
    """Do a call in a worker process."""
    assert _worker_job is not None
    return _timed(_worker_job, name, args)


def _timed(job: Job, name: str, args: tuple[Any, ...]) -> tuple[float, str | None]:
    """Do a call; give the seconds, and the error if there was one."""
    start = time.perf_counter()
    try:
        getattr(job, name)(*args)
    except Exception as error:  # noqa: BLE001  # the other cells go on
        where = traceback.extract_tb(error.__traceback__)[-1]
        text = f'{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})'
        return time.perf_counter() - start, text
    return time.perf_counter() - start, None


def compare(
    args: Sequence[str], *, write_demo: Callable[[Path], None], say: Callable[[str], None]
) -> None:
    """Run a comparison and write its report.

    Args:
        args: Of the command line.
        write_demo: Called with the folder of the demo scenes, if they are wanted and not there.
        say: Gets the lines of what is done and found.
    """
    its_parser = parser()
    config = its_parser.parse_args(list(args))
    if config.demo is not None and not Path(config.demo).exists():
        write_demo(Path(config.demo))
    try:
        job = make_job(config)
        failed = run(config, job, say)
        if failed and not job.results():
            raise ValueError(f'nothing is finished: {failed[0]}')
        report = Report(job.results(), list(job.comparison.methods))
    except ValueError as error:
        its_parser.error(str(error))
    report.rows.to_csv(job.out / 'results.csv', index=False)
    (job.out / 'report.md').write_text(report.text(job.comparison.subjects, job.cells()[1]))
    test = job.patches(report.seeds[0])['test']
    draw(report, job.out, test=test, cases=job.cases(), classes=job.comparison.classes)
    for line in report.verdicts(job.comparison.subjects):
        say(line)
    say(f'Tables and figures: {job.out}')
    if failed:
        its_parser.error('these failed; run the command again:\n' + '\n'.join(failed))
