# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Pretraining: sensors learn to agree about the same place."""

import math
from collections.abc import Mapping
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..losses import CrossSensorInfoNCE, decorrelation_loss, retrieval_accuracy
from ..models import EncoderMoments, Features, SensorEncoder, beside_detail, encode
from ..models.ground import cut_valid
from ..types import MultiSensorSample, SensorSample
from .base import EncoderPretraining, spread_rows
from .observation import Seen, finest, meet_bands, of_others, take_in
from .places import axes_of_patches, places_of_tokens
from .reconstruction import MaskedBandReconstruction
from .schedule import Schedule

#: What is compared: whole patches, or ground tokens.
Level = Literal['patch', 'token']

#: Every so many training steps the moments see a batch, which takes two passes without gradient.
_OBSERVED = 4


class CrossSensorContrastive(EncoderPretraining):
    """Contrastive pretraining of one encoder with any number of sensors.

    Each sensor of a batch is encoded by itself. Its patch, and each of its ground tokens, must find
    the mean of the *other* sensors at the same place among those of the batch, in which a sensor
    counts for a patch by the share of it that it saw. The encoder is not told when and where that
    is, from which alone sensors could agree; the loss is told where.

    Beside it the task keeps the moments of the ground tokens and of the detail, in which
    :func:`~..models.pretrained.load_encoder` finds what sensors agree about
    (:class:`~..models.CanonicalEncoder`).

    Logs ``loss``, ``retrieval`` (top-1 accuracy of the patch against the other sensors) and
    ``chance`` (what guessing reaches) for train and val.
    """

    monitor = 'val_retrieval'
    mode = 'max'
    shown = ('loss', 'retrieval', 'chance')

    def __init__(
        self,
        encoder: SensorEncoder,
        *,
        loss: nn.Module | None = None,
        projection_dim: int = 128,
        patch_weight: float = 1.0,
        token_weight: float = 1.0,
        tokens_per_patch: int = 16,
        min_valid: float = 0.5,
        reconstruction: float = 0.0,
        private_dim: int = 0,
        lr: float = 1e-3,
        weight_decay: float = 0.05,
        schedule: Schedule | None = None,
    ) -> None:
        """Make the task.

        Args:
            encoder: What is trained.
            loss: Called like :class:`~..losses.CrossSensorInfoNCE`, which it is by default, for
                patches and for ground tokens. Its parameters have no weight decay.
            projection_dim: Length of the vectors that are compared.
            patch_weight: Weight of the loss on patches.
            token_weight: Weight of the loss on ground tokens.
            tokens_per_patch: Ground tokens of each patch that are compared, drawn at random.
            min_valid: A sensor whose valid ground tokens are fewer than this share of a patch
                counts as absent there.
            reconstruction: Weight of :class:`.MaskedBandReconstruction`: with it, bands and ground
                are hidden from the encoder, and all pixels predicted from all of its features.
            private_dim: Features at the end of each vector that the contrast does not see, and that
                are kept from correlating with the others.
            lr: Peak learning rate.
            weight_decay: Of AdamW.
            schedule: How the learning rate moves; by default as :class:`.Schedule` does.

        Raises:
            ValueError: If no feature is left for the contrast.
        """
        super().__init__()
        if not 0 <= private_dim < encoder.embed_dim:
            raise ValueError(
                f'private_dim={private_dim} must be at least 0 and below the {encoder.embed_dim} '
                'features of the encoder'
            )
        loss = CrossSensorInfoNCE() if loss is None else loss
        self.describe_modules(encoder=encoder, loss=loss, schedule=schedule)
        self.encoder = encoder
        self.loss = loss
        self.moments = EncoderMoments(encoder)
        own = [name for name, _ in self.named_buffers() if name.startswith('moments.')]
        # They are of all ranks already, and megabytes: not to be sent at each step
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(  # type: ignore[no-untyped-call]
            self, own
        )
        self.leave_detail()
        self._steps = 0
        self.shared_dim = encoder.embed_dim - private_dim
        self.patch_projection: nn.Module = _projection(self.shared_dim, projection_dim)
        self.token_projection: nn.Module = _projection(self.shared_dim, projection_dim)
        self.reconstruction_weight = reconstruction
        self.reconstruction = (
            MaskedBandReconstruction(encoder.embed_dim) if reconstruction else None
        )
        self.patch_weight = patch_weight
        self.token_weight = token_weight
        self.tokens_per_patch = tokens_per_patch
        self.min_valid = min_valid

    def forward(self, batch: MultiSensorSample) -> dict[str, Features]:
        """Encode each sensor of a batch by itself, by its pixels alone."""
        return {
            name: encode(self.encoder, [_untold(view) for view in views])
            for name, views in batch['sensors'].items()
        }

    def embed(self, features: Features) -> Tensor:
        """Project the patches to the vectors that the contrast compares."""
        return cast(Tensor, self.patch_projection(features.pooled[:, : self.shared_dim]))

    def losses(self, batch: MultiSensorSample) -> dict[str, Tensor]:
        """Compare the sensors of a batch.

        Args:
            batch: Of :func:`~..datasets.collate_sensors`.

        Returns:
            ``loss``, its parts ``patch_loss`` and ``token_loss``, ``reconstruction_loss`` and
            ``decorrelation_loss`` if they have a part in it, ``retrieval`` and ``chance``.

        Raises:
            ValueError: If the batch has fewer than two sensors.
        """
        if len(batch['sensors']) < 2:
            raise ValueError(
                f'contrast needs two sensors, the batch has {list(batch["sensors"])}; add a sensor '
                'to the dataset, or raise its require'
            )
        features, others = self._look(batch)
        present = {name: batch['present'][name].to(self.device) for name in features}
        if self.training:
            self._observe(batch, present)
        patches, seen, weight = self._patches(features, present)
        where = axes_of_patches(batch['sensors'], present)
        values, projected = self._compare('patch', patches, seen, weight=weight, place=where[:, 0])
        values['token_loss'] = torch.zeros_like(values['patch_loss'])
        if self.token_weight:
            tokens, seen_tokens, cells = self._tokens(features, present)
            place = places_of_tokens(where, cells, next(iter(features.values())), batch['sensors'])
            values |= self._compare('token', tokens, seen_tokens, place=place)[0]
        retrieval = retrieval_accuracy(projected, seen)
        loss = self.patch_weight * values['patch_loss'] + self.token_weight * values['token_loss']
        if 'reconstruction_loss' in others:
            loss = loss + self.reconstruction_weight * others['reconstruction_loss']
        if 'decorrelation_loss' in others:
            loss = loss + others['decorrelation_loss']
        return {
            'loss': loss,
            **values,
            **others,
            'retrieval': retrieval.accuracy.nan_to_num(),
            'chance': retrieval.chance.nan_to_num(),
        }

    def _compare(
        self, level: Level, x: Mapping[str, Tensor], seen: Mapping[str, Tensor], **options: Any
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Values to log of one level, its loss among them, and what was compared.

        Args:
            level: Which projection is used, and how the values are called.
            x: Shared features ``(n, S)`` of each sensor.
            seen: ``(n,)`` bool of each sensor.
            options: Of the loss.
        """
        projection = self.patch_projection if level == 'patch' else self.token_projection
        projected = {name: projection(rows) for name, rows in x.items()}
        return {f'{level}_loss': self.loss(projected, seen, **options)}, projected

    def _look(self, batch: MultiSensorSample) -> tuple[dict[str, Features], dict[str, Tensor]]:
        """Features of each sensor, and the losses beside the contrast.

        In training the contrast is of what the reconstruction left visible, which saves a pass of the
        encoder; in evaluation it is of the whole views.
        """
        features: dict[str, Features] = {}
        others: dict[str, Tensor] = {}
        if self.reconstruction is not None:
            sensors = {n: [_untold(v) for v in views] for n, views in batch['sensors'].items()}
            features = {
                name: encode(self.encoder, self.reconstruction.hide(views))
                for name, views in sensors.items()
            }
            own = [self.reconstruction.loss(features[name], sensors[name]) for name in sensors]
            others['reconstruction_loss'] = torch.stack(own).mean()
        if self.reconstruction is None or not self.training:
            features = self(batch)
        if self.shared_dim < self.encoder.embed_dim:
            known = [f.tokens[f.valid] for f in features.values()]
            apart = [decorrelation_loss(*_split(x, self.shared_dim)) for x in known]
            others['decorrelation_loss'] = torch.stack(apart).mean()
        return features, others

    @torch.no_grad()
    def _observe(self, batch: MultiSensorSample, present: Mapping[str, Tensor]) -> None:
        """Take what some batches look like into the moments: of whole views, in float32.

        Sensors that were never met have other bands, at other wavelengths, and pixels elsewhere. So a
        small part of the moments is of each sensor twice, once as if it were another one.
        """
        self._steps += 1
        if self._steps % _OBSERVED:
            return
        meet_bands(self.moments.bands, batch)
        with torch.autocast(self.device.type, enabled=False):
            looks = [self._rows(b) for b in (batch, of_others(batch, seed=self._steps))]
            take_in(self.moments.tokens, [tokens for tokens, _ in looks], present)
            if self.moments.detail is not None:
                take_in(self.moments.detail, [fine for _, fine in looks], present)

    def _rows(self, batch: MultiSensorSample) -> tuple[Seen, Seen]:
        """Tokens of each sensor, and some cells of its detail, with where it saw something."""
        tokens: Seen = {}
        fine: Seen = {}
        detail_m = finest(batch)
        cells = torch.empty(0, dtype=torch.long)
        draw = torch.Generator().manual_seed(self._steps)
        for name, given in batch['sensors'].items():
            views = [_untold(view) for view in given]
            if not self.encoder.detail_dim:
                found = encode(self.encoder, views)
            else:
                found = encode(self.encoder, views, detail_m=detail_m)
                x = beside_detail(found).flatten(2).mT  # (b, cells, D + E)
                if not len(cells):  # the same for all sensors
                    cells = torch.randperm(x.shape[1], generator=draw)
                    cells = cells[: found.tokens.shape[1]].to(x.device)
                seen = torch.stack([cut_valid(v, token_m=detail_m).seen for v in views]).any(dim=0)
                fine[name] = x[:, cells], seen[:, cells]
            tokens[name] = found.tokens, found.valid
        return tokens, fine

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The encoder with its projections, and the loss, which has no weight decay."""
        loss = [p for p in self.loss.parameters() if p.requires_grad]
        (group,) = super().parameter_groups()
        if not loss:
            return [group]
        rest = [p for p in group['params'] if all(p is not q for q in loss)]
        return [{'params': rest}, {'params': loss, 'weight_decay': 0.0}]

    def _patches(
        self, features: Mapping[str, Features], present: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
        """Shared features ``(B, S)`` of each sensor, where it saw enough, and what share."""
        patches, seen, weight = {}, {}, {}
        for name, f in features.items():
            patches[name] = spread_rows(f.pooled[:, : self.shared_dim], present[name])
            share = f.valid.float().mean(dim=1)
            seen[name] = spread_rows(share >= self.min_valid, present[name])
            weight[name] = spread_rows(share, present[name])
        return patches, seen, weight

    def _tokens(
        self, features: Mapping[str, Features], present: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
        """Shared features ``(B n, S)`` of tokens, where they saw ground, and which ``(B, n)``."""
        first = next(iter(features.values()))
        count = first.tokens.shape[1]
        batch = len(next(iter(present.values())))
        cells = torch.rand(batch, count, device=self.device).argsort(dim=1)
        cells = cells[:, : self.tokens_per_patch]  # (B, n), n places of each patch
        tokens, seen = {}, {}
        for name, f in features.items():
            own = cells[present[name]]  # (b, n), b samples that the sensor saw
            chosen = f.tokens.gather(1, own[..., None].expand(-1, -1, f.tokens.shape[-1]))
            shared = chosen[..., : self.shared_dim]
            tokens[name] = spread_rows(shared, present[name]).flatten(0, 1)
            seen[name] = spread_rows(f.valid.gather(1, own), present[name]).flatten()
        return tokens, seen, cells


def _untold(view: SensorSample) -> SensorSample:
    """A view without the facts of its acquisition, which its sensors share."""
    told = ('lon', 'lat', 'level')
    kept = {key: value for key, value in view.items() if key not in told}
    return cast(SensorSample, {**kept, 't': torch.full_like(view['t'], math.nan)})


def _split(x: Tensor, first: int) -> tuple[Tensor, Tensor]:
    """The first features, and the others."""
    return x[:, :first], x[:, first:]


def _projection(dim: int, out_dim: int) -> nn.Sequential:
    """Two layers that the contrast may bend, so that the features need not."""
    return nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, out_dim))
