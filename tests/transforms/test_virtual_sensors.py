# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""What a virtual sensor says that it measured is what it measured."""

import pytest
import torch

from torchgeo_anysensor.models import anysensor_vit_tiny, encode
from torchgeo_anysensor.transforms import VirtualSensors
from torchgeo_anysensor.types import THERMAL_FROM_UM

EVERYTHING = {'p': 1, 'spectra': 0.7, 'merge': 0.5, 'subset': 0.3, 'coarsen': 0.7}
SPECTROMETER = torch.cat([torch.arange(0.42, 1.0, 0.015), torch.arange(1.0, 1.34, 0.025)])
SPECTROMETER = torch.cat([SPECTROMETER, torch.arange(1.45, 1.8, 0.025)])
SENTINEL2 = torch.tensor([0.833, 0.4924, 0.5598, 0.6646])
LANDSAT = torch.tensor([0.655, 0.561, 0.482, 10.9, 12.0])
WIDTHS = {
    SENTINEL2: torch.tensor([0.106, 0.066, 0.036, 0.031]),
    LANDSAT: torch.tensor([0.037, 0.057, 0.06, 0.6, 1.0]),
}


def linear(wavelength):
    """A spectrum: reflectance and kelvin, both linear in the wavelength."""
    thermal = wavelength > THERMAL_FROM_UM
    return torch.where(thermal, 280 + wavelength, 0.1 + 0.2 * wavelength)


def view(wavelength=SENTINEL2, *, spectrum=linear, size=24, res=10.0, by_sample=False):
    """Two patches of one spectrum; the second platform sees 2 nm further."""
    bandwidth = WIDTHS.get(wavelength)
    if bandwidth is None:
        bandwidth = torch.where(wavelength < 1, 0.015, 0.025)
    if by_sample:
        wavelength = torch.stack([wavelength, wavelength + 0.002])
    value = spectrum(wavelength)[..., None, None]
    return {
        'image': value.expand(2, -1, size, size).clone(),
        'valid': torch.ones(2, size, size, dtype=torch.bool),
        'wavelength': wavelength,
        'bandwidth': bandwidth,
        'gsd': torch.full(bandwidth.shape, res),
        'res': torch.tensor(res),
        't': torch.zeros(2, dtype=torch.float64),
        'dx': torch.tensor([0.0, 5.0]),
        'dy': torch.zeros(2),
    }


def draws(one, count=25, **options):
    """The same view as many virtual sensors see it."""
    transform = VirtualSensors(**(EVERYTHING | options))
    for seed in range(count):
        torch.manual_seed(seed)
        yield transform({'sensors': {'one': (one,)}})['sensors']['one'][0]


every_view = pytest.mark.parametrize(
    'wavelength', [SENTINEL2, LANDSAT, SPECTROMETER], ids=['few', 'thermal', 'spectra']
)


@every_view
@pytest.mark.parametrize('by_sample', [False, True])
def test_pixels_are_those_of_the_new_centres(wavelength, by_sample):
    """Of a spectrum that is linear in the wavelength: exact, whatever the response."""
    one = view(wavelength, by_sample=by_sample)
    for made in draws(one):
        expected = linear(made['wavelength'])[..., None, None].expand_as(made['image'])
        assert torch.allclose(made['image'], expected, rtol=1e-5)
        assert made['image'].shape[1] == made['gsd'].shape[-1] == made['bandwidth'].shape[-1]
        assert made['wavelength'].ndim == one['wavelength'].ndim


@every_view
def test_flat_spectrum_stays_flat(wavelength):
    for made in draws(view(wavelength, spectrum=lambda um: torch.full_like(um, 0.3))):
        assert torch.allclose(made['image'], torch.tensor(0.3))


@every_view
def test_facts_stay_within_what_was_measured(wavelength):
    one = view(wavelength)
    low, high = (one['wavelength'] + sign * one['bandwidth'] / 2 for sign in (-1, 1))
    for made in draws(one):
        assert (made['wavelength'] >= low.min() - 1e-5).all()
        assert (made['wavelength'] <= high.max() + 1e-5).all()
        nearest = (made['wavelength'][:, None] - wavelength).abs().argmin(1)
        assert (made['bandwidth'] >= one['bandwidth'][nearest] - 1e-5).all()
        assert (made['gsd'] >= made['res']).all()


