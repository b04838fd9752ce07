# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Numbers of the representation, and an alarm when it collapses."""

from collections.abc import Mapping
from itertools import combinations
from typing import NamedTuple

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from ..models import Features
from ..tasks import EncoderPretraining
from ..types import MultiSensorSample
from .base import ValidationFeatures, cells_of, log_over_ranks, rows_of_patches
from .measures import alignment, effective_rank, pairwise_retrieval, spread_of_features, uniformity
from .spread import Spread

_ADVICE = (
    'If this lasts: look whether val_loss falls, lower lr, train with reconstruction '
    '(CrossSensorContrastive) or larger batches; see docs/monitoring.md'
)


class _Seen(NamedTuple):
    """What one sensor says of one patch."""

    vector: Tensor  #: ``(P,)``
    enough: bool  #: it saw enough of the patch to be compared
    tokens: Tensor  #: ``(n, D)``, of the places that it saw


class RepresentationMonitor(ValidationFeatures):
    """Log how well sensors agree about the validation ground, and whether features collapse.

    Logs, by pair of sensors, ``val_retrieval/A-B`` (top-1 accuracy among all patches that were kept,
    the mean of both ways; guessing reaches ``val_retrieval/chance``) and ``val_alignment/A-B``; by
    sensor, ``val_uniformity/A`` of its patches, and of its tokens ``val_feature_std/A`` (the mean of
    :func:`spread_of_features`), ``val_dead_features/A`` (the share of features whose spread is below
    a bound) and ``val_effective_rank/A``. ``val_alignment`` and so on are the means of these.

    Patches are compared by what the task compares (``task.embed``). A bounded number of them,
    spread evenly over the epoch, is kept on the CPU. Several ranks measure each its own patches,
    and what is logged is the mean.
    """

    def __init__(
        self,
        *,
        every_n_epochs: int = 1,
        max_patches: int = 512,
        tokens_per_patch: int = 16,
        min_valid: float = 0.5,
        min_std: float = 0.05,
        max_dead: float = 0.5,
        min_rank: float = 4.0,
    ) -> None:
        """Make the callback.

        Args:
            every_n_epochs: Look at the end of each so manieth epoch, if it validates.
            max_patches: Patches that are kept, at least 2.
            tokens_per_patch: Ground tokens of each that are kept.
            min_valid: A sensor is compared where it saw at least this share of the patch's tokens.
            min_std: A feature is dead if its spread is less.
            max_dead: Share of dead features from which on a warning is raised.
            min_rank: Effective rank of the tokens below which a warning is raised.

        Raises:
            ValueError: If *every_n_epochs* is below 1 or *max_patches* below 2.
        """
        super().__init__(every_n_epochs=every_n_epochs)
        if max_patches < 2:
            raise ValueError(f'max_patches must be at least 2, got {max_patches}')
        self.max_patches = max_patches
        self.tokens_per_patch = tokens_per_patch
        self.min_valid = min_valid
        self.min_std = min_std
        self.max_dead = max_dead
        self.min_rank = min_rank
        self._patches: Spread[dict[str, _Seen]] = Spread(max_patches)

    def start(self, trainer: Trainer, task: EncoderPretraining) -> None:
        """Forget the epoch before."""
        self._patches = Spread(self.max_patches)

    def collect(
        self,
        task: EncoderPretraining,
        batch: MultiSensorSample,
        features: Mapping[str, Features],
        first: int,
    ) -> None:
        """Keep vectors and some tokens of some patches."""
        held: dict[str, list[_Seen]] = {}
        for name, f in features.items():
            cells = cells_of(f, self.tokens_per_patch).to(f.tokens.device)
            parts = task.embed(f), f.valid.float().mean(dim=1), f.tokens[:, cells]
            vectors, share, tokens = (part.float().cpu() for part in parts)
            valid = f.valid[:, cells].cpu()
            held[name] = [
                _Seen(vectors[row].clone(), bool(share[row] >= self.min_valid), tokens[row, known])
                for row, known in enumerate(valid)
            ]
        for i, rows in enumerate(rows_of_patches(batch['present'])):
            if self._patches.wants(first + i):
                self._patches.put(first + i, {name: held[name][row] for name, row in rows.items()})

    def finish(self, trainer: Trainer, task: EncoderPretraining) -> None:
        """Measure, log, and warn of a collapse."""
        patches = self._patches.items()
        self._patches = Spread(self.max_patches)
        values = self._of_patches(patches) | self._of_tokens(patches)
        logged = log_over_ranks(task, values, weight=len(patches))
        for message in self._alarms(logged):
            rank_zero_warn(message)

    def _of_patches(self, patches: list[dict[str, _Seen]]) -> dict[str, float]:
        """Retrieval, alignment and uniformity."""
        names = sorted({name for patch in patches for name in patch})
        empty = next(
            (s.vector.new_zeros(s.vector.shape) for p in patches for s in p.values()), None
        )
        if empty is None:
            return {}
        vectors = {
            name: torch.stack([p[name].vector if name in p else empty for p in patches])
            for name in names
        }
        seen = {
            name: torch.tensor([name in p and p[name].enough for p in patches]) for name in names
        }
        found = pairwise_retrieval(vectors, seen)
        values = {f'val_retrieval/{a}-{b}': float(r.accuracy) for (a, b), r in found.items()}
        if found:
            values['val_retrieval/chance'] = _mean([float(r.chance) for r in found.values()])
        both = {pair: seen[pair[0]] & seen[pair[1]] for pair in combinations(names, 2)}
        return (
            values
            | _with_mean(
                'val_alignment',
                {
                    f'{a}-{b}': float(alignment(vectors[a][rows], vectors[b][rows]))
                    for (a, b), rows in both.items()
                    if rows.any()
                },
            )
            | _with_mean(
                'val_uniformity',
                {n: float(uniformity(vectors[n][s])) for n, s in seen.items() if s.sum() > 1},
            )
        )

    def _of_tokens(self, patches: list[dict[str, _Seen]]) -> dict[str, float]:
        """Spread and rank of the tokens of each sensor."""
        std, dead, rank = {}, {}, {}
        for name in sorted({name for patch in patches for name in patch}):
            tokens = torch.cat([p[name].tokens for p in patches if name in p])  # (n, D)
            if len(tokens) > 1:
                spread = spread_of_features(tokens)
                std[name] = float(spread.mean())
                # not "below", so that NaN is dead
                dead[name] = float((~(spread >= self.min_std)).float().mean())
                rank[name] = float(effective_rank(tokens))
        return (
            _with_mean('val_feature_std', std)
            | _with_mean('val_dead_features', dead)
            | _with_mean('val_effective_rank', rank)
        )

    def _alarms(self, values: Mapping[str, float]) -> list[str]:
        """What is to be said of a collapse, sensor by sensor."""
        messages = []
        for key, value in values.items():
            what, _, sensor = key.partition('/')
            if what == 'val_dead_features' and sensor and not value <= self.max_dead:
                messages.append(
                    f'{sensor}: features collapse. {value:.0%} of the features of its tokens have a '
                    f'spread below {self.min_std:g} (1 is even, 0 is constant), and at most '
                    f'{self.max_dead:.0%} are expected. {_ADVICE}'
                )
            if what == 'val_effective_rank' and sensor and not value >= self.min_rank:
                messages.append(
                    f'{sensor}: features collapse. The effective rank of its tokens is {value:.1f}, '
                    f'and at least {self.min_rank:g} is expected. {_ADVICE}'
                )
        return messages


def _mean(values: list[float]) -> float:
    """Mean of a few numbers."""
    return sum(values) / len(values)


def _with_mean(metric: str, values: Mapping[str, float]) -> dict[str, float]:
    """Values under ``metric/which``, and their mean under ``metric``."""
    if not values:
        return {}
    named = {f'{metric}/{which}': value for which, value in values.items()}
    return {metric: _mean(list(values.values())), **named}
