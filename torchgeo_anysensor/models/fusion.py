# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""The usual ways to combine sensors: their bands, their features, or their decisions.

Letters as in :mod:`torchgeo_anysensor.types`, and ``S`` sensors, ``F`` features of a pixel.

None of these models knows what its bands are: each is made for sensors with a number of bands, in
one order. All bands come to the pixels of the map (:func:`~.base.to_grid`), and each sensor brings one
more channel that says how much of its pixel was valid.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..types import SensorSample
from .base import Decision, Raster, Segmenter, to_grid
from .description import describe
from .spectral import standardise

#: Makes a network ``(B, in, H, W) -> (B, out, H, W)`` when the channels are known. A network with
#: options keeps them in ``init_args``, so that a checkpoint can name it.
NetworkBuilder = Callable[[int, int], nn.Module]

#: Channels of a group of GroupNorm, as in Wu & He 2018 (https://arxiv.org/abs/1803.08494).
_GROUP = 16


def network_input(raster: Raster) -> Tensor:
    """Make channels without unit, and one for the share of the pixel that was seen.

    Args:
        raster: Of one sensor.

    Returns:
        ``(B, C + 1, H, W)``, 0 where nothing was seen.
    """
    image = standardise(raster.image, raster.wavelength) * (raster.seen > 0)
    return torch.cat([image, raster.seen.mean(dim=1, keepdim=True)], dim=1)


def sensor_inputs(
    sensors: Mapping[str, Sequence[SensorSample]], size: tuple[int, int], bands: Mapping[str, int]
) -> dict[str, Tensor]:
    """Make the channels of each sensor.

    Args:
        sensors: Batched views by sensor.
        size: Rows and columns of the grid.
        bands: Number of bands that a model was made for, by sensor.

    Returns:
        ``(B, C + 1, H, W)`` for each sensor of *bands*, in its order; zeros if it is not there.

    Raises:
        ValueError: If a sensor has other bands, or none were declared.
    """
    if unknown := [name for name in sensors if name not in bands]:
        raise ValueError(
            f'the model was made for {list(bands)}, the batch has {unknown} too; declare its number '
            'of bands, or choose sensors by train_sensors and test_sensors'
        )
    first = next(iter(sensors.values()))[0]['image']
    inputs = {}
    for name, count in bands.items():
        if name not in sensors:
            inputs[name] = first.new_zeros(len(first), count + 1, *size, dtype=torch.float32)
            continue
        raster = to_grid(sensors[name], size)
        if raster.image.shape[1] != count:
            raise ValueError(
                f'{name}: the model was made for {count} bands, '
                f'the batch has {raster.image.shape[1]}'
            )
        inputs[name] = network_input(raster)
    return inputs


def drop_sensors(inputs: dict[str, Tensor], p: float) -> dict[str, Tensor]:
    """Hide sensors from single samples, so that a model learns to do without.

    Input sensor dropout, as in Mena et al. 2024 (https://arxiv.org/abs/2407.15512).

    Args:
        inputs: Of :func:`sensor_inputs`.
        p: Probability that a sensor is hidden from a sample; one that saw it always stays.

    Returns:
        The same with zeros where hidden.
    """
    saw = torch.stack([(x[:, -1] > 0).flatten(1).any(dim=1) for x in inputs.values()])  # (S, B)
    draw = torch.where(saw, torch.rand(saw.shape, device=saw.device), -1.0)
    keep = (draw >= p) | (draw == draw.amax(dim=0))
    return {name: x * k[:, None, None, None] for (name, x), k in zip(inputs.items(), keep)}


def described(module: nn.Module) -> Any:
    """Describe what made a module; one without ``init_args`` is described by its class."""
    return describe(module if hasattr(module, 'init_args') else type(module))


