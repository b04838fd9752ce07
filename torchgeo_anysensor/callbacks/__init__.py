# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""What is added to a run of Lightning: what is seen of an encoder, and what spares memory and time."""

from .efficiency import Efficiency
from .knn import KNNProbe
from .measures import (
    alignment,
    effective_rank,
    knn_predict,
    pairwise_retrieval,
    principal_components,
    spread_of_features,
    uniformity,
)
from .pictures import RepresentationPictures
from .representation import RepresentationMonitor

__all__ = [
    'Efficiency',
    'KNNProbe',
    'RepresentationMonitor',
    'RepresentationPictures',
    'alignment',
    'effective_rank',
    'knn_predict',
    'pairwise_retrieval',
    'principal_components',
    'spread_of_features',
    'uniformity',
]
