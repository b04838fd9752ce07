# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""The spectrum at wavelengths that are always the same."""

import pytest
import torch
from torch.testing import assert_close

from torchgeo_anysensor.models import anysensor_vit_tiny, encode
from torchgeo_anysensor.models.interpolation import (
    ANCHORS_UM,
    SpectralJoin,
    interpolate,
    interpolation_weights,
)

ANCHORS = torch.tensor(ANCHORS_UM)
REFLECTIVE = ANCHORS < 3
# Centres and widths in micrometres
SENTINEL2 = torch.tensor([0.49, 0.56, 0.665, 0.704, 0.74, 0.783, 0.833, 0.865, 1.61, 2.2])
LANDSAT = torch.tensor([0.443, 0.482, 0.561, 0.655, 0.865, 1.609, 2.2])
WIDTH = 0.04


def see(spectrum, wavelength, seen=None):
    """A spectrum of the wavelength, through bands, at the anchors."""
    seen = torch.ones(1, 1, len(wavelength), dtype=torch.bool) if seen is None else seen
    x = torch.where(seen, spectrum(wavelength), 0.0)[..., None]
    return interpolate(x, seen, wavelength)[0, 0, :, 0]


def test_a_band_at_an_anchor_counts_alone():
    wavelength = torch.tensor([0.80, 0.846, 0.90, 1.05])
    weights = interpolation_weights(wavelength, torch.ones(1, 1, 4, dtype=torch.bool))
    row = weights[0, 0, ANCHORS_UM.index(0.846)]
    assert_close(row, torch.tensor([0.0, 1.0, 0.0, 0.0]), atol=1e-3, rtol=0)


def test_between_bands_the_spectrum_is_straight_and_beyond_them_flat():
    bands = torch.tensor([0.45, 0.60, 0.66])
    found = see(torch.log, bands)
    inside = (ANCHORS > 0.46) & (ANCHORS < 0.65)
    assert int(inside.sum()) == 3
    assert_close(found[inside], ANCHORS[inside].log(), atol=0.01, rtol=0)
    beyond = (ANCHORS > 0.7) & REFLECTIVE
    assert_close(found[beyond], bands[-1].log().expand(int(beyond.sum())), atol=0.05, rtol=0)


def test_many_bands_are_averaged():
    """Noise of an imaging spectrometer is less in its spectrum than in its bands."""
    bands = torch.arange(0.42, 1.2, 0.004)
    noise = torch.randn(len(bands), generator=torch.Generator().manual_seed(0))
    found = see(lambda x: noise, bands)[ANCHORS < 1.1]
    assert found.std() < 0.6 * noise.std()


def test_two_bands_of_one_wavelength_count_alike():
    twice = torch.tensor([0.49, 0.56, 0.56, 0.665])
    weights = interpolation_weights(twice, torch.ones(1, 1, 4, dtype=torch.bool))
    assert_close(weights[..., 1], weights[..., 2])


@pytest.mark.parametrize('bands', [SENTINEL2, LANDSAT, torch.linspace(0.42, 1.2, 200)])
def test_a_flat_spectrum_is_flat_through_any_bands(bands):
    found = see(lambda x: torch.full_like(x, 0.3), bands)
    assert_close(found[REFLECTIVE], torch.full((int(REFLECTIVE.sum()),), 0.3))
    assert not found[~REFLECTIVE].any()  # nothing is known of the temperature


def test_two_sensors_show_about_the_same_of_a_smooth_spectrum():
    def slope(x):
        return torch.log(x / 0.44)

    one, other = (see(slope, bands)[REFLECTIVE] for bands in (SENTINEL2, LANDSAT))
    assert (one - other).abs().max() < 0.08  # of 1.6


def leaf(x):
    """Dark, bright beyond the red edge, darker beyond each absorption by water."""
    jumps = ((0.715, 0.012, 0.4), (1.4, 0.03, -0.15), (1.9, 0.03, -0.12))
    parts = (size * torch.sigmoid((x - centre) / width) for centre, width, size in jumps)
    return 0.05 + 0.02 * torch.log(x / 0.4) + sum(parts)


