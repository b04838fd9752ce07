# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Floors: what needs no network to be trained.

Letters as in :mod:`torchgeo_anysensor.types`, and ``n`` pixels, ``F`` features of a pixel.
"""

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..types import IGNORE_INDEX, SensorSample
from .base import Decision, Segmenter, to_grid
from .fusion import network_input, sensor_inputs
from .harmonise import COMMON_BANDS_UM, common_bands
from .regression import PENALTIES, SoftmaxRegression

#: Views by sensor, as :meth:`~.base.Segmenter.decide` gets them, and labels ``(B, H, W)``.
Labelled = tuple[Mapping[str, Sequence[SensorSample]], Tensor]


class FittedSegmenter(Segmenter):
    """A regression on fixed features of each pixel: fitted, not trained."""

    def __init__(
        self,
        num_classes: int,
        bands: dict[str, int] | None,
        *,
        num_features: int | Sequence[int],
        seed: int,
    ) -> None:
        """Make the model.

        Args:
            num_classes: Number of classes.
            bands: Number of bands of each sensor, over all its grids, to use all together; if None,
                the six common bands of each sensor by itself.
            num_features: Number ``F`` of features of a pixel, or numbers of those that have one
                unit; see ``groups`` of :class:`SoftmaxRegression`.
            seed: Of all draws.
        """
        super().__init__()
        self.num_classes = num_classes
        self.bands = dict(bands) if bands else None
        self.seed = seed
        self.init_args = {'num_classes': num_classes, 'bands': self.bands, 'seed': seed}
        groups = None if isinstance(num_features, int) else num_features
        total = num_features if isinstance(num_features, int) else sum(num_features)
        self.regression = SoftmaxRegression(total, num_classes, groups=groups)

    def noise(self) -> Tensor | None:
        """Tell by what variances ``(F,)`` features will be off, where it is known."""
        return None

    @abstractmethod
    def features(self, x: Tensor) -> Tensor:
        """Give features ``(B, F, H, W)`` of the channels ``(B, c, H, W)`` of a network's input."""

    def inputs(
        self, sensors: Mapping[str, Sequence[SensorSample]], size: tuple[int, int]
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """Make what decisions are made from.

        Args:
            sensors: Batched views by sensor.
            size: Rows and columns of the map.

        Returns:
            Channels ``(B, c, H, W)`` and what was seen ``(B, H, W)`` bool, by decision.
        """
        if self.bands is None:
            rasters = {name: common_bands(to_grid(v, size)) for name, v in sensors.items()}
            inputs = {name: network_input(raster) for name, raster in rasters.items()}
            return {name: (x, x[:, -1] > 0) for name, x in inputs.items()}
        parts = list(sensor_inputs(sensors, size, self.bands).values())
        seen = torch.stack([x[:, -1] > 0 for x in parts]).any(dim=0)
        return {'all': (torch.cat(parts, dim=1), seen)}

    def decide(
        self, sensors: Mapping[str, Sequence[SensorSample]], size: tuple[int, int]
    ) -> dict[str, Decision]:
        """Classify pixels; see :meth:`Segmenter.decide`."""
        return {
            name: Decision(self.regression(self.features(x).movedim(1, -1)).movedim(-1, 1), seen)
            for name, (x, seen) in self.inputs(sensors, size).items()
        }

    @torch.no_grad()
    def fit(
        self,
        train: Iterable[Labelled],
        val: Iterable[Labelled] | None = None,
        *,
        max_pixels: int = 50_000,
        penalties: Sequence[float] = PENALTIES,
    ) -> float:
        """Fit the regression to the pixels that have a label and were seen.

        Args:
            train: Batches to fit: a list or a loader, as they are gone through more than once.
            val: Batches to choose the penalty by; needed if there are several.
            max_pixels: Use at most so many pixels of each, drawn at random.
            penalties: To choose from.

        Returns:
            The penalty that was chosen.
        """
        x, y = self._pixels(train, max_pixels)
        held_out = None if val is None else self._pixels(val, max_pixels)
        return self.regression.fit(x, y, val=held_out, penalties=penalties, noise=self.noise())

    def _pixels(self, batches: Iterable[Labelled], most: int) -> tuple[Tensor, Tensor]:
        """Features ``(n, F)`` and classes ``(n,)`` of the pixels, or of as many as allowed."""
        generator = torch.Generator().manual_seed(self.seed)
        draws, xs, ys = torch.empty(0), torch.empty(0), torch.empty(0)
        for x, mask, good in self._labelled(batches):
            places = good.flatten().nonzero().squeeze(1)
            own = torch.rand(len(places), generator=generator)
            # Every pixel draws a number; those with the lowest stay
            worst = float(draws[-1]) if len(draws) == most else torch.inf
            few = own.argsort()[:most]
            few = few[own[few] < worst]
            places = places[few.to(places.device)]
            found = self.features(x).movedim(1, -1).flatten(0, 2)[places]
            classes = mask.flatten()[places]
            if not len(draws):
                xs, ys = found[:0], classes[:0]
            draws = torch.cat([draws, own[few]])
            draws, order = (part[:most] for part in draws.sort())
            order = order.to(xs.device)
            xs, ys = torch.cat([xs, found])[order], torch.cat([ys, classes])[order]
        return xs, ys

    def _labelled(self, batches: Iterable[Labelled]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Channels, classes, and which pixels count, of each batch (and sensor)."""
        for sensors, mask in batches:
            for x, seen in self.inputs(sensors, (mask.shape[-2], mask.shape[-1])).values():
                yield x, mask, seen & (mask != IGNORE_INDEX)


def _channels(bands: Mapping[str, int] | None) -> int:
    """Channels of the input of a :class:`FittedSegmenter`."""
    return sum(bands.values()) + len(bands) if bands else len(COMMON_BANDS_UM) + 1


class PixelRegression(FittedSegmenter):
    """Logistic regression on the bands of the pixel and their squares."""

    def __init__(
        self, num_classes: int, bands: dict[str, int] | None = None, *, seed: int = 0
    ) -> None:
        """Make the model.

        Args:
            num_classes: Number of classes.
            bands: Number of bands of each sensor, over all its grids, to use all together; if None,
                the six common bands of each sensor by itself.
            seed: Of the draw of pixels.
        """
        super().__init__(num_classes, bands, num_features=2 * _channels(bands), seed=seed)

    def features(self, x: Tensor) -> Tensor:
        """Give the channels and their squares; see :meth:`FittedSegmenter.features`."""
        return torch.cat([x, x.square()], dim=1)


class RandomConvolutions(FittedSegmenter):
    """Random convolution features of a pixel's surroundings, and a regression on them.

    After MOSAIKS (Rolf et al. 2021, https://doi.org/10.1038/s41467-021-24638-z): the filters are
    patches of the training images, drawn at random and whitened (ZCA), and both signs of a response
    go through a ReLU. Unlike there, features are not averaged over the image but belong to the
    pixel, come from several scales, and keep the mean of the patch, which is the reflectance. The
    bands of the pixel itself are features too.
    """

    filters: Tensor
    offsets: Tensor

    def __init__(
        self,
        num_classes: int,
        bands: dict[str, int] | None = None,
        *,
        filters: int = 64,
        scales: Sequence[int] = (1, 2, 4),
        seed: int = 0,
    ) -> None:
        """Make the model; the filters are drawn by :meth:`fit`.

        Args:
            num_classes: Number of classes.
            bands: Number of bands of each sensor, over all its grids, to use all together; if None,
                the six common bands of each sensor by itself.
            filters: Number of filters of each scale, each of which makes two features.
            scales: Pixels of the map along the side of a filter's pixel.
            seed: Of the draws of filters and pixels.
        """
        channels = _channels(bands)
        num_features = channels + 2 * filters * len(scales)
        super().__init__(num_classes, bands, num_features=num_features, seed=seed)
        self.init_args |= {'filters': filters, 'scales': list(scales)}
        self.scales = tuple(scales)
        self.register_buffer('filters', torch.zeros(len(scales), filters, channels, 3, 3))
        self.register_buffer('offsets', torch.zeros(len(scales), filters))

    def features(self, x: Tensor) -> Tensor:
        """Give the channels and the random features; see :meth:`FittedSegmenter.features`."""
        found = [x]
        for scale, filters, offset in zip(self.scales, self.filters, self.offsets):
            y = F.conv2d(_framed(x, scale), filters, offset)
            y = F.interpolate(y, scale_factor=float(scale), mode='bilinear')
            y = y[..., : x.shape[-2], : x.shape[-1]]
            found += [y.relu(), (-y).relu()]
        return torch.cat(found, dim=1)

    @torch.no_grad()
    def fit(
        self,
        train: Iterable[Labelled],
        val: Iterable[Labelled] | None = None,
        *,
        max_pixels: int = 50_000,
        penalties: Sequence[float] = PENALTIES,
    ) -> float:
        """Draw the filters, then fit; see :meth:`FittedSegmenter.fit`."""
        generator = torch.Generator().manual_seed(self.seed)
        drawn: list[list[Tensor]] = [[] for _ in self.scales]
        for x, _, _ in self._labelled(train):
            for scale, patches in zip(self.scales, drawn):
                found = F.unfold(_framed(x, scale), 3).mT.flatten(0, 1)  # (n, c 3 3)
                few = torch.randperm(len(found), generator=generator)[:1000]
                patches.append(found[few.to(x.device)].double())
        for place, patches in enumerate(drawn):
            filters, offsets = _whitened(torch.cat(patches), self.filters.shape[1], generator)
            self.filters[place] = filters.reshape(self.filters.shape[1:])
            self.offsets[place] = offsets
        return super().fit(train, val, max_pixels=max_pixels, penalties=penalties)


def _framed(x: Tensor, scale: int) -> Tensor:
    """Average to a scale, and repeat the edge so that a filter of 3 pixels fits everywhere."""
    height, width = x.shape[-2:]
    x = F.pad(x, (0, -width % scale, 0, -height % scale), mode='replicate')
    return F.pad(F.avg_pool2d(x, scale), [1] * 4, mode='replicate')


def _whitened(
    patches: Tensor, count: int, generator: torch.Generator, *, ridge: float = 1e-2
) -> tuple[Tensor, Tensor]:
    """Make filters of random patches.

    Args:
        patches: ``(n, d)`` float64.
        count: Number of filters.
        generator: Of the draw.
        ridge: Added to the variances, as a share of their mean, so that noise is not blown up.

    Returns:
        Filters ``(count, d)`` and offsets ``(count,)``: the response is the product of the whitened
        image patch and the whitened filter patch of unit length.
    """
    mean = patches.mean(dim=0)
    variances, axes = torch.linalg.eigh((patches - mean).T.cov(correction=0))
    scales = (variances.clamp(min=0) + ridge * variances.mean()).rsqrt()
    whiten = (axes * scales) @ axes.T  # (d, d), ZCA
    drawn = torch.randint(len(patches), (count,), generator=generator).to(patches.device)
    units = F.normalize((patches[drawn] - mean) @ whiten, dim=1)
    filters = units @ whiten
    return filters.float(), -(filters @ mean).float()
