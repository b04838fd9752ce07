# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""What is trained: Lightning modules."""

from .contrastive import CrossSensorContrastive
from .segmentation import SegmentationProbe

__all__ = ('CrossSensorContrastive', 'SegmentationProbe')