@pytest.mark.parametrize('without', [[], [3, 4, 5], [3, 4, 5, 6]])
def test_sensors_with_other_bands_show_the_same_of_a_leaf(without):
    """Between red and near infrared one sensor has bands, another none, a third a broad one."""
    bands = [n for n in range(len(SENTINEL2)) if n not in without]
    one, other = (see(leaf, bands)[REFLECTIVE] for bands in (SENTINEL2[bands], LANDSAT))
    assert (one - other).abs().max() < 0.03
    assert (one - leaf(ANCHORS[REFLECTIVE])).abs().max() < 0.06


def test_temperature_and_opaque_bands_stay_out_of_the_reflectance():
    mixed = torch.cat([LANDSAT, torch.tensor([1.375, 10.9])])
    found = see(lambda x: torch.where(x < 3, torch.where(x == 1.375, 9.0, 0.3), 5.0), mixed)
    assert_close(found[REFLECTIVE], torch.full((int(REFLECTIVE.sum()),), 0.3))
    assert_close(found[~REFLECTIVE], torch.full((2,), 5.0))


def test_what_was_not_seen_counts_as_not_there():
    seen = torch.ones(1, 1, len(SENTINEL2), dtype=torch.bool)
    seen[..., 3:6] = False
    rest = torch.cat([SENTINEL2[:3], SENTINEL2[6:]])
    assert_close(see(torch.sin, SENTINEL2, seen=seen), see(torch.sin, rest))


def test_wavelengths_may_differ_by_sample():
    join = SpectralJoin(8, out_dim=6, plain_dim=8, latents=2, depth=1, heads=2)
    torch.nn.init.normal_(join.attention.mix[-1].weight)
    x, seen = torch.randn(2, 3, 5, 8), torch.ones(2, 3, 5, dtype=torch.bool)
    wave = torch.stack([SENTINEL2[:5], LANDSAT[:5]])
    both = join(x, x, seen, wave)
    each = [join(x[i : i + 1], x[i : i + 1], seen[i : i + 1], wave[i]) for i in range(2)]
    assert_close(both, torch.cat(each))


def test_bands_of_several_views_are_one_spectrum(make_view):
    """As if one view had them all."""
    torch.manual_seed(0)
    encoder = anysensor_vit_tiny(token_m=60, depth=1, detail_dim=8).eval()
    whole = make_view(bands=6) | {'wavelength': SENTINEL2[[0, 1, 2, 4, 7, 8]]}
    bands = ('wavelength', 'bandwidth', 'gsd')
    parts = [
        whole | {k: whole[k][n] for k in bands} | {'image': whole['image'][:, n]}
        for n in ([0, 1, 2], [3, 4, 5])
    ]
    with torch.no_grad():
        one, two = (encode(encoder, views, detail_m=20) for views in (whole, parts))
    assert_close(one.tokens, two.tokens, atol=1e-5, rtol=0)
    assert_close(one.detail, two.detail, atol=1e-5, rtol=0)


def test_before_training_sensors_speak_the_same_language(make_view):
    torch.manual_seed(0)
    encoder = anysensor_vit_tiny(token_m=60, depth=1).eval()
    ground = make_view(bands=1)['image']

    def tokens(bands, told):
        image = 0.2 + 0.3 * (ground - 0.2) * torch.log(bands / 0.3)[:, None, None]
        facts = {'wavelength': told, 'bandwidth': torch.full_like(bands, WIDTH)}
        facts |= {'image': image, 'gsd': torch.full_like(bands, 10.0)}
        return encode(encoder, make_view(bands=len(bands)) | facts).tokens

    with torch.no_grad():
        one, other = tokens(SENTINEL2, SENTINEL2), tokens(LANDSAT, LANDSAT)
        wrong = tokens(LANDSAT, LANDSAT.flip(0))
    spread = (one - one.mean(dim=(0, 1))).square().mean()
    assert (other - one).square().mean() < 0.1 * spread
    assert (wrong - one).square().mean() > spread
