# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""What is trained: Lightning modules."""

from .contrastive import CrossSensorContrastive
from .reconstruction import MaskedAutoencoding, MaskedBandReconstruction
from .schedule import Schedule
from .segmentation import MapTask, Segmentation, SegmentationProbe
from .translation import SensorTranslation, Translated, Translator

__all__ = (
    'CrossSensorContrastive',
    'MapTask',
    'MaskedAutoencoding',
    'MaskedBandReconstruction',
    'Schedule',
    'Segmentation',
    'SegmentationProbe',
    'SensorTranslation',
    'Translated',
    'Translator',
)
