# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Encoders of any sensor, heads that make maps of their features, and other ways to a map."""

from .anysensor import AnySensorViT, anysensor_vit_base, anysensor_vit_small, anysensor_vit_tiny
from .atomizer import Atomizer, atomizer_small, atomizer_tiny
from .base import Decision, Features, Raster, Segmenter, SensorEncoder, encode, segment, to_grid
from .canonical import CanonicalEncoder, beside_detail
from .codes import BandCode, FourierBandCode, NanometreBandCode, PointBandCode
from .floors import FittedSegmenter, PixelRegression, RandomConvolutions
from .fusion import Attend, Concatenate, DecisionFusion, EarlyFusion, LateFusion, UNet
from .gaussian import Gaussian, GaussianHead, Reliability, fuse, reliability
from .harmonise import Harmonised, UNetScratch
from .heads import LinearHead, SMPDecoderHead
from .moments import CrossSensorMoments, EncoderMoments
from .plain import TimmEncoder
from .pretrained import load_encoder
from .probe import TokenRegression, encode_sensors
from .ramen import RAMEN, ramen_small, ramen_tiny
from .regression import SoftmaxRegression
from .render import BandRenderer
from .wrapped import CopernicusFMEncoder, DOFAEncoder, PanopticonEncoder

__all__ = [
    'RAMEN',
    'AnySensorViT',
    'Atomizer',
    'Attend',
    'BandCode',
    'BandRenderer',
    'CanonicalEncoder',
    'Concatenate',
    'CopernicusFMEncoder',
    'CrossSensorMoments',
    'DOFAEncoder',
    'Decision',
    'DecisionFusion',
    'EarlyFusion',
    'EncoderMoments',
    'Features',
    'FittedSegmenter',
    'FourierBandCode',
    'Gaussian',
    'GaussianHead',
    'Harmonised',
    'LateFusion',
    'LinearHead',
    'NanometreBandCode',
    'PanopticonEncoder',
    'PixelRegression',
    'PointBandCode',
    'RandomConvolutions',
    'Raster',
    'Reliability',
    'SMPDecoderHead',
    'Segmenter',
    'SensorEncoder',
    'SoftmaxRegression',
    'TimmEncoder',
    'TokenRegression',
    'UNet',
    'UNetScratch',
    'anysensor_vit_base',
    'anysensor_vit_small',
    'anysensor_vit_tiny',
    'atomizer_small',
    'atomizer_tiny',
    'beside_detail',
    'encode',
    'encode_sensors',
    'fuse',
    'load_encoder',
    'ramen_small',
    'ramen_tiny',
    'reliability',
    'segment',
    'to_grid',
]
