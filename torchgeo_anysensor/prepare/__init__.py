# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Data written anew, so that they are read faster."""

from .chip import write_chips
from .retile import retile

__all__ = ('retile', 'write_chips')
