# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""What can be seen of an encoder while it trains: Lightning callbacks."""

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
