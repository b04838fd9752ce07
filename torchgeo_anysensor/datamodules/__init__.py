# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Data modules for Lightning."""

from .chips import ChipLoader, ChippedDataModule, chip_loader
from .multisensor import MultiSensorDataModule

__all__ = ('ChipLoader', 'ChippedDataModule', 'MultiSensorDataModule', 'chip_loader')