class UNet(nn.Module):
    """The U-Net of segmentation-models-pytorch on a ResNet, for images of few pixels.

    The stem keeps the pixels, instead of halving them: at 10 m a class may be one pixel wide, and
    the first skip connection then brings single pixels to the last layer. All normalisation is
    GroupNorm, so that a sample never depends on the others of its batch, which BatchNorm cannot
    say with rows that a sensor did not see, sensor dropout, and few small patches.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        encoder_name: str = 'resnet18',
        decoder_channels: Sequence[int] = (128, 64, 64, 64),
    ) -> None:
        """Make the network, with random weights.

        Args:
            in_channels: Channels of the image.
            out_channels: Channels of the result.
            encoder_name: A ResNet of segmentation-models-pytorch.
            decoder_channels: Channels of the decoder's blocks, at 1/4, 1/2 and twice at the full
                resolution; with one more, the encoder goes down to 1/16.

        Raises:
            ValueError: If the encoder is no ResNet.
        """
        super().__init__()
        self.init_args = {'encoder_name': encoder_name, 'decoder_channels': list(decoder_channels)}
        depth = len(decoder_channels)
        self.stride = 2 ** (depth - 1)
        self.unet = smp.Unet(
            encoder_name,
            encoder_depth=depth,
            encoder_weights=None,
            decoder_channels=decoder_channels,
            in_channels=in_channels,
            classes=out_channels,
        )
        if not hasattr(self.unet.encoder, 'conv1'):
            raise ValueError(f'encoder_name={encoder_name!r} is no ResNet: resnet18, resnet34, ...')
        self.unet.encoder.conv1.stride = (1, 1)
        for unused in range(depth, 5):
            setattr(self.unet.encoder, f'layer{unused}', nn.Identity())
        self.unet.requires_divisible_input_shape = False  # it counts the stride of the stem
        _use_group_norm(self.unet)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, in, H, W)`` to ``(B, out, H, W)``; the edge is repeated to fit the stride."""
        height, width = x.shape[-2:]
        x = F.pad(x, (0, -width % self.stride, 0, -height % self.stride), mode='replicate')
        y: Tensor = self.unet(x)
        return y[..., :height, :width]


def _use_group_norm(module: nn.Module) -> None:
    """Replace each BatchNorm."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            count = child.num_features
            setattr(module, name, nn.GroupNorm(max(1, count // _GROUP), count))
        else:
            _use_group_norm(child)


class SensorFusion(Segmenter):
    """Base of the models that are made for sensors with a number of bands each."""

    def __init__(
        self, bands: dict[str, int], num_classes: int, *, sensor_dropout: float = 0.0
    ) -> None:
        """Make the model.

        Args:
            bands: Number of bands of each sensor, over all its grids.
            num_classes: Number of classes.
            sensor_dropout: Probability that a sensor is hidden from a sample in training.
        """
        super().__init__()
        self.bands = dict(bands)
        self.num_classes = num_classes
        self.sensor_dropout = sensor_dropout
        self.init_args = {'bands': self.bands, 'num_classes': num_classes}

    def inputs(
        self, sensors: Mapping[str, Sequence[SensorSample]], size: tuple[int, int]
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Make the channels of each sensor, and find what was seen of each pixel.

        Args:
            sensors: Batched views by sensor.
            size: Rows and columns of the map.

        Returns:
            ``(B, C + 1, H, W)`` for each sensor of the model, and ``(B, S, H, W)`` bool.
        """
        inputs = sensor_inputs(sensors, size, self.bands)
        if self.training:
            inputs = drop_sensors(inputs, self.sensor_dropout)
        return inputs, torch.stack([x[:, -1] > 0 for x in inputs.values()], dim=1)


class EarlyFusion(SensorFusion):
    """All bands of all sensors on one grid, and one network."""

    def __init__(
        self,
        bands: dict[str, int],
        num_classes: int,
        *,
        network: NetworkBuilder = UNet,
        sensor_dropout: float = 0.3,
    ) -> None:
        """Make the model.

        Args:
            bands: Number of bands of each sensor, over all its grids.
            num_classes: Number of classes.
            network: Makes the network.
            sensor_dropout: Probability that a sensor is hidden from a sample in training.
        """
        super().__init__(bands, num_classes, sensor_dropout=sensor_dropout)
        self.network = network(sum(bands.values()) + len(bands), num_classes)
        self.init_args |= {'network': described(self.network), 'sensor_dropout': sensor_dropout}

    def decide(
        self, sensors: Mapping[str, Sequence[SensorSample]], size: tuple[int, int]
    ) -> dict[str, Decision]:
        """Decide for all together; see :meth:`Segmenter.decide`."""
        inputs, seen = self.inputs(sensors, size)
        logits = self.network(torch.cat(list(inputs.values()), dim=1))
        return {'all': Decision(logits, seen.any(dim=1))}


class Concatenate(nn.Module):
    """Join the features of sensors side by side; a sensor that saw nothing of a sample gives 0."""

    def __init__(self, num_sensors: int, features: int) -> None:
        """Make the layer.

        Args:
            num_sensors: Number ``S`` of sensors.
            features: Number ``F`` of features of each, and of the result.
        """
        super().__init__()
        self.mix = nn.Sequential(nn.Conv2d(num_sensors * features, features, 1), nn.GELU())

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        """Join ``(B, S, F, H, W)``, with ``seen`` ``(B, S, H, W)`` bool, to ``(B, F, H, W)``."""
        saw = seen.flatten(2).any(dim=2)[:, :, None, None, None]
        joined: Tensor = self.mix((x * saw).flatten(1, 2))
        return joined


