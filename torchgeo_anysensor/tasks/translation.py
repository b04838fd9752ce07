# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Turn one sensor into another, so that a model of the other can be used.

The idea is that of Isa, Suharjito, Kusuma and Cenggoro 2021, "Supervised conversion from Landsat-8
images to Sentinel-2 images with deep learning" (European Journal of Remote Sensing 54): a network
made for super-resolution learns from pairs of images. Their network is not rebuilt here.
"""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..models import Decision, Raster, Segmenter, UNet, to_grid
from ..models.description import describe
from ..models.fusion import NetworkBuilder, described, network_input
from ..models.spectral import standardise
from ..types import BAND_FACTS, MultiSensorSample, SensorSample
from .base import PretrainingTask, sensor_views
from .schedule import Schedule


class Translator(nn.Module):
    """A network that predicts the bands of a target sensor from those of a source.

    It predicts what the source's band of the nearest wavelength lacks, as networks for
    super-resolution do. The wavelengths and the pixel size of the target are learned from the first
    training batch.
    """

    wavelength: Tensor
    bandwidth: Tensor
    gsd: Tensor
    res: Tensor

    def __init__(
        self, source_bands: int, target_bands: int, *, network: NetworkBuilder = UNet
    ) -> None:
        """Make the translator.

        Args:
            source_bands: Number of bands of the source, over all its grids.
            target_bands: Number of bands of the target, over all its grids.
            network: Makes the network.
        """
        super().__init__()
        self.network = network(source_bands + 1, target_bands)
        self.init_args = {
            'source_bands': source_bands,
            'target_bands': target_bands,
            'network': described(self.network),
        }
        for fact in BAND_FACTS:
            self.register_buffer(fact, torch.zeros(target_bands))
        self.register_buffer('res', torch.zeros(()))

    def learn_facts(self, target: Sequence[SensorSample]) -> None:
        """Take note of the target's bands and of its finest pixel size, if not known yet."""
        if not self.res:
            for fact in BAND_FACTS:
                # Platforms differ a little: those of the first sample stand for all
                values = [view[fact].reshape(-1, view['image'].shape[1])[0] for view in target]  # type: ignore[literal-required]
                getattr(self, fact).copy_(torch.cat(values))
            self.res.copy_(min(view['res'] for view in target))

    def nearest(self, source: Raster) -> Tensor:
        """Give for each band of the target the source's of the nearest wavelength, as an image."""
        away = (source.wavelength[0, None] - self.wavelength[:, None]).abs()  # (C target, C source)
        return source.image[:, away.argmin(dim=1)]

    def forward(self, source: Sequence[SensorSample]) -> SensorSample:
        """Translate.

        Args:
            source: Batched views of the source.

        Returns:
            One view with all bands of the target, at its finest pixel size.

        Raises:
            ValueError: If the translator was not trained.
        """
        if not self.res:
            raise ValueError('the translator knows no target yet: train it by SensorTranslation')
        first = source[0]
        scale = float(first['res']) / float(self.res)
        height, width = first['image'].shape[-2:]
        raster = to_grid(source, (round(height * scale), round(width * scale)))
        lacking = self.network(network_input(raster)).float()
        # The network's unit is that of `standardise`, an affine map
        one = torch.ones_like(lacking[0, :, :1, :1])
        unit = standardise(one, self.wavelength) - standardise(0 * one, self.wavelength)
        valid = (raster.seen > 0).any(dim=1)
        image = (self.nearest(raster) + lacking / unit) * valid[:, None]
        still = torch.zeros_like(first['dx'])  # on the ground of the patch
        facts = {fact: getattr(self, fact) for fact in BAND_FACTS}
        return _changed(first, **facts, image=image, valid=valid, res=self.res, dx=still, dy=still)


def _changed(view: SensorSample, **changes: Any) -> SensorSample:
    """A view with other values for some keys."""
    return cast(SensorSample, {**view, **changes})


