# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Training objectives."""

from .comparison import AllPairsInfoNCE, AnchorInfoNCE, CrossSensorVICReg, GramVolume, Symile
from .contrastive import CrossSensorInfoNCE, Retrieval, retrieval_accuracy
from .gaussian import Disagreement, disagreement_nll
from .reconstruction import decorrelation_loss, reconstruction_loss
from .scatter import Scatter, scatter

__all__ = [
    'AllPairsInfoNCE',
    'AnchorInfoNCE',
    'CrossSensorInfoNCE',
    'CrossSensorVICReg',
    'Disagreement',
    'GramVolume',
    'Retrieval',
    'Scatter',
    'Symile',
    'decorrelation_loss',
    'disagreement_nll',
    'reconstruction_loss',
    'retrieval_accuracy',
    'scatter',
]
