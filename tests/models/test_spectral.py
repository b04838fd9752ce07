# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from torchgeo_anysensor.models.codes import (
    BandCode,
    FourierBandCode,
    NanometreBandCode,
    PointBandCode,
    wavelength_features,
)
from torchgeo_anysensor.models.spectral import SpatialBasis, SpectralAttention, standardise


def repeat(x: torch.Tensor, k: int) -> torch.Tensor:
    return x.repeat_interleave(k, dim=-2).repeat_interleave(k, dim=-1)


def similarity(a: tuple[float, float], b: tuple[float, float]) -> float:
    """Cosine of the features of two bands, given as (wavelength, FWHM) in nm."""
    x, y = (wavelength_features(*(torch.tensor(v / 1000) for v in band)) for band in (a, b))
    return float(torch.cosine_similarity(x, y, dim=-1))


def test_standardise_maps_each_kind_by_its_unit():
    image = torch.tensor([0.2, 0.4, 290.0, 310.0]).reshape(1, 4, 1, 1)
    out = standardise(image, torch.tensor([0.49, 2.2, 10.9, 12.0]))
    assert_close(out.flatten(), torch.tensor([0.0, 1.0, 0.0, 1.0]))


@pytest.mark.parametrize(
    ('a', 'b', 'expected'),
    [
        # Central wavelengths and widths of Sentinel-2A MSI and Landsat 8 OLI
        ((664.6, 31), (654.6, 37.5), 0.98),  # red of both
        ((492.4, 66), (482.0, 60), 0.99),  # blue of both
        ((832.8, 106), (864.7, 21), 0.90),  # B08 and the narrow B8A
        ((492.4, 66), (559.8, 36), 0.58),  # blue and green
    ],
)
def test_features_of_near_bands_are_similar(a, b, expected):
    assert similarity(a, b) == pytest.approx(expected, abs=0.01)


def test_similarity_decays_with_distance_in_log_wavelength():
    steps = [
        similarity((600, 30), (600 * math.exp(d), 30 * math.exp(d)))
        for d in torch.linspace(0, 0.2, 12).tolist()
    ]
    assert steps[0] == pytest.approx(1)
    assert all(a > b for a, b in itertools.pairwise(steps))


def test_wavelength_features_are_the_mean_over_the_response():
    # A Gaussian response in ln(wavelength), summed slowly
    wavelength, fwhm = 0.85, 0.1
    sigma = fwhm / (2.355 * wavelength)
    z = torch.linspace(-6, 6, 4001, dtype=torch.float64)
    weight = torch.exp(-(z**2) / 2)
    waves = wavelength * torch.exp(sigma * z)
    narrow = wavelength_features(waves, torch.zeros_like(waves)).double()
    expected = (narrow * weight[:, None]).sum(0) / weight.sum()
    actual = wavelength_features(torch.tensor(wavelength), torch.tensor(fwhm))
    assert_close(actual.double(), expected, atol=1e-5, rtol=0)


def test_code_shapes_and_kind():
    code = BandCode(32)
    facts = torch.tensor([0.5, 10.9]), torch.tensor([0.05, 0.6]), torch.tensor([10.0, 30.0])
    one = code(*facts)
    assert one.shape == (2, 32)
    assert_close(code(*(x.expand(3, 2) for x in facts)), one.expand(3, 2, 32))
    one[0].square().sum().backward()
    assert code.kind.weight.grad[0].any()
    assert not code.kind.weight.grad[1].any()


@pytest.mark.parametrize(('p', 'k'), [(1, 6), (2, 3), (3, 4), (5, 7), (16, 2)])
def test_fine_weights_sum_to_coarse_weights(p, k):
    basis = SpatialBasis(8)
    fine = basis.weights(p * k).unflatten(-1, (p, k)).unflatten(-3, (p, k)).sum(dim=(-3, -1))
    assert_close(fine, basis.weights(p), atol=1e-5, rtol=0)


@pytest.mark.parametrize(('p', 'k'), [(1, 16), (2, 3), (4, 4), (6, 5)])
def test_upsampling_changes_no_projection(p, k):
    basis, x, valid = SpatialBasis(8), torch.rand(2, 3, 5, p, p), torch.rand(2, 3, p, p) < 0.7
    x = torch.where(valid[:, :, None], x, 0)
    assert basis(x, valid).shape == (2, 3, 5, 8)
    assert_close(basis(repeat(x, k), repeat(valid, k)), basis(x, valid), atol=1e-5, rtol=0)


def test_a_hole_counts_as_the_mean_of_its_cell_and_band():
    basis, x, valid = SpatialBasis(8), torch.rand(2, 3, 5, 4, 4), torch.rand(2, 3, 4, 4) < 0.7
    valid[1, 2] = False
    filled = x.clone()
    for b, n, c in itertools.product(range(2), range(3), range(5)):
        good = valid[b, n]
        filled[b, n, c][~good] = x[b, n, c][good].mean() if good.any() else 0.0
    expected = F.linear(filled.flatten(-2), basis.weights(4).flatten(-2))
    actual = basis(torch.where(valid[:, :, None], x, 0), valid)
    assert_close(actual, expected, atol=1e-5, rtol=0)


