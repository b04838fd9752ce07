# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Lightning's commands over TorchGeo's tasks and data modules."""

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from torchgeo.datamodules import BaseDataModule
from torchgeo.tasks import BaseTask

# Allows classes to be referenced by their name alone
from . import __version__, callbacks, datamodules, losses, tasks, transforms  # noqa: F401
from .callbacks import Efficiency
from .main import write_scenes

# See https://github.com/pangeo-data/cog-best-practices; 'TRUE' still finds the nodata of sidecar files.
# What the user has set stays.
_GDAL_DEFAULTS = {'GDAL_DISABLE_READDIR_ON_OPEN': 'TRUE', 'VSI_CURL_CACHE_SIZE': '200000000'}

_COMMANDS_HELP = """\
Besides fit, validate, test and predict:
  torchgeo-anysensor sensors [NAME]   the sensors that are known, or the bands of one
  torchgeo-anysensor inspect PATH     what lies at a path, and a picture of it
  torchgeo-anysensor compare --config CONFIG   compare ways to combine sensors
  torchgeo-anysensor export CHECKPOINT FOLDER  write an encoder to share
  torchgeo-anysensor retile PATH OUT  write products again, with blocks that read faster
  torchgeo-anysensor chip --config CONFIG OUT  write patches, to train on with ChippedDataModule
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
        parser.add_lightning_class_args(Efficiency, 'efficiency')

    def before_instantiate_classes(self) -> None:
        """Write the demo scenes if they are wanted and not there; choose the precision."""
        config = self.config[self.subcommand] if self.subcommand else self.config
        if config.demo is not None and not Path(config.demo).exists():
            write_scenes(Path(config.demo))
        if config.trainer.precision is None and config.trainer.accelerator in (
            'auto',
            'gpu',
            'cuda',
        ):
            bf16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
            config.trainer.precision = 'bf16-mixed' if bf16 else '32-true'


def lightning_cli(args: Sequence[str] | None = None, *, run: bool = True) -> AnySensorCLI:
    """Make the objects that a config names, and run the command.

    Args:
        args: Of the command line, the command first if it is to run; by default the process's.
        run: Run the command; otherwise ``model``, ``datamodule`` and ``trainer`` of what is
            returned are yours to use.

    Returns:
        The interface with the objects.
    """
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
