# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""What is trained: Lightning modules."""

from .base import EncoderPretraining
from .contrastive import CrossSensorContrastive
from .probabilistic import Latents, ProbabilisticContrastive
from .reconstruction import MaskedAutoencoding, MaskedBandReconstruction
from .schedule import Schedule
from .segmentation import MapTask, Segmentation, SegmentationProbe
from .translation import SensorTranslation, Translated, Translator

__all__ = (
    'CrossSensorContrastive',
    'EncoderPretraining',
    'Latents',
    'MapTask',
    'MaskedAutoencoding',
    'MaskedBandReconstruction',
    'ProbabilisticContrastive',
    'Schedule',
    'Segmentation',
    'SegmentationProbe',
    'SensorTranslation',
    'Translated',
    'Translator',
)
