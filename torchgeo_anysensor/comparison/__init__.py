# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Which way to combine sensors is better, measured on the same ground, labels and budget."""

from .evaluate import evaluate
from .learning import Method
from .methods import Probe, Regression, Trained
from .protocols import (
    Condition,
    FewLabels,
    LeaveOut,
    Mistold,
    OtherPlace,
    OtherResolution,
    OtherSeason,
    Protocol,
    SensorMatrix,
    SensorsRemoved,
)
from .scores import Difference, difference
from .training import Budget
from .translation import Translation

__all__ = [
    'Budget',
    'Condition',
    'Difference',
    'FewLabels',
    'LeaveOut',
    'Method',
    'Mistold',
    'OtherPlace',
    'OtherResolution',
    'OtherSeason',
    'Probe',
    'Protocol',
    'Regression',
    'SensorMatrix',
    'SensorsRemoved',
    'Trained',
    'Translation',
    'difference',
    'evaluate',
]
