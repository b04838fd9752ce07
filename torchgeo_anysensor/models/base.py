# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""The contracts of the models: views of a patch in, features of ground tokens or a map out."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..types import BAND_FACTS, SensorSample
from .hub import HubEncoder

#: Centre wavelengths that an optical band can have, in micrometres.
WAVELENGTH_RANGE_UM = (0.3, 15.0)
_TINY = 1e-12
_CHECKPOINTING = 'set_grad_checkpointing'  # timm calls this switch so too


class Features(NamedTuple):
    """What an encoder says of a batch of patches."""

    tokens: Tensor  #: ``(B, N, D)``, row by row from the north-west corner
    pooled: Tensor  #: ``(B, D)``
    grid: tuple[int, int]  #: rows and columns of the tokens; their product is ``N``
    valid: Tensor  #: ``(B, N)`` bool: the token has seen at least one valid pixel
    detail: Tensor | None = None  #: ``(B, E, h, w)``, if it was asked for


class SensorEncoder(nn.Module, HubEncoder, ABC):
    """An encoder of any sensor.

    ``save_pretrained`` writes it to a folder, and ``from_pretrained`` of this class reads any
    encoder back, from a folder or, if that is asked for by name, from the Hugging Face Hub.

    Attributes:
        embed_dim: Length ``D`` of the features.
        init_args: Plain values, encoders and classes of band codes that rebuild it from a file.
        detail_dim: Features ``E`` of :meth:`detail`; 0 if the encoder has none.
        detail_holds_tokens: The detail says, too, what sensors agree about in the tokens: a linear
            probe reads the one or the other.
        batch_chunk: Samples whose activations :func:`encode` holds at a time in training; all if None.
    """

    embed_dim: int
    init_args: dict[str, Any]
    detail_dim: int = 0
    detail_holds_tokens: bool = False
    batch_chunk: int | None = None

    @property
    def token_own(self) -> Tensor | None:
        """Variance ``(D,)`` of each feature of a token between sensors at one place, if known."""
        return None

    @property
    def detail_own(self) -> Tensor | None:
        """Variance ``(E,)`` of each feature of the detail between sensors at one place, if known."""
        return None

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

    def detail(self, views: Sequence[SensorSample], *, detail_m: float) -> Tensor:
        """Encode what is finer than a token, for decoders that ask for it.

        Args:
            views: As for :meth:`forward`.
            detail_m: Width of a cell in metres.

        Returns:
            ``(B, E, h, w)`` on the ground of the patch.

        Raises:
            ValueError: If the encoder has none, or the patch is not a whole number of cells.
        """
        raise ValueError(
            f'{type(self).__name__} has nothing finer than its tokens; leave detail_m out, or use an '
            'AnySensorViT with a detail_dim'
        )

    def detail_parts(self) -> list[nn.Module]:
        """List the parts of the network that :meth:`detail` alone uses."""
        return []

    def with_detail(
        self, views: Sequence[SensorSample], *, token_m: float | None = None, detail_m: float
    ) -> Features:
        """Encode, and what is finer than a token too.

        Args:
            views: As for :meth:`forward`.
            token_m: As for :meth:`forward`.
            detail_m: As for :meth:`detail`.

        Returns:
            The features, with :attr:`Features.detail`.

        Raises:
            ValueError: As :meth:`detail`.
        """
        features: Features = self(views, token_m=token_m)
        return features._replace(detail=self.detail(views, detail_m=detail_m))

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep of each transformer block its input alone, and compute the rest again on the way back.

        Features and gradients stay what they are (Chen et al. 2016, arXiv 1604.06174).

        Args:
            enable: Whether to.

        Raises:
            ValueError: If no part of the encoder can.
        """
        parts = [m for m in self.modules() if m is not self and hasattr(m, _CHECKPOINTING)]
        if not parts:
            raise ValueError(
                f'{type(self).__name__} has no blocks to compute again; set its batch_chunk, which works '
                'with any encoder'
            )
        for part in parts:
            getattr(part, _CHECKPOINTING)(enable)


def encode(
    encoder: SensorEncoder,
    views: SensorSample | Sequence[SensorSample],
    *,
    token_m: float | None = None,
    detail_m: float | None = None,
) -> Features:
    """Encode one view, or several views of the same patches together.

    With :attr:`SensorEncoder.batch_chunk`, features alone are kept of each chunk of samples, which
    is encoded again on the way back, with the same random draws, for the gradient of the whole batch
    and the memory of a chunk (gradient caching, Gao et al. 2021, arXiv 2101.06983).

    Args:
        encoder: Any encoder that keeps the contract.
        views: One batched view, or several (several grids, several sensors).
        token_m: Width of a ground token in metres, if not the encoder's own.
        detail_m: Width in metres of the cells of :meth:`SensorEncoder.detail`, if it is wanted.

    Returns:
        Tokens ``(B, N, D)``, pooled features ``(B, D)`` and the token grid.

    Raises:
        ValueError: If there is no view, a view is not batched, shapes disagree, the views differ in
            their ground, wavelengths are not in micrometres, or *detail_m* is given to an encoder
            that has nothing finer than its tokens.
    """
    batch = [views] if isinstance(views, Mapping) else list(views)
    _check_views(batch)
    chunk, samples = encoder.batch_chunk, batch[0]['image'].shape[0]
    if chunk is None or samples <= chunk:
        return _encode(encoder, batch, token_m, detail_m)
    chunks = [
        [_rows(view, slice(start, start + chunk)) for view in batch]
        for start in range(0, samples, chunk)
    ]
    parts = [
        checkpoint(_encode, encoder, few, token_m, detail_m, use_reentrant=False)
        if torch.is_grad_enabled()
        else _encode(encoder, few, token_m, detail_m)
        for few in chunks
    ]
    tokens, pooled, grids, valid, detail = zip(*parts)
    return Features(
        torch.cat(tokens),
        torch.cat(pooled),
        grids[0],
        torch.cat(valid),
        None if detail_m is None else torch.cat(detail),
    )


def _encode(
    encoder: SensorEncoder,
    views: Sequence[SensorSample],
    token_m: float | None,
    detail_m: float | None,
) -> Features:
    """Encode views that were checked."""
    if detail_m is None:
        return cast(Features, encoder(views, token_m=token_m))
    return encoder.with_detail(views, token_m=token_m, detail_m=detail_m)


def _rows(view: SensorSample, rows: slice) -> SensorSample:
    """Some samples of a view."""
    shared = {'res'} | {fact for fact in BAND_FACTS if cast(Mapping, view)[fact].ndim == 1}
    chosen = {key: x if key in shared else x[rows] for key, x in cast(Mapping, view).items()}
    return cast(SensorSample, chosen)


class Decision(NamedTuple):
    """What one part of a segmenter says, and where it may be asked."""

    logits: Tensor  #: ``(B, K, H, W)``
    seen: Tensor  #: ``(B, H, W)`` bool: the part has seen something of the pixel


class Segmenter(nn.Module, ABC):
    """A whole model from the views of some sensors to a map of classes.

    The map is the mean of the probabilities of its decisions, of which most segmenters make one.
    Each counts where it has seen something of the pixel, and all do where none has; each is
    trained by itself.

    Attributes:
        num_classes: Number ``K`` of classes.
        init_args: Plain values that rebuild the segmenter, so that a checkpoint can name it.
        weights: What decisions count in the mean, by name; 1 if not said.
    """

    num_classes: int
    init_args: dict[str, Any]

    def __init__(self) -> None:
        """Make a segmenter whose decisions count alike."""
        super().__init__()
        self.weights: dict[str, float] = {}

    @abstractmethod
    def decide(
        self, sensors: Mapping[str, Sequence[SensorSample]], size: tuple[int, int]
    ) -> dict[str, Decision]:
        """Classify the pixels of a map.

        Args:
            sensors: Batched views by sensor, one for each grid. All have a row for each sample of
                the batch, and cover the same ground but for their ``dx`` and ``dy``. Where a sensor
                did not see a sample, no pixel of its row is valid; a sensor that saw none of the
                batch is not there.
            size: Rows and columns of the map.

        Returns:
            The decisions, by the sensor or what else they are made from; at least one.
        """

    def forward(
        self, sensors: Mapping[str, Sequence[SensorSample]], size: tuple[int, int]
    ) -> Tensor:
        """Give logits ``(B, K, H, W)`` of a map; arguments as for :meth:`decide`."""
        decided = self.decide(sensors, size)
        if len(decided) == 1:
            return next(iter(decided.values())).logits
        probabilities = torch.stack([d.logits.float().softmax(dim=1) for d in decided.values()])
        seen = torch.stack([d.seen for d in decided.values()])[:, :, None]  # (S, B, 1, H, W)
        weights = probabilities.new_tensor([self.weights.get(name, 1.0) for name in decided])
        weight = weights[:, None, None, None, None] * (seen | ~seen.any(dim=0))
        mean = (weight * probabilities).sum(dim=0) / weight.sum(dim=0)
        return mean.clamp(min=_TINY).log()


def segment(
    segmenter: Segmenter, sensors: Mapping[str, Sequence[SensorSample]], size: tuple[int, int]
) -> Tensor:
    """Classify the pixels of a map, from views that are checked first.

    Args:
        segmenter: Any segmenter that keeps the contract.
        sensors: Batched views by sensor; see :meth:`Segmenter.decide`.
        size: Rows and columns of the map.

    Returns:
        Logits ``(B, K, H, W)``.

    Raises:
        ValueError: As for :func:`encode`.
    """
    _check_views(view for views in sensors.values() for view in views)
    return cast(Tensor, segmenter(sensors, size))


class Raster(NamedTuple):
    """All bands of one sensor on one grid."""

    image: Tensor  #: ``(B, C, H, W)`` float32 in the units of the bands, 0 where not seen
    seen: Tensor  #: ``(B, C, H, W)`` share of the pixel's ground that is valid
    wavelength: Tensor  #: ``(B, C)`` um


def to_grid(views: Sequence[SensorSample], size: tuple[int, int]) -> Raster:
    """Bring the views of one sensor to the pixels of one grid.

    Pixels finer than the grid's are averaged by area, coarser ones are interpolated linearly
    between their centres, at the place that ``dx`` and ``dy`` say. Only valid pixels take part. Up
    to one pixel beyond its edge a view is continued.

    Args:
        views: Batched views of one sensor.
        size: Rows and columns of the grid, which covers the patch.

    Returns:
        The bands, in the order of the views.
    """
    images, shares, wavelengths = [], [], []
    for view in views:
        valid = view['valid'][:, None]  # (B, 1, h, w)
        res, (height, width) = float(view['res']), valid.shape[-2:]
        rows = _axis_weights(height, size[0], res=res, shift=-view['dy'])  # rows go south
        cols = _axis_weights(width, size[1], res=res, shift=view['dx'])
        with torch.autocast(valid.device.type, enabled=False):
            pixels = torch.where(valid, view['image'].float(), 0.0)
            total, part = (
                torch.einsum('bhi,bcij,bwj->bchw', rows, x, cols) for x in (pixels, valid.float())
            )
        images.append(total / part.clamp(min=_TINY))
        ground = rows.sum(dim=-1)[:, None, :, None] * cols.sum(dim=-1)[:, None, None]
        shares.append((part / ground.clamp(min=_TINY)).expand_as(images[-1]))
        wavelengths.append(view['wavelength'].expand(images[-1].shape[:2]))
    return Raster(*(torch.cat(parts, dim=1) for parts in (images, shares, wavelengths)))


def _axis_weights(n_in: int, n_out: int, *, res: float, shift: Tensor) -> Tensor:
    """What each pixel along an axis counts in each cell of the grid.

    Args:
        n_in: Number of pixels.
        n_out: Number of cells on the same length of ground.
        res: Pixel size in metres.
        shift: ``(B,)`` metres by which the pixels lie further along the axis than the cells.

    Returns:
        ``(B, n_out, n_in)``.
    """
    cell = n_in * res / n_out
    cells = cell * torch.arange(n_out, device=shift.device)[:, None]  # near edges, in metres
    pixels = res * torch.arange(n_in, device=shift.device) + shift.float()[:, None, None]
    if cell < res:
        weights = 1 - (cells + cell / 2 - pixels - res / 2).abs() / res
    else:
        weights = ((cells + cell).minimum(pixels + res) - cells.maximum(pixels)) / res
    return weights * (weights > 1e-4)  # what is less is rounding


def _check_views(views: Iterable[SensorSample]) -> None:
    """Raise if views cannot be looked at together.

    Raises:
        ValueError: If there is none, a shape or a unit is wrong, or they differ in their ground.
    """
    batch = list(views)
    if not batch:
        raise ValueError('a model needs at least one view, got none')
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