def test_two_halves_of_a_box_give_the_box():
    one = view(torch.tensor([0.62, 0.58]))
    one['bandwidth'] = torch.tensor([0.04, 0.04])
    (made,) = draws(one, 1, merge=1, subset=0)
    assert made['wavelength'].tolist() == pytest.approx([0.6])
    assert made['bandwidth'].tolist() == pytest.approx([0.08])


@pytest.mark.parametrize(
    ('widths', 'within'), [((0.03, 0.03), 0.03), ((0.02, 0.02, 0.02), 0.03), ((0.02, 0.05), 0.085)]
)
def test_width_of_merged_bands_is_that_of_their_summed_responses(widths, within):
    """Of Gaussians side by side, summed on a fine grid."""
    width = torch.tensor(widths, dtype=torch.float64)
    centre = 0.5 + width.cumsum(0) - width / 2
    one = view(centre.float()) | {'bandwidth': width.float()}
    (made,) = draws(one, 1, merge=1, subset=0)
    um = torch.linspace(0.3, 0.9, 60_001, dtype=torch.float64)
    response = torch.exp(-(((um[:, None] - centre) * 2.355 / width) ** 2) / 2).sum(1)
    above = um[response >= response.max() / 2]
    assert float(made['bandwidth']) == pytest.approx(float(above[-1] - above[0]), rel=within)
    assert float(made['wavelength']) == pytest.approx(float((um * response).sum() / response.sum()))


def test_width_of_a_drawn_response_is_that_of_its_bands():
    """Against a spectrometer of bands of 1 nm, where the response itself is what is drawn."""
    um = torch.arange(0.4, 1.0, 0.001)
    one = view(um, spectrum=lambda um: um) | {'bandwidth': torch.full_like(um, 0.001)}
    squares = view(um, spectrum=lambda um: um**2)['image']
    one['image'] = torch.cat([one['image'], squares])
    for both in draws(one, 8, spectra=1, coarsen=0):
        mean, square = both['image'][0, :, 0, 0].double(), both['image'][2, :, 0, 0].double()
        spread = 2.355 * (square - mean**2).sqrt()
        assert torch.allclose(both['bandwidth'].double(), spread, atol=1.5e-3)
        assert 3 <= len(mean) <= 20
        assert float(both['bandwidth'].max()) <= 0.151


def test_only_neighbours_of_one_kind_merge():
    for made in draws(view(LANDSAT), merge=1, subset=0, coarsen=0):
        assert sorted(made['image'][0, :, 0, 0].gt(200).tolist()) == [False, True]
    red_and_swir = view(torch.tensor([0.65, 1.6])) | {'bandwidth': torch.tensor([0.03, 0.09])}
    for made in draws(red_and_swir, merge=1, subset=0):
        assert made['wavelength'].tolist() == pytest.approx([0.65, 1.6])


def test_no_response_reaches_over_a_gap():
    one = view(SPECTROMETER)
    one['image'][:, one['wavelength'] > 1.4] = 7
    one['image'][:, one['wavelength'] < 1.4] = 3
    for made in draws(one):
        assert torch.isin(made['image'].round(decimals=4), torch.tensor([3.0, 7.0])).all()


def test_coarser_pixels_keep_the_mean_and_the_ground():
    one = view()
    one['image'] = torch.rand_like(one['image'])
    sizes = set()
    for made in draws(one, coarsen=1, merge=0, subset=0):
        assert torch.allclose(made['image'].mean((2, 3)), one['image'].mean((2, 3)), atol=1e-6)
        assert float(made['res']) * made['image'].shape[-1] == 240
        assert (made['gsd'] == made['res']).all()
        assert torch.equal(made['dx'], one['dx'])
        sizes.add(float(made['res']))
    assert sizes == {20, 30, 40, 60}


def test_coarser_pixels_keep_a_coarser_native_sample():
    one = view() | {'gsd': torch.tensor([10.0, 10.0, 60.0, 10.0])}
    (made,) = draws(one, 1, coarsen=1, merge=0, subset=0, max_gsd_m=20)
    assert made['gsd'].tolist() == [20, 20, 60, 20]


