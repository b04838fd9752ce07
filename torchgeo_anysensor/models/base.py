# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""The contract of every encoder: views of a patch in, features of ground tokens out."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

from torch import Tensor, nn

from ..types import SensorSample

#: Centre wavelengths that an optical band can have, in micrometres.
WAVELENGTH_RANGE_UM = (0.3, 15.0)


class Features(NamedTuple):
    """What an encoder says of a batch of patches."""

    tokens: Tensor  #: ``(B, N, D)``, row by row from the north-west corner
    pooled: Tensor  #: ``(B, D)``
    grid: tuple[int, int]  #: rows and columns of the tokens; their product is ``N``
    valid: Tensor  #: ``(B, N)`` bool: the token has seen at least one valid pixel


class SensorEncoder(nn.Module, ABC):
    """An encoder of any sensor.

    Attributes:
        embed_dim: Length ``D`` of the features.
        init_args: Plain values that rebuild the encoder, so that a checkpoint can name it.
    """

    embed_dim: int
    init_args: dict[str, Any]

    @abstractmethod
    def forward(self, views: Sequence[SensorSample], *, token_m: float | None = None) -> Features:
        """Encode views of the same patches.

        Args:
            views: Batched views, one for each grid and sensor: ``image`` ``(B, C, H, W)``,
                ``valid`` ``(B, H, W)``, ``wavelength``, ``bandwidth`` and ``gsd`` ``(C,)`` or
                ``(B, C)``, ``res`` ``()``. All cover the same ground.
            token_m: Width of a ground token in metres, if not the encoder's own.

        Returns:
            The features, on the same ground grid whatever the views.
        """


def encode(
    encoder: SensorEncoder,
    views: SensorSample | Sequence[SensorSample],
    *,
    token_m: float | None = None,
) -> Features:
    """Encode one view, or several views of the same patches together.

    Args:
        encoder: Any encoder that keeps the contract.
        views: One batched view or a sequence of them (several grids, several sensors).
        token_m: Width of a ground token in metres, if not the encoder's own.

    Returns:
        Tokens ``(B, N, D)``, pooled features ``(B, D)`` and the token grid.

    Raises:
        ValueError: If there is no view, a view is not batched, shapes disagree, the views differ in
            their ground, or wavelengths are not in micrometres.
    """
    batch = [views] if isinstance(views, Mapping) else list(views)
    if not batch:
        raise ValueError('encode needs at least one view, got none')
    for view in batch:
        _check_view(view)
    ground = {
        (view['image'].shape[0], *(round(n * float(view['res'])) for n in view['image'].shape[-2:]))
        for view in batch
    }
    if len(ground) > 1:
        raise ValueError(
            'views of one patch must agree in (batch, north-south metres, east-west metres), '
            f'got {sorted(ground)}'
        )
    return cast(Features, encoder(batch, token_m=token_m))


def _check_view(view: SensorSample) -> None:
    """Raise if a view cannot be encoded.

    Raises:
        ValueError: If a shape or a unit is wrong.
    """
    image, valid = view['image'], view['valid']
    if image.ndim != 4:
        raise ValueError(f'image must be (B, C, H, W), got {tuple(image.shape)}; add a batch axis')
    if valid.shape != (image.shape[0], *image.shape[-2:]):
        raise ValueError(
            f'valid must be (B, H, W) like image {tuple(image.shape)}, got {tuple(valid.shape)}'
        )
    if view['res'].ndim:
        raise ValueError(f'res must be one number for the batch, got {tuple(view["res"].shape)}')
    for key in ('wavelength', 'bandwidth', 'gsd'):
        shape = tuple(view[key].shape)
        if shape not in ((image.shape[1],), (image.shape[0], image.shape[1])):
            raise ValueError(f'{key} must be (C,) or (B, C) like image, got {shape}')
    low, high = WAVELENGTH_RANGE_UM
    wavelength = view['wavelength']
    if not bool(((wavelength >= low) & (wavelength <= high)).all()):
        raise ValueError(
            f'wavelength must be within [{low:g}, {high:g}] um, got '
            f'{float(wavelength.min()):g} to {float(wavelength.max()):g}; are they in nm?'
        )