class SensorTranslation(PretrainingTask):
    """Train a translator with pairs of patches that both sensors saw.

    The loss is the mean absolute difference of the pixels that are valid in both, on each grid of
    the target, reflectance and kelvin in the unit of :func:`~..models.spectral.standardise`. Logs it
    for train, val and test, and beside it ``nearest``: what the bands of the nearest wavelength
    reach without a network.
    """

    monitor = 'val_loss'
    mode = 'min'
    shown = ('loss', 'nearest')

    def __init__(
        self,
        translator: Translator,
        *,
        source: str = 'landsat_c2l2',
        target: str = 'sentinel2_l2a',
        lr: float = 1e-3,
        weight_decay: float = 0.05,
        schedule: Schedule | None = None,
    ) -> None:
        """Make the task.

        Args:
            translator: What is trained.
            source: Name of the sensor to translate.
            target: Name of the sensor to translate it into.
            lr: Peak learning rate.
            weight_decay: Of AdamW.
            schedule: How the learning rate moves; by default as :class:`.Schedule` does.
        """
        super().__init__()
        self.describe_modules(translator=translator, schedule=schedule)
        self.translator = translator
        self.source = source
        self.target = target

    def forward(self, batch: MultiSensorSample) -> SensorSample:
        """Translate the source of a batch; see :meth:`Translator.forward`."""
        views = sensor_views(batch['sensors'], batch.get('present'), [self.source])
        translated: SensorSample = self.translator(views[self.source])
        return translated

    def losses(self, batch: MultiSensorSample) -> dict[str, Tensor]:
        """Compare the translation with the target, and so the nearest bands.

        Args:
            batch: Of :func:`~..datasets.collate_sensors`, with both sensors.

        Returns:
            ``loss`` and ``nearest``.

        Raises:
            ValueError: If a sensor is not in the batch.
        """
        both = [
            sensor_views(batch['sensors'], batch.get('present'), [name])
            for name in (self.source, self.target)
        ]
        source, target = both[0][self.source], both[1][self.target]
        self.translator.learn_facts(target)
        view = self.translator(source)
        height, width = view['image'].shape[-2:]
        nearest = self.translator.nearest(to_grid(source, (height, width)))
        predicted = {'loss': view, 'nearest': _changed(view, image=nearest)}
        return {name: absolute_difference(made, target) for name, made in predicted.items()}


def absolute_difference(made: SensorSample, target: Sequence[SensorSample]) -> Tensor:
    """Mean absolute difference where both are valid, 0 if nowhere.

    Args:
        made: A view with all bands of the target.
        target: The views of the target; each is compared on its own pixels.

    Returns:
        ``()``, without unit.
    """
    counts = [view['image'].shape[1] for view in target]
    images = torch.split(made['image'], counts, dim=1)
    wavelengths = torch.split(made['wavelength'], counts)
    total, count = images[0].new_zeros(()), images[0].new_zeros(())
    for view, image, wavelength in zip(target, images, wavelengths):
        size = view['image'].shape[-2], view['image'].shape[-1]
        a, b = (
            to_grid([_changed(made, image=image, wavelength=wavelength)], size),
            to_grid([view], size),
        )
        both = (a.seen > 0) & (b.seen > 0)
        difference = standardise(a.image, a.wavelength) - standardise(b.image, a.wavelength)
        total = total + (difference.abs() * both).sum()
        count = count + both.sum()
    return total / count.clamp(min=1)


class Translated(Segmenter):
    """A segmenter of the target sensor that also reads the source, translated.

    Pixels that the target saw are its own; the others are translated. Trained with the target
    alone and tested with the source alone, it says what translation is worth.
    """

    def __init__(
        self,
        translator: Translator | str,
        segmenter: Segmenter,
        *,
        source: str = 'landsat_c2l2',
        target: str = 'sentinel2_l2a',
    ) -> None:
        """Make the model.

        Args:
            translator: A trained translator, or the path of a checkpoint that
                :class:`SensorTranslation` wrote. It stays as it is.
            segmenter: Reads the target sensor.
            source: Name of the sensor to translate.
            target: Name of the sensor that the segmenter reads.
        """
        super().__init__()
        if isinstance(translator, str):
            translator = SensorTranslation.load_from_checkpoint(
                translator, map_location='cpu'
            ).translator
        self.translator = translator.requires_grad_(False)
        self.segmenter = segmenter
        self.source = source
        self.target = target
        self.num_classes = segmenter.num_classes
        self.init_args = {
            'translator': describe(self.translator),
            'segmenter': describe(segmenter),
            'source': source,
            'target': target,
        }

    def decide(
        self, sensors: Mapping[str, Sequence[SensorSample]], size: tuple[int, int]
    ) -> dict[str, Decision]:
        """Decide by the segmenter; see :meth:`Segmenter.decide`.

        Raises:
            ValueError: If neither sensor is there.
        """
        if not {self.source, self.target} & sensors.keys():
            raise ValueError(f'needs {self.source} or {self.target}, the batch has {list(sensors)}')
        if self.source not in sensors:
            return self.segmenter.decide({self.target: sensors[self.target]}, size)
        view: SensorSample = self.translator(sensors[self.source])
        if self.target in sensors:
            grid = view['image'].shape[-2], view['image'].shape[-1]
            real = to_grid(sensors[self.target], grid)
            own = real.seen > 0
            view['image'] = torch.where(own, real.image, view['image'])
            view['valid'] = view['valid'] | own.all(dim=1)
        return self.segmenter.decide({self.target: [view]}, size)
