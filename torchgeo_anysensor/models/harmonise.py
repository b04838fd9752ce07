# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Sensors made alike: the six bands that they share, on one grid, with the band pass of one.

Letters as in :mod:`torchgeo_anysensor.types`.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..types import SensorSample
from .base import Decision, Raster, Segmenter, to_grid
from .fusion import NetworkBuilder, UNet, described, network_input

#: Centre wavelengths of the common bands in um, as Landsat 8 OLI has them (Barsi et al. 2014,
#: doi:10.3390/rs61010232). The near infrared is the narrow one: B8A of Sentinel-2, not B08.
COMMON_BANDS_UM = {
    'blue': 0.48204,
    'green': 0.56141,
    'red': 0.65459,
    'nir08': 0.86467,
    'swir16': 1.60886,
    'swir22': 2.20073,
}
#: How far the centre of a band may lie from that of OLI, as a share of it. B02 of Sentinel-2A is
#: 2.2 % off, B08 3.7 %.
_BAND_TOLERANCE = 0.03

#: For each common band on Sentinel-2A, 2B and 2C: centre wavelength in um (as in
#: :mod:`torchgeo_anysensor.sensors`), and slope and offset of what makes OLI reflectance of it.
#: Slopes and offsets are those that produce HLS v2.0: 2A and 2B at
#: https://hls.gsfc.nasa.gov/algorithms/bandpass-adjustment/ and, with 2C, in the files
#: hls_libs/L8like/bandpass_parameter.S2[ABC].txt of https://github.com/NASA-IMPACT/hls-sentinel.
#: They were fitted to 500 Hyperion spectra (Claverie et al. 2018, doi:10.1016/j.rse.2018.09.002).
MSI_TO_OLI = (
    ((0.4927, 0.9778, -0.0040), (0.4923, 0.9778, -0.0040), (0.4890, 0.9851, -0.0027)),
    ((0.5598, 1.0053, -0.0009), (0.5590, 1.0075, -0.0008), (0.5606, 1.0038, -0.0009)),
    ((0.6646, 0.9765, 0.0009), (0.6650, 0.9761, 0.0010), (0.6665, 0.9718, 0.0011)),
    ((0.8647, 0.9983, -0.0001), (0.8640, 0.9966, 0.0000), (0.8656, 0.9995, -0.0003)),
    ((1.6137, 0.9987, -0.0011), (1.6104, 1.0000, -0.0003), (1.6120, 0.9994, -0.0007)),
    ((2.2024, 1.0030, -0.0012), (2.1857, 0.9867, 0.0004), (2.1913, 0.9910, 0.0004)),
)
#: A view is of Sentinel-2 if no centre is farther than this share from a platform's.
_PLATFORM_TOLERANCE = 0.01


def common_bands(raster: Raster) -> Raster:
    """Choose the six common bands of a sensor by their wavelengths.

    Args:
        raster: All bands of a sensor.

    Returns:
        The bands nearest to :data:`COMMON_BANDS_UM`, in that order.

    Raises:
        ValueError: If the sensor lacks one.
    """
    centres = raster.wavelength.double().mean(dim=0).tolist()  # platforms differ by less than 1 %
    chosen = []
    for name, target in COMMON_BANDS_UM.items():
        nearest = min(range(len(centres)), key=lambda c: abs(centres[c] - target))
        if abs(centres[nearest] - target) > _BAND_TOLERANCE * target:
            raise ValueError(
                f'no band within {_BAND_TOLERANCE:.0%} of {name} at {target:g} um, '
                f'the nearest is at {centres[nearest]:g} um; the model needs {[*COMMON_BANDS_UM]}'
            )
        chosen.append(nearest)
    return Raster(*(part[:, chosen] for part in raster))


