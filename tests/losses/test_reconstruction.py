# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from torchgeo_anysensor.losses import decorrelation_loss, reconstruction_loss


@pytest.fixture
def cells():
    torch.manual_seed(0)
    predicted, target = torch.randn(2, 2, 4, 3, 2, 2)
    target = target * torch.tensor([0.2, 1.0, 3.0])[:, None, None]
    return predicted, target, torch.rand(2, 4, 3, 2, 2) > 0.5


def test_loss_is_that_of_a_loop(cells):
    predicted, target, known = cells
    losses = []
    for band in range(3):
        there = known[:, :, band]
        truth, guess = target[:, :, band][there], predicted[:, :, band][there]
        spread = truth.std(correction=0)
        losses.append(F.smooth_l1_loss(guess / spread, truth / spread))
    assert_close(reconstruction_loss(predicted, target, known), torch.stack(losses).mean())


def test_what_is_unknown_does_not_count(cells):
    predicted, target, known = cells
    expected = reconstruction_loss(predicted, target, known)
    unknown = torch.where(known, target, torch.nan)
    wrong = torch.where(known, predicted, 1e6).requires_grad_()
    actual = reconstruction_loss(wrong, unknown, known)
    assert_close(actual, expected)
    actual.backward()
    assert wrong.grad.isfinite().all()
    assert not wrong.grad[~known].any()


def test_units_of_a_band_do_not_matter(cells):
    predicted, target, known = cells
    scale = torch.tensor([5.0, 2.0, 7.0])[:, None, None]
    scaled = reconstruction_loss(predicted * scale, target * scale, known)
    assert_close(scaled, reconstruction_loss(predicted, target, known))


def test_flat_bands_and_nothing_known_are_finite(cells):
    predicted, target, known = cells
    assert reconstruction_loss(predicted, target * 0, known).isfinite()
    assert reconstruction_loss(predicted, target, known & False) == 0
    one_band = known & torch.tensor([True, False, False])[:, None, None]
    alone = reconstruction_loss(predicted[:, :, :1], target[:, :, :1], known[:, :, :1])
    assert_close(reconstruction_loss(predicted, target, one_band), alone)


def test_decorrelation_is_the_mean_square_correlation():
    torch.manual_seed(0)
    shared, private = torch.randn(50, 3), torch.randn(50, 2)
    correlations = torch.corrcoef(torch.cat([shared, private], dim=1).T)[:3, 3:]
    assert_close(decorrelation_loss(shared, private), correlations.square().mean())
    assert decorrelation_loss(shared, shared[:, :1] * 4 + 1) > 0.3
    assert decorrelation_loss(shared[:1], private[:1]) == 0
    with torch.autocast('cpu', dtype=torch.bfloat16):
        inside = decorrelation_loss(shared, private)
    assert_close(inside, correlations.square().mean())
