# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

import pytest
import torch
from torch.testing import assert_close

from torchgeo_anysensor.models.trunk import Trunk, cell_centres, rotary, rotate


@pytest.fixture
def trunk():
    torch.manual_seed(0)
    trunk = Trunk(32, depth=2, num_heads=2, registers=3).eval()
    for block in trunk.blocks:  # fresh weights hardly look where they look
        torch.nn.init.normal_(block.qkv.weight, std=0.3)
        torch.nn.init.normal_(block.out.weight, std=0.3)
    return trunk


def test_centres_are_in_metres_from_the_middle():
    centres = cell_centres((2, 3), token_m=60.0, device=torch.device('cpu'))
    expected = [[-30, -60], [-30, 0], [-30, 60], [30, -60], [30, 0], [30, 60]]
    assert_close(centres, torch.tensor(expected, dtype=torch.float32))


@pytest.mark.parametrize('axis', [0, 1])
def test_attention_depends_on_the_difference_of_places(axis):
    q, k = torch.randn(2, 1, 1, 6, 32)
    places = 500 * torch.randn(6, 2)
    moved = places.clone()
    moved[:, axis] += 123.0

    def scores(positions):
        rotation = rotary(positions, 32)
        return rotate(q, rotation) @ rotate(k, rotation).mT

    assert_close(scores(moved), scores(places), atol=1e-3, rtol=0)
    stretched = places.clone()
    stretched[:, axis] *= 1.1
    assert (scores(stretched) - scores(places)).abs().max() > 0.1


def test_places_not_order_decide(trunk):
    tokens, valid = torch.randn(2, 6, 32), torch.rand(2, 6) > 0.3
    places, order = 500 * torch.randn(6, 2), torch.randperm(6)
    x, pooled = trunk(tokens, valid, places)
    y, pooled_too = trunk(tokens[:, order], valid[:, order], places[order])
    assert_close(y, x[:, order])
    assert_close(pooled_too, pooled)
    assert (trunk(tokens, valid, places[order])[0] - x).abs().max() > 1e-2


def test_where_the_patch_begins_does_not_matter(trunk):
    tokens, valid = torch.randn(2, 6, 32), torch.rand(2, 6) > 0.3
    places = 500 * torch.randn(6, 2)
    x, pooled = trunk(tokens, valid, places)
    y, pooled_too = trunk(tokens, valid, places + torch.tensor([600.0, -1320.0]))
    assert_close(y, x, atol=1e-4, rtol=0)
    assert_close(pooled_too, pooled, atol=1e-4, rtol=0)


def test_nobody_looks_at_tokens_without_data(trunk):
    tokens, valid = torch.randn(2, 6, 32), torch.ones(2, 6, dtype=torch.bool)
    valid[:, 2] = False
    places = 500 * torch.randn(6, 2)
    x, pooled = trunk(tokens, valid, places)
    tokens[:, 2] = torch.randn(2, 32)
    y, pooled_too = trunk(tokens, valid, places)
    assert_close(pooled_too, pooled)
    assert_close(y[valid], x[valid])
    assert (y[:, 2] - x[:, 2]).abs().max() > 0.1


def test_heads_must_divide():
    with pytest.raises(ValueError, match='multiple of 8'):
        Trunk(32, depth=1, num_heads=3, registers=0)
