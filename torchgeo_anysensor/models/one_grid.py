# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Encoders that need all bands on one pixel grid.

Letters as in :mod:`torchgeo_anysensor.types`.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..types import SensorSample
from .base import Features, Raster, SensorEncoder, to_grid
from .ground import cut_valid
from .spectral import standardise

_SECONDS_PER_DAY = 86400.0


class GridInputs(NamedTuple):
    """All bands of some patches on one grid, as a network can take them."""

    image: Tensor  #: ``(B, C, H, W)`` without unit; pixels that were not seen are filled
    seen: Tensor  #: ``(B, C)`` bool: the band has a valid pixel in the patch
    wavelength: Tensor  #: ``(B, C)`` um
    bandwidth: Tensor  #: ``(B, C)`` um
    days: Tensor  #: ``(B,)`` float64 days since 1970, NaN where not known
    place: Tensor  #: ``(B, 2)`` float64 longitude and latitude in degrees, NaN where not known
    valid: Tensor  #: ``(B, N)`` bool: the token has seen a valid pixel
    grid: tuple[int, int]  #: rows and columns of the tokens
    token_m: float  #: width of a token in metres

    def rows(self, rows: Tensor, bands: Tensor) -> 'GridInputs':
        """Some patches ``rows (b,)`` and some of their bands ``bands (C,)`` bool."""
        image, seen, wavelength, bandwidth = (x[rows][:, bands] for x in self[:4])
        days, place, valid = (x[rows] for x in (self.days, self.place, self.valid))
        return GridInputs(
            image, seen, wavelength, bandwidth, days, place, valid, self.grid, self.token_m
        )


class OneGridEncoder(SensorEncoder):
    """An encoder that cuts one pixel grid into square tokens.

    The views, of one or several grids and sensors, are brought to pixels of ``token_m /
    patch_size`` metres, whatever their own: finer ones are averaged by area, coarser ones are
    interpolated (:func:`~torchgeo_anysensor.models.to_grid`). So the tokens are the same squares of
    ground for all views, and pixels of that size go in untouched. Pixels that no view saw are
    filled with the mean of the band in the patch.

    Attributes:
        patch_size: Pixels along the side of a token.
        token_m: Width of a token in metres, unless the call says another.
    """

    patch_size: int
    token_m: float

    def __init__(self, embed_dim: int, *, patch_size: int, token_m: float) -> None:
        """Make the part that wrapped encoders share.

        Args:
            embed_dim: Length of the features.
            patch_size: Pixels along the side of a token.
            token_m: Width of a token in metres.

        Raises:
            ValueError: If a token has no width.
        """
        super().__init__()
        if not token_m > 0:
            raise ValueError(f'token_m must be positive metres, got {token_m}')
        self.embed_dim = embed_dim
        self.patch_size = patch_size
        self.token_m = token_m

    @abstractmethod
    def embed(self, inputs: GridInputs) -> tuple[Tensor, Tensor]:
        """Give tokens ``(B, N, D)`` and pooled features ``(B, D)`` of one grid."""

    def bands(self, raster: Raster) -> Raster:
        """Choose the bands to look at; by default all."""
        return raster

    def scale(self, image: Tensor, wavelength: Tensor) -> Tensor:
        """Bring the units of the bands to what the network was made for.

        Args:
            image: ``(B, C, H, W)`` reflectance or kelvin.
            wavelength: ``(B, C)`` um.

        Returns:
            ``(B, C, H, W)`` without unit.
        """
        return standardise(image, wavelength)

    def forward(self, views: Sequence[SensorSample], *, token_m: float | None = None) -> Features:
        """Encode views of the same patches; see :meth:`SensorEncoder.forward`.

        Raises:
            ValueError: If the patch is not a whole number of tokens, or the views differ in it.
        """
        token_m = self.token_m if token_m is None else token_m
        grid, valid = _tokens_seen(views, token_m=token_m)
        raster = self.bands(to_grid(views, (grid[0] * self.patch_size, grid[1] * self.patch_size)))
        widths = [view['bandwidth'].expand(view['image'].shape[:2]) for view in views]
        inputs = GridInputs(
            _filled(self.scale(raster.image, raster.wavelength), raster.seen > 0),
            (raster.seen > 0).flatten(-2).any(dim=-1),
            raster.wavelength,
            torch.cat(widths, dim=1),
            _days(views),
            _place(views),
            valid,
            grid,
            token_m,
        )
        return Features(*self.embed(inputs), grid, valid)


