# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""A user's own encoder as a row of the comparison."""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from ..datamodules import MultiSensorDataModule
from ..models import SensorEncoder
from .cells import ground_of, plan, run_cell
from .learning import Method
from .methods import Probe
from .patches import check_labels, read_patches
from .protocols import Protocol
from .scores import Bootstrap, Counts, interval
from .training import Budget


def evaluate(
    encoder: SensorEncoder | Method,
    datamodule: MultiSensorDataModule,
    protocol: Protocol,
    *,
    classes: Sequence[str],
    seeds: Sequence[int] = (0, 1, 2),
    budget: Budget | None = None,
) -> pd.DataFrame:
    """Test an encoder by a protocol, on held-out ground.

    Args:
        encoder: A frozen encoder, which a linear probe reads; or any :class:`~.methods.Method`.
        datamodule: Labelled data of all sensors of the protocol. The seed of its split is replaced
            by each of *seeds*.
        protocol: What to train and to test with.
        classes: Names of the classes 0, 1, ...
        seeds: Of the deal of the blocks, and of all draws.
        budget: By default ``Budget()``.

    Returns:
        A row for each test: ``case``, ``test``, ``miou`` (mean over seeds) with ``low`` and
        ``high`` (95 % by bootstrap over blocks of ground), ``accuracy``, ``ece``, ``blocks``, and
        ``iou/CLASS``. The counts behind them are in ``attrs['counts']``, by case and test, for
        :func:`~.scores.difference`.

    Raises:
        ValueError: If the data lack a sensor or labels, splits share ground, or the method can take
            no test of the protocol.
    """
    method = encoder if isinstance(encoder, Method) else Probe(encoder)
    budget = Budget() if budget is None else budget
    sensors = list(datamodule.scenes.datasets)
    cells, left_out = plan({'method': method}, [protocol], seeds, sensors)
    if not cells:
        raise ValueError('no test can be taken: ' + '; '.join(left_out))
    rows, counts = [], dict[tuple[str, str], list[Counts]]()
    with tempfile.TemporaryDirectory() as keep:
        for seed in seeds:
            patches = read_patches(datamodule, replace(datamodule.split, seed=seed))
            check_labels(patches, len(classes))
            for cell in cells:
                if cell.seed != seed:
                    continue
                ground = ground_of(
                    cell,
                    patches,
                    classes=classes,
                    budget=budget,
                    keep=Path(keep),
                    transforms=datamodule.train_transforms,
                )
                result = run_cell(cell, method, ground, patches['test'])
                rows += result.rows
                for row, found in zip(result.rows, result.counts):
                    counts.setdefault((row['case'], row['test']), []).append(found)
    return _frame(pd.DataFrame(rows), counts)


def _frame(rows: pd.DataFrame, counts: dict[tuple[str, str], list[Counts]]) -> pd.DataFrame:
    """One row for each test, mean over seeds."""
    first = {'group': 'first'} | dict.fromkeys(['blocks'], 'sum')
    means = ['miou', 'accuracy', 'ece', *(c for c in rows if c.startswith('iou/'))]
    frame = rows.groupby(['protocol', 'case', 'test'], sort=False).agg(
        first | dict.fromkeys(means, 'mean')
    )
    frame = frame.reset_index()
    bounds = []
    for case, test in zip(frame['case'], frame['test']):
        tests = counts[case, test]
        bootstrap = Bootstrap(block for found in tests for block in found.block)
        bounds.append(interval(*bootstrap.miou(tests)))
    frame.insert(frame.columns.get_loc('miou') + 1, 'low', [low for low, _ in bounds])
    frame.insert(frame.columns.get_loc('low') + 1, 'high', [high for _, high in bounds])
    frame['blocks'] = [len({b for c in counts[k] for b in c.block}) for k in counts]
    frame.attrs['counts'] = counts
    return frame
