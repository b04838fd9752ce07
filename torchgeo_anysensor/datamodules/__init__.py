# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Data modules for Lightning."""

from .multisensor import MultiSensorDataModule

__all__ = ('MultiSensorDataModule',)
