# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Encoders of any sensor, and heads that make maps of their features."""

from .anysensor import AnySensorViT, anysensor_vit_base, anysensor_vit_small, anysensor_vit_tiny
from .base import Features, SensorEncoder, encode
from .heads import LinearHead, SMPDecoderHead

__all__ = [
    'AnySensorViT',
    'Features',
    'LinearHead',
    'SMPDecoderHead',
    'SensorEncoder',
    'anysensor_vit_base',
    'anysensor_vit_small',
    'anysensor_vit_tiny',
    'encode',
]
