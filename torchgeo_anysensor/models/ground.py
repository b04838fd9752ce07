# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""From the pixels of a view to the pixels of each ground cell.

Letters as in :mod:`torchgeo_anysensor.types`, and ``p`` pixels along the side of a cell.
"""

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from einops import rearrange
from torch import Tensor

from ..types import SensorSample

#: Most copies of a pixel along one axis that make the pixels divide a cell.
MAX_REPEATS = 16


class Cells(NamedTuple):
    """The pixels of a view, sorted by ground cell."""

    pixels: Tensor  #: ``(B, N, C, p, p)``, 0 where not valid
    valid: Tensor  #: ``(B, N, p, p)`` bool
    grid: tuple[int, int]  #: rows and columns of the cells

    @property
    def seen(self) -> Tensor:
        """``(B, N)`` bool: the cell has at least one valid pixel."""
        return self.valid.flatten(-2).any(dim=-1)


def _whole(ratio: float) -> int:
    """Round a ratio that is a whole number but for float32, else give 0."""
    nearest = round(ratio)
    return nearest if abs(ratio - nearest) <= 1e-5 * ratio else 0


def pixels_per_cell(res: float, token_m: float) -> tuple[int, int]:
    """Find how pixels fill a ground cell.

    Args:
        res: Pixel size in metres.
        token_m: Width of a cell in metres.

    Returns:
        How often to repeat each pixel along an axis (the least that does), and the number of the
        repeated pixels along a cell.

    Raises:
        ValueError: If the sizes are not positive, or have no simple ratio.
    """
    if not (res > 0 and token_m > 0):
        raise ValueError(f'res and token_m must be positive metres, got {res=:g}, {token_m=:g}')
    for repeats in range(1, MAX_REPEATS + 1):
        if p := _whole(repeats * token_m / res):
            return repeats, p
    raise ValueError(
        f'{token_m=:g} m and pixels of {res:g} m have no common part of at least 1/{MAX_REPEATS} '
        f'pixel; choose token_m as a multiple of {res:g} m, or a simple fraction of it'
    )


def cell_grid(shape: tuple[int, int], *, res: float, token_m: float) -> tuple[int, int]:
    """Count the ground cells of a patch.

    Args:
        shape: Rows and columns of pixels.
        res: Pixel size in metres.
        token_m: Width of a cell in metres.

    Returns:
        Rows and columns of cells.

    Raises:
        ValueError: If the patch is not a whole number of cells.
    """
    rows, cols = (_whole(n * res / token_m) for n in shape)
    if not (rows and cols):
        height, width = (n * res for n in shape)
        fit = ' x '.join(f'{max(1, int(n * res / token_m + 1e-5)) * token_m:g}' for n in shape)
        raise ValueError(
            f'the patch of {height:g} x {width:g} m ({shape[0]} x {shape[1]} pixels of {res:g} m) '
            f'is not a whole number of tokens of {token_m=:g} m; cut patches of {fit} m, or pass a '
            'token_m that divides the patch'
        )
    return rows, cols


def place(
    image: Tensor, valid: Tensor, *, res: float, dx: Sequence[float], dy: Sequence[float]
) -> tuple[Tensor, Tensor, float]:
    """Move the pixels of a view to where they lie in the patch.

    Pixels are first repeated so often that the offset is a whole number of parts, if need be
    rounded to 1/16 of a pixel. What comes to lie outside of the patch is lost. Up to one pixel
    beyond its edge the view is continued, so that the nearest window of a grid of its own fills the
    patch; nothing is valid where nothing comes from.

    Args:
        image: ``(B, C, H, W)``.
        valid: ``(B, H, W)`` bool.
        res: Pixel size in metres.
        dx: Metres by which each row of the batch lies east of its patch.
        dy: Metres by which it lies north.

    Returns:
        Image and valid of the parts, and their size in metres; what was given if nothing moves.
    """
    offset = torch.tensor([[-north for north in dy], dx], dtype=torch.float64) / res  # pixels
    parts = range(1, MAX_REPEATS + 1)
    if bool((offset.abs() < 1e-3).all()):
        return image, valid, res
    whole = (k for k in parts if bool(((k * offset).round() - k * offset).abs().max() < 1e-3))
    k = next(whole, MAX_REPEATS)
    image, valid = repeat(image, k), repeat(valid, k)
    source, inside = [], []
    for moved, size in zip((k * offset).round().long().to(valid.device), valid.shape[-2:]):
        index = torch.arange(size, device=valid.device) - moved[:, None]  # (B, H) or (B, W)
        inside.append((index >= -k) & (index < size + k))
        source.append(index.clamp(0, size - 1))
    row = torch.arange(len(image), device=valid.device)[:, None, None]
    rows, cols = source[0][:, :, None], source[1][:, None]
    seen = valid[row, rows, cols] & inside[0][:, :, None] & inside[1][:, None]
    return image.movedim(1, -1)[row, rows, cols].movedim(-1, 1), seen, res / k


def repeat(x: Tensor, times: int) -> Tensor:
    """Repeat pixels ``(..., H, W)`` along both axes."""
    return x.repeat_interleave(times, dim=-2).repeat_interleave(times, dim=-1) if times > 1 else x


def cut(
    image: Tensor,
    valid: Tensor,
    *,
    res: float,
    token_m: float,
    centre: Tensor | None = None,
    spread: Tensor | None = None,
    whole: bool = False,
) -> Cells:
    """Cut a view into ground cells.

    Nothing stays of the values of pixels that are not valid. Pixels that do not divide a cell are
    first repeated until they do. Area integration
    (:class:`~torchgeo_anysensor.models.spectral.SpatialBasis`) does not notice.

    Args:
        image: ``(B, C, H, W)``.
        valid: ``(B, H, W)`` bool.
        res: Pixel size in metres.
        token_m: Width of a cell in metres.
        centre: What to subtract from each band, ``(C, 1, 1)`` or ``(B, C, 1, 1)``.
        spread: What to divide each band by then, likewise.
        whole: All pixels are known to be valid.

    Returns:
        The cells, row by row from the north-west corner.

    Raises:
        ValueError: If the patch is not a whole number of cells, or pixels and cells have no simple
            ratio.
    """
    grid = cell_grid((image.shape[-2], image.shape[-1]), res=res, token_m=token_m)
    repeats, p = pixels_per_cell(res, token_m)
    image, valid = repeat(image, repeats), repeat(valid, repeats)
    valid = rearrange(valid, 'b (h p) (w q) -> b (h w) p q', p=p, q=p)
    # One copy, sorted by cell, and from then on in place: pixels are most of the memory
    pixels = torch.empty(
        (*valid.shape[:2], image.shape[1], p, p), dtype=image.dtype, device=image.device
    )
    by_cell = rearrange(image, 'b c (h p) (w q) -> b h w c p q', p=p, q=p)
    if centre is None:
        pixels.view(by_cell.shape).copy_(by_cell)
    else:
        torch.sub(by_cell, _insert(centre, 2), out=pixels.view(by_cell.shape))
    if spread is not None:
        pixels = pixels.div_(_insert(spread, 1))
    if not whole:
        pixels = pixels.masked_fill_(~valid.unsqueeze(2), 0.0)
    return Cells(pixels, valid, grid)


def _insert(x: Tensor, axes: int) -> Tensor:
    """Insert axes of 1 before the last three."""
    return x.reshape(*x.shape[:-3], *(1,) * axes, *x.shape[-3:])


def cut_view(
    view: SensorSample,
    *,
    token_m: float,
    centre: Tensor | None = None,
    spread: Tensor | None = None,
) -> Cells:
    """Cut a view into ground cells, its pixels where the view says that they lie.

    Args:
        view: One batched view.
        token_m: Width of a cell in metres.
        centre: See :func:`cut`.
        spread: See :func:`cut`.

    Returns:
        The cells; see :func:`place` and :func:`cut`.

    Raises:
        ValueError: As for :func:`cut`.
    """
    image, batch = view['image'], len(view['image'])
    # One look at the numbers of a device: each would wait for all that it has to do
    numbers = view['res'].reshape(1), view['valid'].all().reshape(1), view['dx'], view['dy']
    res, whole, *offsets = torch.cat(numbers).tolist()
    dx, dy = offsets[:batch], offsets[batch:]
    image, valid, res = place(image, view['valid'], res=res, dx=dx, dy=dy)
    whole = bool(whole) and valid is view['valid']  # what moves may leave a hole behind
    return cut(image, valid, res=res, token_m=token_m, centre=centre, spread=spread, whole=whole)


def cut_valid(view: SensorSample, *, token_m: float) -> Cells:
    """Cut a view of which only ``valid`` is wanted: one of its bands is moved, not all."""
    one = cast(SensorSample, {**view, 'image': view['image'][:, :1]})
    return cut_view(one, token_m=token_m)
