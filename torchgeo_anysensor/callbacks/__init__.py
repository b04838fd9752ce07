# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""What is added to a run of Lightning."""

from .efficiency import Efficiency

__all__ = ('Efficiency',)