@pytest.mark.parametrize(('size', 'res'), [(23, 10.0), (24, 40.0)])
def test_pixels_stay_where_no_factor_fits(size, res):
    one = view(size=size, res=res)
    for made in draws(one, 5, coarsen=1, merge=0, subset=0):
        assert torch.equal(made['image'], one['image'])


@every_view
@pytest.mark.parametrize('min_valid', [1.0, 0.25])
def test_nothing_of_invalid_pixels_leaks(wavelength, min_valid):
    clean = view(wavelength)
    clean['valid'] = torch.rand(2, 24, 24, generator=torch.Generator().manual_seed(0)) > 0.3
    dirty = clean | {'image': clean['image'].masked_fill(~clean['valid'][:, None], torch.nan)}
    for a, b in zip(*(draws(v, coarsen=1, min_valid=min_valid) for v in (clean, dirty))):
        assert torch.equal(a['valid'], b['valid'])
        assert torch.equal(a['image'], b['image'])
        # Holes neither darken the mean of the others nor hold anything
        expected = linear(a['wavelength'])[:, None, None] * a['valid'][:, None]
        assert torch.allclose(a['image'] * a['valid'][:, None], expected, rtol=1e-5)
        assert not a['image'][~a['valid'][:, None].expand_as(a['image'])].any()
        factor = 24 // a['valid'].shape[-1]
        share = clean['valid'].unfold(1, factor, factor).unfold(2, factor, factor)
        assert torch.equal(a['valid'], share.float().mean((-2, -1)) >= min_valid - 1e-6)


def test_encoder_takes_every_draw():
    torch.manual_seed(0)
    encoder = anysensor_vit_tiny(token_m=30, depth=1).eval()
    transform = VirtualSensors(**EVERYTHING)
    views = view(SENTINEL2), view(SPECTROMETER, by_sample=True), view(LANDSAT, size=8, res=30.0)
    for _ in range(20):
        batch = transform({'sensors': {'a': views[:2], 'b': views[2:]}})
        for some in batch['sensors'].values():
            assert [v['image'].shape[-1] for v in some] == sorted(
                (v['image'].shape[-1] for v in some), reverse=True
            )
            features = encode(encoder, some)
            assert features.grid == (8, 8)
            assert features.tokens.isfinite().all()


def test_one_band_always_stays():
    for made in draws(view(), subset=0.99):
        assert made['image'].shape[1] >= 1


def test_torch_decides_the_draw():
    one = view(SPECTROMETER)
    first, again = (list(draws(one)) for _ in range(2))
    assert all(torch.equal(a['image'], b['image']) for a, b in zip(first, again))
    assert len({a['image'].shape for a in first}) > 10


def test_of_no_probability_nothing_changes():
    one = view(SPECTROMETER)
    for options in ({'p': 0}, {'p': 1, 'spectra': 0, 'merge': 0, 'subset': 0, 'coarsen': 0}):
        for made in draws(one, 3, **options):
            assert made.keys() == one.keys()
            assert all(torch.equal(made[key], one[key]) for key in one)


def test_mask_absent_sensors_and_given_views_stay():
    one, mask = view(SPECTROMETER), torch.zeros(2, 24, 24)
    before = {key: value.clone() for key, value in one.items()}
    batch = {'sensors': {'one': (one,)}, 'mask': mask, 'present': {'one': torch.ones(3).bool()}}
    torch.manual_seed(0)
    made = VirtualSensors(**EVERYTHING)(batch)
    assert made['sensors']['one'][0]['image'].shape != one['image'].shape
    assert made['mask'] is mask
    assert made['present'] is batch['present']
    assert all(torch.equal(one[key], before[key]) for key in one)


@pytest.mark.parametrize(
    'options', [{'p': 2}, {'subset': 1}, {'merge': -1}, {'min_valid': 0}, {'max_gsd_m': 0}]
)
def test_impossible_options_are_said(options):
    (name,) = options
    with pytest.raises(ValueError, match=name):
        VirtualSensors(**options)
