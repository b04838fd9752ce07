# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""The common bands of the sensors, and Sentinel-2 made alike to Landsat."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from torchgeo_anysensor.models import Harmonised, UNetScratch, segment, to_grid
from torchgeo_anysensor.models.base import Raster
from torchgeo_anysensor.models.harmonise import COMMON_BANDS_UM, MSI_TO_OLI, as_oli, common_bands
from torchgeo_anysensor.sensors import SENSORS
from torchgeo_anysensor.simulate.classes import class_spectra
from torchgeo_anysensor.simulate.responses import PLATFORMS, band_values
from torchgeo_anysensor.simulate.spectra import WAVELENGTH_UM

MSI = ('B02', 'B03', 'B04', 'B8A', 'B11', 'B12')
CHOSEN = {
    'sentinel2_l1c': MSI,
    'sentinel2_l2a': MSI,
    'hls_s30': MSI,
    'hls_l30': ('B02', 'B03', 'B04', 'B05', 'B06', 'B07'),
    'landsat_c2l1': ('B2', 'B3', 'B4', 'B5', 'B6', 'B7'),
    'landsat_c2l2': ('SR_B2', 'SR_B3', 'SR_B4', 'SR_B5', 'SR_B6', 'SR_B7'),
}
SATELLITES = ('sentinel-2a', 'sentinel-2b', 'sentinel-2c')


def centres(sensor, platform='', bands=None):
    table = {band.name: band.center_wavelength_um for band in SENSORS[sensor].bands_of(platform)}
    return torch.tensor([table[band] for band in bands or table])


def raster(values, wavelength):
    """One pixel of each row of ``(B, C)`` values."""
    image = torch.as_tensor(values, dtype=torch.float32)[:, :, None, None]
    return Raster(
        image, torch.ones_like(image), torch.as_tensor(wavelength).expand(image.shape[:2])
    )


@pytest.mark.parametrize('sensor', SENSORS)
def test_common_bands_of_every_sensor(sensor):
    names = [band.name for band in SENSORS[sensor].bands]
    for order in (slice(None), slice(None, None, -1)):  # whatever their order
        shown = names[order]
        values = torch.arange(len(names))[None]
        found = common_bands(raster(values, centres(sensor, bands=shown))).image.flatten().int()
        assert tuple(shown[i] for i in found) == CHOSEN[sensor]


def test_band_that_is_missing_is_said():
    with pytest.raises(ValueError, match=r'no band within 3% of nir08 at 0.86467 um, the nearest'):
        common_bands(raster(torch.zeros(1, 4), centres('sentinel2_l2a', bands=(*MSI[:3], 'B08'))))


def test_table_has_the_centres_of_the_sensor_tables():
    light = torch.tensor(MSI_TO_OLI)[..., 0].T
    for satellite, found in zip(SATELLITES, light):
        assert_close(found, centres('sentinel2_l2a', satellite, MSI))
    oli = centres('landsat_c2l2', 'landsat-8', CHOSEN['landsat_c2l2'])
    assert_close(torch.tensor([*COMMON_BANDS_UM.values()]), oli)


@pytest.mark.parametrize('satellite', SATELLITES)
def test_adjustment_is_that_of_the_satellite(satellite):
    number = SATELLITES.index(satellite)
    slope, offset = torch.tensor(MSI_TO_OLI)[:, number, 1:].T
    values = torch.rand(1, 6)
    found = as_oli(raster(values, centres('sentinel2_l2a', satellite, MSI)))
    assert_close(found.image.flatten(), values[0] * slope + offset)


def test_satellites_may_differ_within_a_batch():
    light = torch.stack([centres('sentinel2_l2a', satellite, MSI) for satellite in SATELLITES])
    values = torch.rand(3, 6)
    together = as_oli(raster(values, light)).image
    alone = [as_oli(raster(values[i : i + 1], light[i])).image for i in range(3)]
    assert_close(together, torch.cat(alone))
    assert not torch.allclose(together[0] - values[0, :, None, None], torch.tensor(0.0), atol=1e-4)


def test_what_was_not_seen_stays_zero():
    one = raster(torch.zeros(1, 6), centres('sentinel2_l2a', bands=MSI))
    assert not as_oli(one._replace(seen=torch.zeros_like(one.seen))).image.any()
    assert as_oli(one).image.any()


def test_landsat_is_not_adjusted():
    with pytest.raises(ValueError, match='are not those of Sentinel-2'):
        as_oli(raster(torch.zeros(1, 6), centres('landsat_c2l2', bands=CHOSEN['landsat_c2l2'])))


