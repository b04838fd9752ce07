# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""The command that writes patches."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from .. import transforms  # noqa: F401  so that its classes are known by their names
from ..datamodules import MultiSensorDataModule
from .chip import write_chips

#: Parts of a config of ``fit`` that have nothing to do with patches.
_OTHERS = ('seed_everything', 'trainer', 'model', 'efficiency', 'optimizer', 'lr_scheduler')
#: What tells the patches; how they are batched may differ.
_OF_DATA = ('dataset', 'size', 'split')


def _parser() -> ArgumentParser:
    """The options of ``torchgeo-anysensor chip``."""
    made = ArgumentParser(
        'torchgeo-anysensor chip',
        description='Write the patches of a config: all sensors, on their own grids, with labels. '
        'Run it again after an interruption: what is there is not written again.',
    )
    made.add_argument('--config', action='config', help='YAML file of fit, as conf/pretrain.yaml')
    made.add_argument('out', type=str, help='folder to write')
    made.add_argument('--shard', type=str, default='1/1', help='part of the work, as 2/8')
    made.add_argument('--stride', type=float | None, help='metres between train patches')
    made.add_argument('--chips_per_shard', type=int, default=256, help='chips in a file')
    made.add_argument('--workers', type=int, default=0, help='processes that read')
    made.add_argument('--demo', type=str | None, help='folder of simulated scenes')
    made.add_subclass_arguments(MultiSensorDataModule, 'data', required=True)
    for name in _OTHERS:
        made.add_argument(f'--{name}', type=Any, help='not used')
    return made


def chip(
    args: Sequence[str], *, write_demo: Callable[[Path], None], say: Callable[..., None]
) -> None:
    """Write the patches of a config.

    Args:
        args: Of the command line.
        write_demo: Writes simulated scenes to a folder.
        say: Prints lines.
    """
    parser = _parser()
    config = parser.parse_args(list(args))
    plain = json.loads(parser.dump(config, format='json', skip_validation=True))
    own = {key: plain['data']['init_args'].get(key) for key in _OF_DATA}
    match = re.fullmatch(r'(\d+)/(\d+)', config.shard)
    if match is None:
        parser.error(f'--shard={config.shard} is not like 2/8')
    if config.demo is not None and not Path(config.demo).exists():
        write_demo(Path(config.demo))
    try:
        report = write_chips(
            parser.instantiate(config).data,
            config.out,
            shard=(int(match[1]), int(match[2])),
            stride=config.stride,
            chips_per_shard=config.chips_per_shard,
            workers=config.workers,
            config=own,
        )
    except (OSError, ValueError) as error:
        parser.error(str(error))
    say(
        f'{config.out}: {report.written} of {report.shards} shards written ({report.chips} chips), '
        'the others were there'
        + (f'; {report.missing} of other parts are missing' if report.missing else '')
    )
