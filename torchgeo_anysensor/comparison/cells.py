# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""The unit of work: one method, trained once, and all its tests."""

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ..types import IGNORE_INDEX
from .learning import Fitted, Ground, Method, digest
from .patches import Patches
from .protocols import Case, Protocol, Test, patches_of
from .scores import Counts, count, scores, to_arrays
from .training import Budget, Transform, predict


@dataclass(frozen=True)
class Cell:
    """One method, one training, one seed, and the tests that share the training.

    Attributes:
        method: Name of the method.
        seed: Of the deal of the blocks, the weights and all draws.
        case: What is trained with what; its tests are those of ``tests``.
        tests: Cases and tests, of any protocol, that the method can take.
    """

    method: str
    seed: int
    case: Case
    tests: tuple[tuple[Case, Test], ...] = field(repr=False)


class Drawn(NamedTuple):
    """Predictions to be drawn."""

    rows: NDArray[np.int64]  #: ``(n,)`` numbers of the patches of the test
    classes: NDArray[np.uint8]  #: ``(n, H, W)``


class Result(NamedTuple):
    """What a cell found."""

    rows: list[dict[str, Any]]  #: one for each test, plain values
    counts: list[Counts]  #: in the same order
    maps: dict[str, Drawn]  #: predictions of one block of ground, by test


def plan(
    methods: Mapping[str, Method],
    protocols: Sequence[Protocol],
    seeds: Sequence[int],
    sensors: Sequence[str],
) -> tuple[list[Cell], list[str]]:
    """List what is to be done, seed by seed.

    Args:
        methods: By name.
        protocols: The questions.
        seeds: The seeds.
        sensors: All sensors of the data.

    Returns:
        The cells, and a line for each thing that is left out, with the reason.

    Raises:
        ValueError: If a protocol asks for a sensor that the data lack, or a method takes part in a
            protocol that there is not.
    """
    cases = [case for protocol in protocols for case in protocol.cases(sensors)]
    for case in cases:
        _check_sensors(case, sensors)
    here = {protocol.name for protocol in protocols}
    known = here | {kind.name for kind in Protocol.__subclasses__()}
    left_out: list[str] = []
    shared: dict[str, list[tuple[str, Case, list[tuple[Case, Test]]]]] = {}
    for name, method in methods.items():
        if unknown := set(method.only or ()) - known:
            raise ValueError(f'{name}: only={sorted(unknown)} is no protocol of {sorted(known)}')
        if reason := method.missing():
            left_out.append(f'{name}: {reason}')
            continue
        if method.only is not None and not here & set(method.only):
            left_out.append(f'{name}: takes part in {", ".join(method.only)} alone')
        for case in cases:
            if method.only is not None and case.protocol not in method.only:
                continue
            tests = []
            for test in case.tests:
                if reason := method.cannot(case, test):
                    left_out.append(f'{name}, {case.protocol}, {case.name} → {test.name}: {reason}')
                else:
                    tests.append((case, test))
            if not tests:
                continue
            # Cases of several protocols may share a training
            key = digest(name, case.train, method.prepared(case, Budget(), 0))
            shared.setdefault(key, []).append((name, case, tests))
    cells = [
        Cell(name, seed, case, tuple(test for _, _, tests in parts for test in tests))
        for seed in seeds
        for parts in shared.values()
        for name, case, _ in parts[:1]
    ]
    return cells, left_out


def _check_sensors(case: Case, sensors: Sequence[str]) -> None:
    """Raise if a case asks for what is not there.

    Raises:
        ValueError: If so.
    """
    asked = {name for test in case.tests for name in test.condition.sensors}
    if unknown := (asked | set(case.train.sensors) | set(case.seen_by)) - set(sensors):
        raise ValueError(
            f'protocol {case.protocol} asks for {sorted(unknown)}, the data have {list(sensors)}'
        )


def ground_of(
    cell: Cell,
    patches: Mapping[str, Patches],
    *,
    classes: Sequence[str],
    budget: Budget,
    keep: Path,
    transforms: Sequence[Transform] = (),
) -> Ground:
    """Choose what a method may learn from."""
    case, seed = cell.case, cell.seed
    whole_val = replace(case.train, labels=1.0)
    return Ground(
        train=case.train(patches['train'], seed=seed),
        val=whole_val(patches['val']),
        unlabelled=lambda: case.pretrain(patches['train']),
        case=case,
        classes=tuple(classes),
        budget=budget,
        seed=seed,
        keep=keep,
        transforms=tuple(transforms),
    )