@pytest.mark.parametrize(('satellite', 'code'), [('sentinel-2a', 'S2A'), ('sentinel-2b', 'S2B')])
def test_adjusted_sentinel2_is_nearer_to_landsat(satellite, code):
    """With measured responses, for spectra of land cover, most of all in the blue."""
    spectra = class_spectra(1.0)[1:].reshape(-1, WAVELENGTH_UM.size)

    def seen(sensor, platform, names, code):
        table = {band.name: band for band in SENSORS[sensor].bands_of(platform)}
        bands = tuple(table[name] for name in names)
        return band_values(spectra, bands=bands, platform=PLATFORMS[code])

    oli = seen('landsat_c2l2', 'landsat-8', CHOSEN['landsat_c2l2'], 'LC08')
    msi = seen('sentinel2_l2a', satellite, MSI, code)
    adjusted = (
        as_oli(raster(msi, centres('sentinel2_l2a', satellite, MSI))).image[..., 0, 0].numpy()
    )
    before, after = (np.abs(x - oli).mean(axis=0) for x in (msi, adjusted))
    assert after[0] < 0.7 * before[0]
    assert after.mean() < 0.9 * before.mean()
    assert (after < 0.005).all()


@pytest.fixture
def sentinel2(make_view):
    """Views on the grids of 10 and 20 m over 120 m of ground."""
    fine, coarse = make_view(4), make_view(6, size=(6, 6), res=20.0, seed=1)
    fine['wavelength'] = centres('sentinel2_l2a', bands=('B02', 'B03', 'B04', 'B08'))
    coarse['wavelength'] = centres(
        'sentinel2_l2a', bands=('B05', 'B06', 'B07', 'B8A', 'B11', 'B12')
    )
    return fine, coarse


def as_hls(views):
    """What HLS S30 would be of these views, by the table alone."""
    at_30m = to_grid(views, (4, 4)).image[:, [0, 1, 2, 7, 8, 9]]
    slope, offset = torch.tensor(MSI_TO_OLI)[:, 0, 1:, None, None].unbind(1)
    view = dict(views[0]) | {
        'image': at_30m * slope + offset,
        'valid': torch.ones(2, 4, 4, dtype=torch.bool),
        'res': torch.tensor(30.0),
    }
    for key in ('wavelength', 'bandwidth', 'gsd'):
        view[key] = torch.full((6,), 30.0)
    view['wavelength'] = centres('hls_s30', bands=MSI)
    return (view,)


@torch.no_grad()
def test_level_2a_is_seen_as_its_hls_product(sentinel2):
    torch.manual_seed(0)
    model = Harmonised(3).eval()
    own = segment(model, {'sentinel2_l2a': sentinel2}, (12, 12))
    assert own.shape == (2, 3, 12, 12)
    hls = segment(model, {'hls_s30': as_hls(sentinel2)}, (12, 12))
    assert_close(own, hls, atol=1e-4, rtol=1e-4)
    raw = segment(model, {'sentinel2_l1c': sentinel2}, (12, 12))
    assert not torch.allclose(raw, hls, atol=1e-3)


@torch.no_grad()
def test_sees_nothing_finer_than_30_m(sentinel2):
    model, fine = Harmonised(3).eval(), dict(sentinel2[0])
    fine['image'] = fine['image'].clone()
    fine['image'][:, :, ::3, ::3] += 0.3
    fine['image'][:, :, 1::3, 1::3] -= 0.3  # the mean of each 30 m stays
    maps = [
        segment(model, {'sentinel2_l2a': (v, sentinel2[1])}, (12, 12)) for v in (sentinel2[0], fine)
    ]
    assert_close(*maps, atol=1e-4, rtol=1e-4)
    scratch = UNetScratch(3).eval()
    maps = [
        segment(scratch, {'sentinel2_l2a': (v, sentinel2[1])}, (12, 12))
        for v in (sentinel2[0], fine)
    ]
    assert not torch.allclose(*maps, atol=1e-2)


@torch.no_grad()
def test_sensors_are_looked_at_one_by_one(sentinel2):
    model = Harmonised(3).eval()
    both = {'sentinel2_l2a': sentinel2, 'hls_s30': as_hls(sentinel2)}
    both['hls_s30'][0]['image'] = both['hls_s30'][0]['image'].flip(-1)
    parts = [segment(model, {n: v}, (12, 12)).softmax(1) for n, v in both.items()]
    assert_close(segment(model, both, (12, 12)).softmax(1), (parts[0] + parts[1]) / 2)


def test_patch_of_odd_size_is_said(make_view):
    with pytest.raises(ValueError, match='100 x 100 m is not a whole number of pixels of 30 m'):
        segment(Harmonised(3), {'hls_s30': (make_view(6, size=(10, 10)),)}, (10, 10))
