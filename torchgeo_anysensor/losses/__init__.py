# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Training objectives."""

from .contrastive import CrossSensorInfoNCE, Retrieval, retrieval_accuracy

__all__ = ['CrossSensorInfoNCE', 'Retrieval', 'retrieval_accuracy']