class Attend(nn.Module):
    """Average the features of the sensors that saw a pixel, by weights that the features decide.

    Attention pooling (Ilse et al. 2018, https://arxiv.org/abs/1802.04712) over the sensors of each
    pixel, with several heads.
    """

    def __init__(self, num_sensors: int, features: int, *, heads: int = 4) -> None:
        """Make the layer.

        Args:
            num_sensors: Number ``S`` of sensors.
            features: Number ``F`` of features of each, and of the result; a multiple of *heads*.
            heads: Number of averages, each of its part of the features.
        """
        super().__init__()
        self.init_args = {'heads': heads}
        self.sensor = nn.Parameter(0.02 * torch.randn(num_sensors, features, 1, 1))
        self.score = nn.Sequential(
            nn.Conv2d(features, features, 1), nn.Tanh(), nn.Conv2d(features, heads, 1)
        )
        self.value = nn.Conv2d(features, features, 1)

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        """Average ``(B, S, F, H, W)`` where ``seen`` ``(B, S, H, W)`` bool to ``(B, F, H, W)``."""
        count = x.shape[1]
        x = (x + self.sensor).flatten(0, 1)
        scores = rearrange(self.score(x), '(b s) n h w -> b s n 1 h w', s=count)
        values = rearrange(
            self.value(x), '(b s) (n f) h w -> b s n f h w', s=count, n=scores.shape[2]
        )
        candidates = (seen | ~seen.any(dim=1, keepdim=True))[:, :, None, None]
        weights = scores.float().masked_fill(~candidates, -torch.inf).softmax(dim=1)
        return F.gelu((weights * values).sum(dim=1).flatten(1, 2))


class LateFusion(SensorFusion):
    """A feature extractor for each sensor, whose features are joined before the classifier."""

    def __init__(
        self,
        bands: dict[str, int],
        num_classes: int,
        *,
        network: NetworkBuilder = UNet,
        fuse: NetworkBuilder = Concatenate,
        features: int = 64,
        sensor_dropout: float = 0.3,
    ) -> None:
        """Make the model.

        Args:
            bands: Number of bands of each sensor, over all its grids.
            num_classes: Number of classes.
            network: Makes the extractor of a sensor.
            fuse: Called with the number of sensors and of features; makes a module that joins the
                features ``(B, S, F, H, W)``, given what was ``seen``: :class:`Concatenate` or
                :class:`Attend`.
            features: Features of a pixel.
            sensor_dropout: Probability that a sensor is hidden from a sample in training.
        """
        super().__init__(bands, num_classes, sensor_dropout=sensor_dropout)
        self.extractors = nn.ModuleDict({n: network(c + 1, features) for n, c in bands.items()})
        self.fuse = fuse(len(bands), features)
        self.classify = nn.Conv2d(features, num_classes, kernel_size=1)
        self.init_args |= {
            'network': described(next(iter(self.extractors.values()))),
            'fuse': described(self.fuse),
            'features': features,
            'sensor_dropout': sensor_dropout,
        }

    def decide(
        self, sensors: Mapping[str, Sequence[SensorSample]], size: tuple[int, int]
    ) -> dict[str, Decision]:
        """Decide for all together; see :meth:`Segmenter.decide`."""
        inputs, seen = self.inputs(sensors, size)
        features = torch.stack([self.extractors[n](x) for n, x in inputs.items()], dim=1)
        return {'all': Decision(self.classify(self.fuse(features, seen)), seen.any(dim=1))}


class DecisionFusion(SensorFusion):
    """A whole model for each sensor, trained by itself; their probabilities are averaged."""

    def __init__(
        self,
        bands: dict[str, int],
        num_classes: int,
        *,
        network: NetworkBuilder = UNet,
        weights: dict[str, float] | None = None,
    ) -> None:
        """Make the models.

        Args:
            bands: Number of bands of each sensor, over all its grids.
            num_classes: Number of classes.
            network: Makes the network of a sensor.
            weights: What a sensor counts in the mean, for example its own accuracy on validation;
                1 if not said.

        Raises:
            ValueError: If a weight is not positive.
        """
        super().__init__(bands, num_classes)
        self.weights = dict(weights or {})
        if any(not weight > 0 for weight in self.weights.values()):
            raise ValueError(f'weights must be positive, got {weights}')
        self.networks = nn.ModuleDict({n: network(c + 1, num_classes) for n, c in bands.items()})
        self.init_args |= {
            'network': described(next(iter(self.networks.values()))),
            'weights': self.weights,
        }

    def decide(
        self, sensors: Mapping[str, Sequence[SensorSample]], size: tuple[int, int]
    ) -> dict[str, Decision]:
        """Decide for each sensor that is there; see :meth:`Segmenter.decide`."""
        inputs, _ = self.inputs(sensors, size)
        return {n: Decision(self.networks[n](inputs[n]), inputs[n][:, -1] > 0) for n in sensors}
