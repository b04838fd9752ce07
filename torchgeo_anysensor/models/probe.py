# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""What a frozen encoder knows, read by a linear map of its tokens.

Letters as in :mod:`torchgeo_anysensor.types`.
"""

from collections.abc import Mapping, Sequence
from itertools import compress
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from ..types import SensorSample
from .base import SensorEncoder, encode
from .floors import FittedSegmenter
from .heads import as_map, resize


class TokenRegression(FittedSegmenter):
    """Logistic regression on the features of a frozen encoder, fitted to convergence.

    Tokens are interpolated to the pixels of the map, which for a linear map is the same as to
    interpolate its logits. The features keep their sizes against each other: an encoder says by them
    what counts. All views of all sensors are encoded together, unless the encoder knows how far sensors
    disagree about its features. Then each sensor is encoded by itself, and of what they say the mean is
    taken, of those that saw the pixel, in which each counts by its pixels on the ground: a mean of
    independent measurements. The regression is fitted for what another sensor would have seen.
    """

    def __init__(
        self,
        encoder: SensorEncoder,
        num_classes: int,
        *,
        token_m: float | None = None,
        detail_m: float | None = None,
        seed: int = 0,
    ) -> None:
        """Make the model.

        Args:
            encoder: Stays as it is.
            num_classes: Number of classes.
            token_m: Width of a ground token in metres; by default the encoder's own.
            detail_m: Width of a cell of the encoder's detail in metres, if that is to be read too; or
                instead, if it holds what the tokens say.
            seed: Of the draw of pixels.
        """
        fine = detail_m is not None
        #: Which are read: the tokens, the detail.
        self.parts = not (fine and encoder.detail_holds_tokens), fine
        sizes = compress((encoder.embed_dim, encoder.detail_dim), self.parts)
        super().__init__(num_classes, None, num_features=[*sizes], seed=seed)
        self.encoder = encoder.requires_grad_(False).eval()
        self.token_m = token_m
        self.detail_m = detail_m

    def train(self, mode: bool = True) -> 'TokenRegression':
        """Keep the encoder in evaluation mode."""
        super().train(mode)
        self.encoder.eval()
        return self

    def inputs(
        self, sensors: Mapping[str, Sequence[SensorSample]], size: tuple[int, int]
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """Encode; see :meth:`FittedSegmenter.inputs`."""
        together = [view for views in sensors.values() for view in views]
        groups = [together] if self.noise() is None else [*sensors.values()]
        found = [self._look(views, size) for views in groups]
        seen = torch.stack([there for _, there in found])  # (sensors, B, 1, H, W)
        weight = torch.where(seen.any(dim=0), seen, True).float()  # where none did, of all
        res = weight.new_tensor([_resolution(views, size) for views in groups])
        weight = weight * (res.min() / res).square().view(-1, 1, 1, 1, 1)
        mean = sum(x * w for (x, _), w in zip(found, weight)) / weight.sum(dim=0)
        return {'all': (cast(Tensor, mean), seen.any(dim=0)[:, 0])}

    @torch.no_grad()
    def _look(self, views: Sequence[SensorSample], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Features ``(B, F, H, W)`` of views, and where they saw something ``(B, 1, H, W)``."""
        features = encode(self.encoder, views, token_m=self.token_m, detail_m=self.detail_m)
        maps = compress((as_map(features), features.detail), self.parts)
        x = torch.cat([resize(each.float(), size) for each in maps if each is not None], dim=1)
        seen = features.valid.view(-1, 1, *features.grid).float()
        return x, F.interpolate(seen, size, mode='nearest') > 0

    def noise(self) -> Tensor | None:
        """Variance ``(F,)`` of how far apart two sensors are; see :meth:`FittedSegmenter.noise`."""
        own = [*compress((self.encoder.token_own, self.encoder.detail_own), self.parts)]
        known = [each for each in own if each is not None]
        return 2 * torch.cat(known) if len(known) == len(own) else None

    def features(self, x: Tensor) -> Tensor:
        """Take tokens as they are; see :meth:`FittedSegmenter.features`."""
        return x


def _resolution(views: Sequence[SensorSample], size: tuple[int, int]) -> float:
    """Metres of the finest that a sensor has measured, and no finer than the pixels of the map."""
    measured = min(max(float(view['res']), float(view['gsd'].min())) for view in views)
    ground = float(views[0]['res']) * views[0]['image'].shape[-2]
    return max(measured, ground / size[0])
