# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Simulated scenes with known truth, written as the agencies write their products."""

from .campaign import simulate_scenes
from .classes import LAND_COVER, LandCover

__all__ = ('LAND_COVER', 'LandCover', 'simulate_scenes')
