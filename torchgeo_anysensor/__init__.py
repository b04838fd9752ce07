# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Train and use Earth-observation models across optical sensors, on TorchGeo."""

__version__ = '0.1.0.dev0'
