# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Training objectives."""

from .contrastive import CrossSensorInfoNCE, Retrieval, retrieval_accuracy
from .reconstruction import decorrelation_loss, reconstruction_loss

__all__ = [
    'CrossSensorInfoNCE',
    'Retrieval',
    'decorrelation_loss',
    'reconstruction_loss',
    'retrieval_accuracy',
]