class OneListEncoder(OneGridEncoder):
    """An encoder whose network takes one list of bands for a whole batch.

    Rows of a batch that differ in the facts of their bands, or in the bands that were seen at all,
    go through the network one kind after the other. A band that was not seen is left out.
    """

    @abstractmethod
    def embed_alike(self, inputs: GridInputs) -> tuple[Tensor, Tensor]:
        """As :meth:`embed`, for patches whose rows of facts are equal."""

    def embed(self, inputs: GridInputs) -> tuple[Tensor, Tensor]:
        """Embed the rows kind by kind; see :meth:`OneGridEncoder.embed`."""
        facts = torch.cat([inputs.wavelength, inputs.bandwidth, inputs.seen.float()], dim=1)
        kinds, kind = torch.unique(facts, dim=0, return_inverse=True)  # (G, 3 C), (B,)
        order, parts = [], []
        for i in range(len(kinds)):
            rows = (kind == i).nonzero()[:, 0]
            seen = inputs.seen[rows[0]]
            parts.append(self.embed_alike(inputs.rows(rows, seen | ~seen.any())))
            order.append(rows)
        back = torch.cat(order).argsort()
        tokens, pooled = (torch.cat(part)[back] for part in zip(*parts))
        return tokens, pooled


def mean_of_valid(tokens: Tensor, valid: Tensor) -> Tensor:
    """Average the tokens that have data, or all where none has.

    Args:
        tokens: ``(B, N, D)``.
        valid: ``(B, N)`` bool.

    Returns:
        ``(B, D)``.
    """
    weight = (valid | ~valid.any(dim=1, keepdim=True)).to(tokens.dtype)[..., None]
    return (tokens * weight).sum(dim=1) / weight.sum(dim=1)


def _tokens_seen(
    views: Sequence[SensorSample], *, token_m: float
) -> tuple[tuple[int, int], Tensor]:
    """Grid of the tokens, and ``(B, N)`` whether any view saw something of them.

    Raises:
        ValueError: If the patch is not a whole number of tokens, or the views differ in it.
    """
    cells = [cut_valid(view, token_m=token_m) for view in views]
    grids = [cell.grid for cell in cells]
    if len(set(grids)) > 1:
        raise ValueError(f'views of one patch must share their ground, got token grids {grids}')
    return grids[0], torch.stack([cell.seen for cell in cells]).any(dim=0)


def _filled(image: Tensor, seen: Tensor) -> Tensor:
    """Fill pixels that were not seen with the mean of the band in its patch, or 0 without any."""
    image = torch.where(seen, image, 0.0)
    count = seen.sum(dim=(-2, -1), keepdim=True).clamp(min=1)
    return torch.where(seen, image, image.sum(dim=(-2, -1), keepdim=True) / count)


def _days(views: Sequence[SensorSample]) -> Tensor:
    """Mean time ``(B,)`` of the acquisitions that saw something, in days since 1970, or NaN."""
    t = torch.stack([view['t'] for view in views])  # (V, B)
    saw = torch.stack([view['valid'].flatten(1).any(dim=1) for view in views])
    return torch.where(saw, t, 0.0).sum(dim=0) / saw.sum(dim=0) / _SECONDS_PER_DAY


def _place(views: Sequence[SensorSample]) -> Tensor:
    """Longitude and latitude ``(B, 2)`` of the patches, or NaN; of the first view that knows."""
    found = torch.full((len(views[0]['t']), 2), torch.nan).double().to(views[0]['t'].device)
    for view in views:
        if 'lon' in view and 'lat' in view:
            told = torch.stack([view['lon'], view['lat']], dim=-1).double()
            found = torch.where(found.isnan().any(dim=-1, keepdim=True), told, found)
    return found