def run_cell(cell: Cell, method: Method, ground: Ground, test: Patches) -> Result:
    """Choose the hyper-parameter, train once and take all tests.

    Args:
        cell: What to do.
        method: Its method.
        ground: What the method may learn from.
        test: Patches of the test split.

    Returns:
        What was found.
    """
    start = time.perf_counter()
    fitted, choice = method.learn(ground)
    seconds = time.perf_counter() - start
    rows, counts, drawn = [], [], {}
    known: dict[str, torch.Tensor] = {}  # of one condition, tests differ in the pixels that count
    for case, one in cell.tests:
        patches = patches_of(test, case, one, seed=cell.seed)
        key = digest(one.condition)
        if key not in known:
            parts = predict(fitted.task, patches, one.condition.sensors, ground.budget)
            known[key] = torch.cat(list(parts))
        found = count(
            known[key], patches.batch['mask'], patches.block, num_classes=len(ground.classes)
        )
        counts.append(found)
        rows.append(
            {
                'protocol': case.protocol,
                'case': case.name,
                'test': one.name,
                'group': one.group,
                'method': cell.method,
                'seed': cell.seed,
                **scores(found, ground.classes),
                **_spent(fitted, seconds),
                'choice': choice,
            }
        )
        few = shown(patches)
        classes = known[key][few].argmax(dim=1).to(torch.uint8)
        drawn[map_key(case, one)] = Drawn(few.numpy(), classes.numpy())
    return Result(rows, counts, drawn)


def _spent(fitted: Fitted, seconds: float) -> dict[str, float | str]:
    """What a cell took, and the code of its trainings, for its rows."""
    return {
        'code': ' '.join(sorted({fitted.spent.code, fitted.pretraining.code} - {''})),
        'steps': fitted.spent.steps,
        'gflop': fitted.spent.gflop,
        'pretrain_steps': fitted.pretraining.steps,
        'pretrain_gflop': fitted.pretraining.gflop,
        'seconds': seconds,
        'pretrain_seconds': fitted.pretraining.seconds,
    }


def map_key(case: Case, test: Test) -> str:
    """Name of the map of a test."""
    return f'{case.protocol}/{case.name}/{test.name}'


def shown(patches: Patches) -> torch.Tensor:
    """Choose what is drawn: a block at a time, with most classes and then most labelled pixels.

    Args:
        patches: Of a test.

    Returns:
        Numbers of patches.
    """
    best, found = (-1, -1), torch.empty(0, dtype=torch.long)
    for moment in zip(*torch.unique(torch.stack([patches.block, patches.time]), dim=1)):
        block, time = moment
        here = ((patches.block == block) & (patches.time == time)).nonzero().squeeze(1)
        labels = patches.batch['mask'][here]
        labels = labels[labels != IGNORE_INDEX]
        richness = int(labels.bincount().count_nonzero()), len(labels)
        if richness > best:
            best, found = richness, here
    return found


def save_result(result: Result, path: Path) -> None:
    """Keep a result in a file, which appears when it is whole."""
    arrays: dict[str, Any] = {'rows': json.dumps(result.rows)}
    for number, found in enumerate(result.counts):
        arrays |= {f'{number}/{key}': value for key, value in to_arrays(found).items()}
    for key, drawn in result.maps.items():
        arrays |= {f'map/{key}': drawn.classes, f'rows/{key}': drawn.rows}
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(f'.{os.getpid()}')
    with draft.open('wb') as file:
        np.savez_compressed(file, **arrays)
    draft.replace(path)


def load_result(path: Path) -> Result:
    """Load what :func:`save_result` kept."""
    with np.load(path) as file:
        rows = json.loads(str(file['rows']))
        counts = [
            Counts(*(file[f'{number}/{key}'] for key in ('block', 'confusion', 'calibration')))
            for number in range(len(rows))
        ]
        keys = [key.removeprefix('rows/') for key in file.files if key.startswith('rows/')]
        maps = {key: Drawn(file[f'rows/{key}'], file[f'map/{key}']) for key in keys}
    return Result(rows, counts, maps)


def plain_cell(cell: Cell) -> dict[str, Any]:
    """What decides the result of a cell, beside data, method and budget."""
    return {
        'seed': cell.seed,
        'train': asdict(cell.case.train),
        'pretrain': asdict(cell.case.pretrain),
        'tests': [[c.protocol, c.name, c.seen_by, asdict(test)] for c, test in cell.tests],
    }
