# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from torchgeo_anysensor.models import BandRenderer

BANDS = (torch.tensor([0.49, 0.84, 10.9]), torch.tensor([0.06, 0.1, 0.6]), torch.full((3,), 10.0))


@pytest.fixture
def renderer():
    torch.manual_seed(0)
    return BandRenderer(16, dim=24, kernels=8)


@pytest.mark.parametrize(('coarse', 'fine'), [(1, 6), (2, 6), (3, 6), (1, 5)])
def test_a_coarse_pixel_is_the_mean_of_the_fine_ones(renderer, coarse, fine):
    tokens = torch.randn(2, 4, 16)
    sharp = renderer(tokens, *BANDS, pixels=fine)
    assert sharp.shape == (2, 4, 3, fine, fine)
    assert sharp.std(dim=(-2, -1)).mean() > 0.01  # the ground of a token is not flat
    pooled = F.avg_pool2d(sharp.flatten(0, 2), fine // coarse).reshape(2, 4, 3, coarse, coarse)
    assert_close(renderer(tokens, *BANDS, pixels=coarse), pooled, atol=1e-5, rtol=0)


def test_a_band_is_rendered_by_what_it_is(renderer):
    tokens, order = torch.randn(2, 4, 16), torch.tensor([2, 0, 1])
    expected = renderer(tokens, *BANDS, pixels=3)[:, :, order]
    assert_close(renderer(tokens, *(fact[order] for fact in BANDS), pixels=3), expected)
    each = [torch.stack([fact, fact * 1.2]) for fact in BANDS]  # (B, C): platforms differ
    second = renderer(tokens, *(fact * 1.2 for fact in BANDS), pixels=3)[1]
    assert_close(renderer(tokens, *each, pixels=3)[1], second)
    assert (second - renderer(tokens, *BANDS, pixels=3)[1]).abs().max() > 1e-3


def test_every_parameter_gets_gradient(renderer):
    renderer(torch.randn(2, 4, 16), *BANDS, pixels=3).sin().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in renderer.parameters())
