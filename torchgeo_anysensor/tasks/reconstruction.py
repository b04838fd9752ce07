# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Pretraining: all is predicted from what is left of it."""

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..losses import reconstruction_loss
from ..models import BandRenderer, Features, SensorEncoder, encode
from ..models.ground import cut_view
from ..models.spectral import unit_range
from ..types import MultiSensorSample, SensorSample, take_bands
from .base import EncoderPretraining
from .schedule import Schedule


class MaskedBandReconstruction(nn.Module):
    """Hide bands and ground, and predict all pixels from the tokens of what is left.

    What only one sensor sees has no other sensor to agree with; to predict it, the tokens must keep
    it. The pixels that were not hidden are predicted too, other than by masked autoencoders, so that
    tokens must keep what they were given. Any band is rendered on any grid
    by :class:`~..models.BandRenderer`.
    """

    def __init__(
        self, embed_dim: int, *, bands: float = 0.3, ground: float = 0.25, square_m: float = 120.0
    ) -> None:
        """Make the objective.

        Args:
            embed_dim: Length of a token.
            bands: Share of the bands of each sensor that is hidden, drawn for each batch; one always
                stays.
            ground: Share of the ground of each patch that is hidden, in squares.
            square_m: Width of such a square in metres.

        Raises:
            ValueError: If a share is not from 0 to below 1, or a square has no width.
        """
        super().__init__()
        if not (0 <= bands < 1 and 0 <= ground < 1):
            raise ValueError(f'shares must be at least 0 and below 1, got {bands=}, {ground=}')
        if not square_m > 0:
            raise ValueError(f'square_m must be positive metres, got {square_m}')
        self.bands = bands
        self.ground = ground
        self.square_m = square_m
        self.renderer = BandRenderer(embed_dim)

    def hide(self, views: Sequence[SensorSample]) -> tuple[SensorSample, ...]:
        """Hide a part of one sensor: the same ground in all of its views.

        Args:
            views: Batched views of one sensor.

        Returns:
            The views without the hidden bands, and not valid on the hidden ground.
        """
        counts = [view['image'].shape[1] for view in views]
        keep = torch.rand(sum(counts)) >= self.bands
        keep[torch.randint(len(keep), ())] = True
        kept = torch.split(keep.to(views[0]['image'].device), counts)
        batch, _, height, width = views[0]['image'].shape
        res = float(views[0]['res'])
        squares = [max(1, round(n * res / self.square_m)) for n in (height, width)]
        draw = torch.rand(batch, 1, *squares, device=kept[0].device)
        ground = (draw >= self.ground).float()
        return tuple(
            _visible(view, bands, ground) for view, bands in zip(views, kept) if bands.any()
        )

    def loss(self, features: Features, views: Sequence[SensorSample]) -> Tensor:
        """Predict the pixels of one sensor.

        Args:
            features: Of what :meth:`hide` left of the views.
            views: Whole, as they were given to :meth:`hide`.

        Returns:
            ``()``, the mean over the views.
        """
        rows, _ = features.grid
        losses = []
        for view in views:
            token_m = view['image'].shape[-2] * float(view['res']) / rows
            centre, spread = unit_range(view['wavelength'])
            cells = cut_view(view, token_m=token_m, centre=centre, spread=spread)
            target = cells.valid[:, :, None].expand(cells.pixels.shape)
            predicted = self.renderer(
                features.tokens,
                view['wavelength'],
                view['bandwidth'],
                view['gsd'],
                pixels=target.shape[-1],
            )
            losses.append(reconstruction_loss(predicted, cells.pixels, target))
        return torch.stack(losses).mean()


def _visible(view: SensorSample, bands: Tensor, ground: Tensor) -> SensorSample:
    """A view with some of its bands on some of its ground ``(B, 1, rows, cols)``."""
    shown = F.interpolate(ground, view['valid'].shape[-2:], mode='nearest')[:, 0] > 0
    valid = view['valid'] & shown
    taken = take_bands(view, bands)
    image = taken['image'].masked_fill(~valid[:, None], 0.0)
    return cast(SensorSample, {**taken, 'image': image, 'valid': valid})


class MaskedAutoencoding(EncoderPretraining):
    """Pretraining by :class:`MaskedBandReconstruction`, each sensor by itself.

    After masked autoencoders (He et al. 2022, arXiv 2111.06377), with bands hidden as well. Logs
    ``loss`` for train, val and test. With one sensor it works as with many.
    """

    monitor = 'val_loss'
    mode = 'min'

    def __init__(
        self,
        encoder: SensorEncoder,
        *,
        bands: float = 0.3,
        ground: float = 0.5,
        square_m: float = 60.0,
        lr: float = 1e-3,
        weight_decay: float = 0.05,
        schedule: Schedule | None = None,
    ) -> None:
        """Make the task.

        Args:
            encoder: What is trained.
            bands: Share of the bands that is hidden.
            ground: Share of the ground that is hidden.
            square_m: Width of a hidden square of ground in metres.
            lr: Peak learning rate.
            weight_decay: Of AdamW.
            schedule: How the learning rate moves; by default as :class:`.Schedule` does.
        """
        super().__init__()
        self.describe_modules(encoder=encoder, schedule=schedule)
        self.encoder = encoder
        self.leave_detail()
        self.reconstruction = MaskedBandReconstruction(
            encoder.embed_dim, bands=bands, ground=ground, square_m=square_m
        )

    def losses(self, batch: MultiSensorSample) -> dict[str, Tensor]:
        """Predict the pixels of each sensor of a batch.

        Args:
            batch: Of :func:`~..datasets.collate_sensors`.

        Returns:
            ``loss``.
        """
        each = []
        for views in batch['sensors'].values():
            features = encode(self.encoder, self.reconstruction.hide(views))
            each.append(self.reconstruction.loss(features, views))
        return {'loss': torch.stack(each).mean()}
