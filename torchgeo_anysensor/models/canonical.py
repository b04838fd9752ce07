# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Features ordered by how far sensors agree about them.

Letters as in :mod:`torchgeo_anysensor.types`, and ``d`` features of an encoder, ``R`` random
functions of them, ``S`` shared features.
"""

import itertools
import os
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..types import SensorSample
from .base import Features, SensorEncoder
from .heads import as_map, resize
from .met_bands import MetBands, known_views
from .moments import RANDOM, CrossSensorMoments, EncoderMoments, RandomFeatures, scaled

#: Most axes of agreement that are kept.
SHARED = 256
#: Size of what sensors need not agree about, beside that of what they do.
PRIVATE = 0.02
# Wavelengths that a warning names
_NAMED = 12
# Where a warning is not the user's own line
_NOT_THEIRS = tuple(
    os.path.join(os.path.dirname(path), '') for path in (os.path.dirname(__file__), torch.__file__)
)


class CanonicalMap(nn.Module):
    """What sensors agree about in features and random functions of them, and then the features.

    What a sensor makes of a place is seen as ``mean + shared + own``, where ``own`` differs by
    sensor. Along each axis ``own`` has the variance 1 and ``shared`` the variance ``signal``, the
    largest first; a shared feature is the mean of ``shared`` given what the sensor saw, ``signal /
    (1 + signal)`` of it. This is probabilistic discriminant analysis (Ioffe 2006,
    doi:10.1007/11744085_41) with the place as class, whose axes are those of multi-set canonical
    correlation (Kettenring 1971, doi:10.1093/biomet/58.3.433), here of random functions (Lopez-Paz
    et al. 2014, arXiv 1402.0119). It needs no labels, and sensors that it never met use the same map.

    The features of the last group follow, standardised and small: what only one sensor sees in them
    is not lost.
    """

    mean: Tensor
    weight: Tensor
    signal: Tensor
    own: Tensor  #: ``(S + e,)`` variances of ``own`` in what the map gives

    def __init__(self, groups: Sequence[int], *, random: int = RANDOM) -> None:
        """Make the map; until :meth:`fit` nothing is shared.

        Args:
            groups: Number of features of each group, ``d`` in all. Those of the last one follow the
                shared ones.
            random: Random functions of each group, ``R`` in all.
        """
        super().__init__()
        self.features = RandomFeatures(groups, count=random)
        size = self.features.out_dim
        self.private = groups[-1]
        self.shared = min(SHARED, size)
        self.out_dim = self.shared + self.private
        self.register_buffer('mean', torch.zeros(size))
        self.register_buffer('weight', torch.zeros(size, self.shared))
        self.register_buffer('signal', torch.zeros(self.shared))
        self.register_buffer('own', torch.zeros(self.out_dim))

    @torch.no_grad()
    def fit(self, moments: CrossSensorMoments) -> None:
        """Find the axes.

        Args:
            moments: Of the features.

        Raises:
            ValueError: If the moments are of nothing, or of other features.
        """
        if moments.mean.shape != self.mean.shape or not int(moments.updates):
            raise ValueError(
                f'moments of {len(moments.mean)} features and {int(moments.updates)} batches do not '
                f'fit a map of {len(self.mean)} features; train it with at least two sensors'
            )
        spread, total, within = scaled(moments.total, moments.within)
        root = torch.linalg.inv(torch.linalg.cholesky(within))  # root within root^T is 1
        signal, axes = torch.linalg.eigh(root @ (total - within) @ root.T)
        largest = axes.abs().argmax(dim=0, keepdim=True)
        axes = axes * axes.gather(0, largest).sign()  # on any machine
        signal = signal.flip(0).clamp(min=0)[: self.shared]
        known = signal / (1 + signal)
        size = (known.square() * (1 + signal)).mean().sqrt().clamp(min=1e-12)
        weight = (root.T @ axes.flip(1))[:, : self.shared] * known / size / spread[:, None]
        self.features.load_state_dict(moments.features.state_dict())
        self.mean.copy_(moments.mean)
        self.weight.copy_(weight)
        self.signal.copy_(signal)
        last = slice(sum(self.features.groups) - self.private, sum(self.features.groups))
        private = PRIVATE**2 * within.diagonal()[last]  # the features are standardised
        self.own.copy_(torch.cat([(known / size).square()[: self.shared], private]))

    def forward(self, x: Tensor) -> Tensor:
        """Give ``(..., S + e)`` float32, ``e`` of them of the last group, of features ``(..., d)``."""
        found = self.features(x)
        dim = x.shape[-1]
        private = found[..., dim - self.private : dim]
        return torch.cat([(found - self.mean) @ self.weight, PRIVATE * private], dim=-1)


def beside_detail(features: Features) -> Tensor:
    """Lay the tokens out beside the detail, ``(B, D + E, h, w)``."""
    assert features.detail is not None
    detail = features.detail.float()
    tokens = resize(as_map(features).float(), (detail.shape[-2], detail.shape[-1]))
    return torch.cat([tokens, detail], dim=1)


class CanonicalEncoder(SensorEncoder):
    """An encoder, and maps of its tokens and of its detail to what sensors agree about.

    See :class:`CanonicalMap`. Bands of which the training has met none like them are not read: what
    they do to the features is nothing that sensors were seen to agree about.

    The tokens follow what is shared of them. Detail is read together with the tokens around it, and
    says what sensors agree about in both; the detail itself follows. The pooled vector is the mean of
    the valid tokens. In evaluation all is computed in float32, under autocast too: what sensors
    disagree about is as small as bfloat16 rounds.
    """

    def __init__(self, encoder: SensorEncoder) -> None:
        """Wrap an encoder; nothing is shared until :meth:`fit`.

        Args:
            encoder: Any encoder.
        """
        super().__init__()
        self.init_args = {'encoder': encoder}
        self.encoder = encoder
        self.token_m = getattr(encoder, 'token_m', None)
        dim, fine = encoder.embed_dim, encoder.detail_dim
        self.tokens = CanonicalMap([dim])
        self.fine = CanonicalMap([dim, fine]) if fine else None
        self.bands = MetBands()
        self._told: set[str] = set()  # wavelengths that a warning has named
        self.embed_dim = self.tokens.out_dim
        self.detail_dim = 0 if self.fine is None else self.fine.out_dim
        self.detail_holds_tokens = self.fine is not None

    @property
    def token_own(self) -> Tensor | None:
        """See :attr:`SensorEncoder.token_own`."""
        return self.tokens.own

    @property
    def detail_own(self) -> Tensor | None:
        """See :attr:`SensorEncoder.detail_own`."""
        return None if self.fine is None else self.fine.own

    @torch.no_grad()
    def fit(self, moments: EncoderMoments) -> 'CanonicalEncoder':
        """Find the maps.

        Args:
            moments: Of the features of the encoder.

        Returns:
            The encoder itself.

        Raises:
            ValueError: If moments are of nothing, or of other features.
        """
        self.tokens.fit(moments.tokens)
        self.bands.load_state_dict(moments.bands.state_dict())
        if self.fine is not None:
            if moments.detail is None:
                raise ValueError('the encoder has a detail, and there are no moments of it')
            self.fine.fit(moments.detail)
        return self

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile the encoder, with the arguments of :func:`torch.compile`."""
        self.encoder.compile(*args, **kwargs)

    def detail(self, views: Sequence[SensorSample], *, detail_m: float) -> Tensor:
        """Encode what is finer than a token; see :meth:`SensorEncoder.detail`."""
        detail = self.with_detail(views, detail_m=detail_m).detail
        assert detail is not None
        return detail

    def detail_parts(self) -> list[nn.Module]:
        """Those of the encoder; see :meth:`SensorEncoder.detail_parts`."""
        return self.encoder.detail_parts()

    def forward(self, views: Sequence[SensorSample], *, token_m: float | None = None) -> Features:
        """Encode; see :meth:`SensorEncoder.forward`."""
        with self._precision(views):
            found: Features = self.encoder(self._known(views), token_m=token_m)
        return self._mapped(found)

    def with_detail(
        self, views: Sequence[SensorSample], *, token_m: float | None = None, detail_m: float
    ) -> Features:
        """Encode, what is finer than a token too; see :meth:`SensorEncoder.with_detail`."""
        with self._precision(views):
            found = self.encoder.with_detail(self._known(views), token_m=token_m, detail_m=detail_m)
        return self._mapped(found)

    def _known(self, views: Sequence[SensorSample]) -> list[SensorSample]:
        """The views without the bands that are not known, with a warning at the first time."""
        found, without = known_views(self.bands, views)
        if not without <= self._told:
            self._told |= without
            first, *more = itertools.batched(sorted(without, key=float), _NAMED)
            rest = f' and {sum(map(len, more))} more' if more else ''
            warnings.warn(
                f'bands at {", ".join(first)} um{rest} are not read: the pretraining has met none like '
                'them. Pretrain with them, or load the encoder with canonical=False',
                skip_file_prefixes=_NOT_THEIRS,
            )
        return found

    def _precision(self, views: Sequence[SensorSample]) -> torch.autocast:
        """In evaluation float32, else as it is."""
        device = views[0]['image'].device.type
        return torch.autocast(device, enabled=self.training and torch.is_autocast_enabled(device))

    def _mapped(self, found: Features) -> Features:
        """The features of the encoder, mapped."""
        with torch.autocast(found.tokens.device.type, enabled=False):
            detail = None
            if self.fine is not None and found.detail is not None:
                detail = self.fine(beside_detail(found).movedim(1, -1)).movedim(-1, 1)
            tokens = self.tokens(found.tokens)
            seen = found.valid.unsqueeze(-1).float()
            pooled = (tokens * seen).sum(dim=1) / seen.sum(dim=1).clamp(min=1)
        return found._replace(tokens=tokens, pooled=pooled, detail=detail)