def test_a_whole_cell_is_the_same_beside_one_with_holes():
    basis, x, valid = SpatialBasis(8), torch.rand(2, 3, 5, 4, 4), torch.ones(2, 3, 4, 4).bool()
    whole = basis(x, valid)
    valid[1, 2, 0, 0] = False
    x[1, 2, :, 0, 0] = 0
    mixed = basis(x, valid)
    assert_close(mixed[0], whole[0])
    assert_close(mixed[1, :2], whole[1, :2])
    assert (mixed[1, 2] - whole[1, 2]).abs().min() > 1e-6


def test_kernels_match_numerical_integration():
    basis = SpatialBasis(2, order=5)
    u = (torch.arange(600, dtype=torch.float64) + 0.5) / 600
    cos = torch.cos(math.pi * torch.arange(5)[:, None] * u)  # (order, 600)
    kernel = 5 * torch.einsum('dab,ai,bj->dij', basis.coef.double(), cos, cos) / 600**2
    expected = kernel.unflatten(-1, (3, 200)).unflatten(-3, (3, 200)).sum(dim=(-3, -1))
    assert_close(basis.weights(3).double(), expected, atol=1e-5, rtol=0)


def test_weights_are_float32_under_autocast():
    basis = SpatialBasis(8)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        inside = basis.weights(6)
    assert torch.equal(inside, basis.weights(6))


@pytest.mark.parametrize('p', [1, 2, 6, 16, 40])
def test_projections_have_sane_scale(p):
    torch.manual_seed(0)
    basis = SpatialBasis(256)
    whole = torch.ones(1, 64, p, p, dtype=torch.bool)
    flat = basis(torch.ones(1, 64, 1, p, p), whole)
    assert 0.8 < float(flat.detach().std()) < 1.2  # the mean passes
    noise = float(basis(torch.randn(1, 64, 1, p, p), whole).detach().std())
    assert 0.15 < noise < 1.2


def test_attention_has_no_nan_without_data():
    attention = SpectralAttention(16, out_dim=8)
    bands = torch.randn(2, 3, 5, 16, requires_grad=True)
    seen = torch.ones(2, 3, 5, dtype=torch.bool)
    seen[0, 1] = False
    seen[1, 2, :4] = False
    out = attention(bands, seen)
    assert_close(out[0, 1], attention.no_data)
    out.square().sum().backward()
    assert bands.grad.isfinite().all()
    assert not bands.grad[~seen].any()
    assert bands.grad[seen].abs().sum(-1).all()
    assert all(p.grad.isfinite().all() and p.grad.any() for p in attention.parameters())


def test_attention_ignores_unseen_and_order():
    attention = SpectralAttention(16, out_dim=8)
    bands, seen = torch.randn(2, 3, 5, 16), torch.rand(2, 3, 5) > 0.4
    seen[..., 0] = True
    expected = attention(bands, seen)
    other = torch.where(seen[..., None], bands, 100.0)
    assert_close(attention(other, seen), expected)
    order = torch.tensor([4, 2, 0, 1, 3])
    assert_close(attention(bands[:, :, order], seen[..., order]), expected)


@pytest.mark.parametrize(
    ('kind', 'sees_width'),
    [(BandCode, True), (FourierBandCode, True), (NanometreBandCode, False), (PointBandCode, False)],
)
def test_what_a_code_tells_apart(kind, sees_width):
    centre, width = torch.tensor([0.833, 0.833, 0.865]), torch.tensor([0.106, 0.021, 0.021])
    light = kind(16).light(centre, width)
    assert light.shape == (3, 128)
    assert light.abs().max() <= 1
    assert torch.equal(light[0], light[1]) is not sees_width
    assert not torch.equal(light[1], light[2])


def test_nanometre_code_is_the_position_code_of_a_transformer():
    light = NanometreBandCode(16).light(torch.tensor([0.66]), torch.tensor([0.03]))[0]
    for k in (0, 13, 63):
        phase = 660 / 10_000 ** (2 * k / 128)
        assert light[k] == pytest.approx(math.sin(phase), abs=1e-3)
        assert light[64 + k] == pytest.approx(math.cos(phase), abs=1e-3)


def test_fourier_code_has_periods_in_nanometres():
    light = FourierBandCode(16).light(torch.tensor([0.66]), torch.tensor([0.03]))[0]
    assert light[0] == pytest.approx(math.sin(2 * math.pi * 660 / 100), abs=1e-3)
    assert light[64] == pytest.approx(math.sin(2 * math.pi * 30 / 1), abs=1e-3)
    assert light[31] == pytest.approx(2 * math.pi * 660 / 1e9, rel=1e-3)
