# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Augmentation of multi-sensor batches, on the device."""

from .clouds import RandomClouds
from .spatial import RandomFlipRotate
from .spectral import RandomBandDrop
from .virtual import VirtualSensors

__all__ = ('RandomBandDrop', 'RandomClouds', 'RandomFlipRotate', 'VirtualSensors')
