# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Command-line interface: Lightning's commands, and the package's own small ones."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from . import __version__

# See https://github.com/pangeo-data/cog-best-practices. What the user has set stays.
_GDAL_DEFAULTS = {'GDAL_DISABLE_READDIR_ON_OPEN': 'EMPTY_DIR', 'VSI_CURL_CACHE_SIZE': '200000000'}

_COMMANDS_HELP = """\
Besides fit, validate, test and predict:
  torchgeo-anysensor sensors [NAME]   the sensors that are known, or the bands of one
  torchgeo-anysensor simulate DIR     write simulated scenes with known land cover
"""


class AnySensorCLI(LightningCLI):
    """Lightning's commands, with demo scenes and the precision of the machine."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the package's own options.

        Args:
            parser: Of one command.
        """
        parser.add_argument(
            '--demo',
            type=str | None,
            default=None,
            help='Folder of simulated scenes; they are written first if it does not exist.',
        )

    def before_instantiate_classes(self) -> None:
        """Write the demo scenes if they are wanted and not there; choose the precision."""
        config = self.config[self.subcommand] if self.subcommand else self.config
        if config.demo is not None and not Path(config.demo).exists():
            _write_scenes(Path(config.demo))
        if config.trainer.precision is None and config.trainer.accelerator in (
            'auto',
            'gpu',
            'cuda',
        ):
            bf16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
            config.trainer.precision = 'bf16-mixed' if bf16 else '32-true'


def _write_scenes(root: Path, *, seed: int = 0, places: int = 3) -> None:
    """Simulate scenes and say so."""
    from .simulate import simulate_scenes

    print(f'No data in {root}: writing simulated scenes there (about half a minute) ...')
    simulate_scenes(root, seed=seed, places=places)
    size = sum(file.stat().st_size for file in root.rglob('*') if file.is_file())
    print(f'Wrote {size / 1e6:.0f} MB of simulated scenes to {root}')


def simulate(args: Sequence[str]) -> None:
    """Write simulated scenes.

    Args:
        args: Of the command line.
    """
    parser = argparse.ArgumentParser('torchgeo-anysensor simulate', description=simulate.__doc__)
    parser.add_argument('dir', type=Path, help='folder to write; must not exist or be empty')
    parser.add_argument('--seed', type=int, default=0, help='same seed, same bytes')
    parser.add_argument('--places', type=int, default=3, help='number of places of 6 km x 6 km')
    options = parser.parse_args(args)
    try:
        _write_scenes(options.dir, seed=options.seed, places=options.places)
    except ValueError as error:
        parser.error(str(error))


def sensors(args: Sequence[str]) -> None:
    """Print the sensors that are known, or the bands of one.

    Args:
        args: Of the command line.
    """
    from .sensors.table import bands_table, sensors_table

    parser = argparse.ArgumentParser('torchgeo-anysensor sensors', description=sensors.__doc__)
    parser.add_argument('name', nargs='?', help='print the bands of this sensor')
    options = parser.parse_args(args)
    try:
        print(bands_table(options.name) if options.name else sensors_table())
    except ValueError as error:
        parser.error(str(error))


COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {'sensors': sensors, 'simulate': simulate}


def lightning_cli(args: Sequence[str] | None = None, *, run: bool = True) -> AnySensorCLI:
    """Make the objects that a config names, and run the command.

    Args:
        args: Of the command line, the command first if it is to run; by default the process's.
        run: Run the command; otherwise ``model``, ``datamodule`` and ``trainer`` of what is
            returned are yours to use.

    Returns:
        The interface with the objects.
    """
    # Allows classes to be referenced by their name alone; heavy, so not for the small commands
    from torchgeo.datamodules import BaseDataModule
    from torchgeo.tasks import BaseTask

    import torchgeo_anysensor.datamodules
    import torchgeo_anysensor.losses
    import torchgeo_anysensor.tasks
    import torchgeo_anysensor.transforms  # noqa: F401

    for key, value in _GDAL_DEFAULTS.items():
        os.environ.setdefault(key, value)
    return AnySensorCLI(
        model_class=BaseTask,
        datamodule_class=BaseDataModule,
        seed_everything_default=0,
        subclass_mode_model=True,
        subclass_mode_data=True,
        save_config_kwargs={'overwrite': True},
        parser_kwargs={'version': __version__, 'epilog': _COMMANDS_HELP},
        args=None if args is None else list(args),
        run=run,
    )


def main(args: Sequence[str] | None = None) -> None:
    """Run a command.

    Args:
        args: Of the command line; by default those of the process.
    """
    words = sys.argv[1:] if args is None else list(args)
    if words and words[0] in COMMANDS:
        COMMANDS[words[0]](words[1:])
        return
    lightning_cli(None if args is None else words)


if __name__ == '__main__':
    main()
