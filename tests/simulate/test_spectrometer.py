# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Spectra of simulated pixels are those that the other sensors see."""

import pytest
import torch

from torchgeo_anysensor.datasets import HLSS30, StackDataset
from torchgeo_anysensor.sensors import get_sensor
from torchgeo_anysensor.simulate.spectrometer import BANDS
from torchgeo_anysensor.transforms.virtual import _holds_spectra, _look


@pytest.fixture(scope='module')
def spectra(demo):
    """The pass of spring."""
    folder = demo / 'spectrometer'
    dataset = StackDataset(str(folder / 'bands.csv'), min(folder.glob('*.tif')), scale=1e-4)
    return dataset[dataset.bounds]


def test_the_table_beside_the_files_says_what_the_bands_are(demo, spectra):
    assert get_sensor(str(demo / 'spectrometer' / 'bands.csv')).bands == BANDS
    assert spectra['image'].shape == (86, 40, 40)
    assert (spectra['gsd'] == 30).all()


def test_virtual_sensors_take_them_for_spectra(spectra):
    assert _holds_spectra(_look(spectra))


def test_neighbours_are_seen_without_gaps_but_for_those_of_the_air(spectra):
    top = spectra['wavelength'] + spectra['bandwidth'] / 2
    bottom = spectra['wavelength'] - spectra['bandwidth'] / 2
    assert int((bottom[1:] > top[:-1] + 1e-4).sum()) == 2


def test_spectra_through_the_bands_of_another_sensor_are_its_pixels(demo, spectra):
    """HLS S30 on the same ground two days before, through other air."""
    other = HLSS30(demo / 'hls')
    spring = other.index.index.argmin()
    seen = other[(*other.bounds[:2], slice(*_days(other, spring)))]
    both = spectra['valid'] & seen['valid']
    assert both.float().mean() > 0.5
    for band, um in enumerate(seen['wavelength'].tolist()):
        if not 0.45 < um < 2.3 or 1.3 < um < 1.5:
            continue
        response = torch.exp(
            -(((spectra['wavelength'] - um) * 2.355 / seen['bandwidth'][band]) ** 2) / 2
        )
        weight = response * spectra['bandwidth'] / (response * spectra['bandwidth']).sum()
        through = torch.einsum('c,chw->hw', weight, spectra['image'])[both]
        assert torch.corrcoef(torch.stack([through, seen['image'][band][both]]))[0, 1] > 0.9
        assert float(through.mean()) == pytest.approx(
            float(seen['image'][band][both].mean()), abs=0.02
        )


def _days(dataset, row):
    """First and last moment of an acquisition."""
    interval = dataset.index.index[row]
    return interval.left, interval.right
