# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""The ordinary encoder: a network of timm on a fixed list of bands.

Letters as in :mod:`torchgeo_anysensor.types`, and ``K`` the fixed bands.
"""

from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models.resnet import ResNet
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from .base import Raster
from .one_grid import GridInputs, OneGridEncoder
from .weights import load_weights, read_weights, weights_name


class TimmEncoder(OneGridEncoder):
    """A vision transformer or ResNet of timm, on bands that are chosen once and for all.

    Each of its bands is the mean of the bands of the views whose centre is near enough, weighted
    by what they saw of a pixel. It is told nothing about them. A sensor that lacks one of the
    bands is an error.
    """

    def __init__(
        self,
        wavelength: Sequence[float],
        *,
        model: str = 'vit_small_patch16_224',
        token_m: float = 160.0,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        tolerance: float = 0.03,
        weights: Enum | str | Path | None = None,
    ) -> None:
        """Make the encoder.

        Args:
            wavelength: ``K`` centre wavelengths in um.
            model: Name of a vision transformer or ResNet in timm.
            token_m: Width of a token in metres, unless the call says another. A token is as many
                pixels wide as a patch of the transformer, or 32 in a ResNet.
            mean: ``K`` values that the network is used to, in the units of the bands; with ``std``.
                By default reflectance and kelvin are standardised as for
                :class:`~torchgeo_anysensor.models.AnySensorViT`.
            std: ``K`` deviations to divide by.
            tolerance: How far the centre of a band may lie from ``wavelength``, as a share of it.
            weights: Random if None; else a member of TorchGeo's weights, or its name, whose file
                is in the cache of torch hub; or the path of a file with the same names.

        Raises:
            FileNotFoundError: If the weights are not on this machine.
            ValueError: If there is no band, the network is of another kind, ``mean`` and ``std`` do
                not have a value for each band, or the weights are of another model.
        """
        network, patch_size = _network(model, len(wavelength))
        super().__init__(network.num_features, patch_size=patch_size, token_m=token_m)
        if (mean is None) != (std is None) or not len(wavelength) == len(mean or wavelength) == len(
            std or wavelength
        ):
            raise ValueError(
                f'give mean and std for each of the {len(wavelength)} bands or neither, '
                f'got {mean=}, {std=}'
            )
        self.init_args = {
            'wavelength': list(wavelength),
            'model': model,
            'token_m': token_m,
            'mean': None if mean is None else list(mean),
            'std': None if std is None else list(std),
            'tolerance': tolerance,
            'weights': (name := weights_name(weights)),
        }
        self.wavelength = tuple(wavelength)
        self.mean, self.std = mean, std
        self.tolerance = tolerance
        self.model = network
        if name is not None:
            unused = ('fc.', 'head.')
            load_weights(self.model, read_weights(name), source=name, unused=unused)

    def bands(self, raster: Raster) -> Raster:
        """Choose the fixed bands.

        Args:
            raster: All bands of the views.

        Returns:
            The ``K`` bands, in the order of ``wavelength``.

        Raises:
            ValueError: If none of the bands is near enough to one of ``wavelength``.
        """
        wanted = raster.wavelength.new_tensor(self.wavelength)
        off = (raster.wavelength[:, None] - wanted[:, None]).abs() / wanted[:, None]
        near = off <= self.tolerance  # (B, K, C)
        missing = ~near.any(dim=-1).all(dim=0)
        if bool(missing.any()):
            there = sorted({round(w, 4) for w in raster.wavelength.flatten().tolist()})
            raise ValueError(
                f'this encoder has fixed bands and the views lack those at '
                f'{[w for w, no in zip(self.wavelength, missing.tolist()) if no]} um: they have '
                f'{there} um'
            )
        with torch.autocast(wanted.device.type, enabled=False):
            seen, total = (
                torch.einsum('bkc,bchw->bkhw', near.float(), x)
                for x in (raster.seen, raster.seen * raster.image)
            )
        image = total / torch.where(seen > 0, seen, 1.0)
        return Raster(image, seen, wanted.expand(len(image), -1))

    def scale(self, image: Tensor, wavelength: Tensor) -> Tensor:
        """Bring units to what the network is used to; see :meth:`OneGridEncoder.scale`."""
        if self.mean is None or self.std is None:
            return super().scale(image, wavelength)
        mean, std = (image.new_tensor(x)[:, None, None] for x in (self.mean, self.std))
        return (image - mean) / std

    def embed(self, inputs: GridInputs) -> tuple[Tensor, Tensor]:
        """Embed the fixed bands; see :meth:`OneGridEncoder.embed`."""
        features = self.model.forward_features(inputs.image)
        pooled = self.model.forward_head(features, pre_logits=True)
        if isinstance(self.model, VisionTransformer):
            return features[:, self.model.num_prefix_tokens :], pooled
        return features.flatten(2).transpose(1, 2), pooled  # (B, D, h, w) -> (B, N, D)


def _network(name: str, bands: int) -> tuple[VisionTransformer | ResNet, int]:
    """A network with random weights, and the side of a token in pixels.

    Raises:
        ValueError: If there is no band, or the network is of another kind.
    """
    if not bands:
        raise ValueError('wavelength must name at least one band in um')
    network: Any
    if timm.models.is_model_in_modules(name, ['vision_transformer']):
        network = timm.create_model(name, in_chans=bands, num_classes=0, dynamic_img_size=True)
        return network, network.patch_embed.patch_size[0]
    if timm.models.is_model_in_modules(name, ['resnet']):
        # Residual branches that start at 0 would make a shallow network of one that stays random
        network = timm.create_model(name, in_chans=bands, num_classes=0, zero_init_last=False)
        return network, network.feature_info[-1]['reduction']
    raise ValueError(f'{name} is no vision transformer or ResNet of timm')
