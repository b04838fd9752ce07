# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""What an encoder says of several sensors, and a linear map that reads it.

Letters as in :mod:`torchgeo_anysensor.types`, and ``S`` sensors.
"""

from collections.abc import Mapping, Sequence
from itertools import compress

import torch
import torch.nn.functional as F
from torch import Tensor

from ..types import SensorSample
from .base import Features, SensorEncoder, encode
from .floors import FittedSegmenter
from .heads import as_map, resize


def encode_sensors(
    encoder: SensorEncoder,
    sensors: Mapping[str, Sequence[SensorSample]],
    *,
    token_m: float | None = None,
    detail_m: float | None = None,
) -> Features:
    """Encode the views of several sensors of the same patches.

    They are encoded together, unless the encoder knows how far sensors disagree about its features
    (:attr:`SensorEncoder.token_own`). Then it has learned what one sensor says alone: each is
    encoded by itself, and the mean is taken of those that saw the token, in which each counts by its
    pixels on the ground, as in a mean of independent measurements.

    Args:
        encoder: Any encoder that keeps the contract.
        sensors: Batched views by sensor, one for each grid. All have a row for each sample; where a
            sensor did not see a sample, no pixel of its row is valid.
        token_m: As for :func:`encode`.
        detail_m: As for :func:`encode`.

    Returns:
        The features; ``valid`` where any of the sensors has seen something.

    Raises:
        ValueError: As for :func:`encode`, or if sensors differ in their ground.
    """
    sizes = {'token_m': token_m, 'detail_m': detail_m}
    if encoder.token_own is None or len(sensors) == 1:
        return encode(encoder, [view for views in sensors.values() for view in views], **sizes)
    found = [encode(encoder, views, **sizes) for views in sensors.values()]
    if len(grids := {each.grid for each in found}) > 1:
        raise ValueError(f'sensors of one patch must share its ground, got token grids {grids}')
    seen = torch.stack([each.valid for each in found])  # (S, B, N)
    weight = torch.where(seen.any(dim=0), seen, True).float()  # where none did, all count
    res = weight.new_tensor([_resolution(views) for views in sensors.values()])
    weight = weight * (res.min() / res).square().view(-1, 1, 1)
    weight = weight / weight.sum(dim=0)

    def mean(parts: list[Tensor], share: Tensor) -> Tensor:
        return (torch.stack(parts) * share.to(parts[0].dtype)).sum(dim=0)

    detail = [each.detail for each in found if each.detail is not None]
    if detail:
        fine = weight.view(-1, weight.shape[1], *found[0].grid)
        fine = F.interpolate(fine, detail[0].shape[-2:], mode='nearest').unsqueeze(2)
    return Features(
        mean([each.tokens for each in found], weight.unsqueeze(-1)),
        mean([each.pooled for each in found], weight.mean(dim=-1, keepdim=True)),
        found[0].grid,
        seen.any(dim=0),
        mean(detail, fine) if detail else None,
    )


def _resolution(views: Sequence[SensorSample]) -> float:
    """Metres of the finest that a sensor has measured."""
    return min(max(float(view['res']), float(view['gsd'].min())) for view in views)


class TokenRegression(FittedSegmenter):
    """Logistic regression on the features of a frozen encoder, fitted to convergence.

    Tokens are interpolated to the pixels of the map, which for a linear map is the same as to
    interpolate its logits. The features keep their sizes against each other: an encoder says by them
    what counts. Several sensors are read as :func:`encode_sensors` does. If the encoder knows how far
    sensors disagree about its features, the regression is fitted for what another one would have seen.
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
        with torch.no_grad():
            features = encode_sensors(
                self.encoder, sensors, token_m=self.token_m, detail_m=self.detail_m
            )
        maps = compress((as_map(features), features.detail), self.parts)
        x = torch.cat([resize(each.float(), size) for each in maps if each is not None], dim=1)
        seen = features.valid.view(-1, 1, *features.grid).float()
        return {'all': (x, F.interpolate(seen, size, mode='nearest')[:, 0] > 0)}

    def noise(self) -> Tensor | None:
        """Variance ``(F,)`` of how far apart two sensors are; see :meth:`FittedSegmenter.noise`."""
        own = [*compress((self.encoder.token_own, self.encoder.detail_own), self.parts)]
        known = [each for each in own if each is not None]
        return 2 * torch.cat(known) if len(known) == len(own) else None

    def features(self, x: Tensor) -> Tensor:
        """Take tokens as they are; see :meth:`FittedSegmenter.features`."""
        return x