def as_oli(raster: Raster) -> Raster:
    """Make of Sentinel-2 reflectance what Landsat 8 OLI would have measured, as HLS does.

    Args:
        raster: Common bands of Sentinel-2; each row's wavelengths tell which satellite it was.

    Returns:
        The common bands, adjusted by :data:`MSI_TO_OLI`.

    Raises:
        ValueError: If the wavelengths are of no Sentinel-2.
    """
    table = torch.tensor(MSI_TO_OLI, device=raster.image.device)  # (6, platforms, 3)
    centres = table[..., 0].T  # (platforms, 6)
    away = (raster.wavelength[:, None] / centres - 1).abs().amax(dim=-1)  # (B, platforms)
    nearest = away.min(dim=-1)
    if bool((nearest.values > _PLATFORM_TOLERANCE).any()):
        raise ValueError(
            f'bands at {raster.wavelength[0].tolist()} um are not those of Sentinel-2; '
            'adjust names the sensors that are'
        )
    slope, offset = table[:, nearest.indices, 1:].permute(2, 1, 0)[..., None, None]
    image = raster.image * slope + offset
    return raster._replace(image=torch.where(raster.seen > 0, image, 0.0))


class UNetScratch(Segmenter):
    """One network for the common bands of any sensor, on the grid of the map.

    Each sensor is looked at by itself; the probabilities of several are averaged.
    """

    def __init__(self, num_classes: int, *, network: NetworkBuilder = UNet) -> None:
        """Make the model.

        Args:
            num_classes: Number of classes.
            network: Makes the network.
        """
        super().__init__()
        self.num_classes = num_classes
        self.network = network(len(COMMON_BANDS_UM) + 1, num_classes)
        self.init_args = {'num_classes': num_classes, 'network': described(self.network)}

    def bands(self, name: str, views: Sequence[SensorSample], size: tuple[int, int]) -> Raster:
        """Make the bands that the network sees.

        Args:
            name: The sensor.
            views: Its batched views.
            size: Rows and columns of the map.
        """
        return common_bands(to_grid(views, size))

    def decide(
        self, sensors: Mapping[str, Sequence[SensorSample]], size: tuple[int, int]
    ) -> dict[str, Decision]:
        """Decide for each sensor; see :meth:`Segmenter.decide`."""
        found = {}
        for name, views in sensors.items():
            x = network_input(self.bands(name, views, size))
            logits: Tensor = self.network(x)
            seen = x[:, -1:]
            if logits.shape[-2:] != size:
                logits = F.interpolate(logits, size, mode='bilinear', align_corners=False)
                seen = F.interpolate(seen, size, mode='nearest')
            found[name] = Decision(logits, seen[:, 0] > 0)
        return found


class Harmonised(UNetScratch):
    """One network for all sensors, on what HLS would make of them.

    The six common bands, averaged by area to 30 m, those of Sentinel-2 adjusted to the band passes
    of Landsat 8. What HLS does besides (another atmospheric correction, nadir view) is left as it
    is in the product.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        adjust: Sequence[str] = ('sentinel2_l2a',),
        res: float = 30.0,
        network: NetworkBuilder = UNet,
    ) -> None:
        """Make the model.

        Args:
            num_classes: Number of classes.
            adjust: Names of the sensors whose reflectance is still that of Sentinel-2. HLS S30 must
                not be one of them: it is adjusted already.
            res: Pixel size in metres.
            network: Makes the network.
        """
        super().__init__(num_classes, network=network)
        self.adjust = tuple(adjust)
        self.res = res
        self.init_args |= {'adjust': list(adjust), 'res': res}

    def bands(self, name: str, views: Sequence[SensorSample], size: tuple[int, int]) -> Raster:
        """Make the bands that the network sees; see :meth:`UNetScratch.bands`.

        Raises:
            ValueError: If the patch is not a whole number of pixels.
        """
        height, width = (n * float(views[0]['res']) for n in views[0]['image'].shape[-2:])
        rows, cols = round(height / self.res), round(width / self.res)
        if abs(rows * self.res - height) > 1e-3 or abs(cols * self.res - width) > 1e-3:
            raise ValueError(
                f'the patch of {height:g} x {width:g} m is not a whole number of pixels of '
                f'{self.res:g} m'
            )
        raster = common_bands(to_grid(views, (rows, cols)))
        return as_oli(raster) if name in self.adjust else raster
