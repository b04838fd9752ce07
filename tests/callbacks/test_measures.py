# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Numbers of a representation, against loops written from their papers."""

import math
from collections import Counter

import pytest
import torch
from torch.testing import assert_close

from torchgeo_anysensor.callbacks import (
    alignment,
    effective_rank,
    knn_predict,
    pairwise_retrieval,
    principal_components,
    spread_of_features,
    uniformity,
)
from torchgeo_anysensor.callbacks.spread import Spread


@pytest.fixture
def draw():
    generator = torch.Generator().manual_seed(0)
    return lambda *shape: torch.randn(*shape, generator=generator)


def unit(row):
    return [v / math.sqrt(sum(u * u for u in row)) for v in row]


def test_alignment_is_the_mean_square_distance(draw):
    a, b = 3 * draw(5, 4), draw(5, 4)
    pairs = zip(map(unit, a.tolist()), map(unit, b.tolist()))
    each = [sum((x - y) ** 2 for x, y in zip(p, q)) for p, q in pairs]
    assert float(alignment(a, b)) == pytest.approx(sum(each) / 5, rel=1e-5)
    assert float(alignment(a, 2 * a)) == pytest.approx(0, abs=1e-6)
    assert float(alignment(a, -a)) == pytest.approx(4)


def test_uniformity_is_the_log_of_the_mean_potential(draw):
    rows = 2 * draw(6, 3)
    x = [unit(row) for row in rows.tolist()]
    potentials = [
        math.exp(-2 * sum((p - q) ** 2 for p, q in zip(x[i], x[j])))
        for i in range(6)
        for j in range(i)
    ]
    expected = math.log(sum(potentials) / len(potentials))
    assert float(uniformity(rows)) == pytest.approx(expected, rel=1e-5)


def test_uniformity_of_known_cases(draw):
    assert float(uniformity(torch.ones(5, 8))) == pytest.approx(0, abs=1e-6)
    assert float(uniformity(draw(400, 500))) == pytest.approx(-4, abs=0.02)
    assert float(uniformity(torch.eye(2))) == pytest.approx(-4)  # two at a right angle
    assert uniformity(draw(1, 3)).isnan()


def test_spread_of_features_is_1_on_a_sphere_and_0_of_a_constant(draw):
    spread = spread_of_features(7 * draw(5000, 50))
    assert_close(spread, torch.ones(50), atol=0.06, rtol=0)
    assert spread_of_features(torch.ones(5, 8)).max() < 1e-6
    half = torch.cat([draw(2000, 25), torch.zeros(2000, 25)], dim=1)
    assert_close((spread_of_features(half) > 0.1).float().mean(), torch.tensor(0.5))


@pytest.mark.parametrize('rank', [1, 3, 6])
def test_effective_rank_counts_equal_directions(rank):
    x = torch.cat([torch.eye(6)[:rank], -torch.eye(6)[:rank]]) + 10.0  # the mean does not count
    assert float(effective_rank(x)) == pytest.approx(rank, rel=1e-4)


def test_effective_rank_is_the_exponential_of_the_entropy(draw):
    x = draw(9, 4) * torch.tensor([1.0, 2.0, 4.0, 0.1])
    _, values, _ = torch.linalg.svd((x - x.mean(0)).double())
    shares = [v / sum(values.tolist()) for v in values.tolist()]
    expected = math.exp(-sum(p * math.log(p) for p in shares))
    assert float(effective_rank(x)) == pytest.approx(expected, rel=1e-4)


def test_effective_rank_of_nothing():
    constant = torch.full((50, 8), 1 / 3) + 1e-8 * torch.rand(50, 8)  # rounding is no rank
    assert effective_rank(constant) == 0
    assert effective_rank(torch.tensor([[1.0, math.nan], [0.0, 1.0]])).isnan()


def slow_knn(query, bank, labels, k, temperature):
    found = []
    for q in query.tolist():
        cosines = [sum(x * y for x, y in zip(unit(q), unit(b))) for b in bank.tolist()]
        votes = Counter()
        for i in sorted(range(len(bank)), key=lambda i: -cosines[i])[:k]:
            votes[int(labels[i])] += math.exp(cosines[i] / temperature)
        found.append(votes.most_common(1)[0][0])
    return found


@pytest.mark.parametrize(('k', 'temperature'), [(1, 0.07), (5, 0.07), (7, 1.0), (100, 0.5)])
def test_knn_is_a_loop_over_the_bank(draw, k, temperature):
    query, bank = draw(12, 3), 5 * draw(30, 3)
    labels = torch.arange(30) % 4 * 60  # classes need not be dense
    found = knn_predict(query, bank, labels, k=k, temperature=temperature)
    assert found.tolist() == slow_knn(query, bank, labels, k, temperature)


def test_knn_needs_a_bank(draw):
    with pytest.raises(ValueError, match='bank has no vector'):
        knn_predict(draw(2, 3), draw(0, 3), torch.zeros(0, dtype=torch.long))


def test_retrieval_by_pair_is_a_loop_over_what_both_saw(draw):
    x = {name: draw(9, 4) for name in 'abc'}
    x['b'] = x['a'] + 0.3 * x['b']
    seen = {name: torch.ones(9, dtype=torch.bool) for name in 'abc'}
    seen['a'][:2] = False
    seen['b'][8] = False
    x['a'][0] = math.nan  # absent rows may be anything
    found = pairwise_retrieval(x, seen)
    assert list(found) == [('a', 'b'), ('a', 'c'), ('b', 'c')]
    for a, b in found:
        rows = [i for i in range(9) if seen[a][i] and seen[b][i]]
        p, q = ([unit(x[n][i].tolist()) for i in rows] for n in (a, b))
        hits = 0
        for one, other in ((p, q), (q, p)):
            for i, v in enumerate(one):
                cosines = [sum(s * t for s, t in zip(v, w)) for w in other]
                hits += cosines.index(max(cosines)) == i
        assert float(found[a, b].accuracy) == pytest.approx(hits / 2 / len(rows))
        assert float(found[a, b].chance) == pytest.approx(1 / len(rows))
    assert float(found['a', 'b'].accuracy) > float(found['a', 'c'].accuracy)


def test_pairs_that_share_nothing_are_left_out(draw):
    seen = {'a': torch.tensor([True, False]), 'b': torch.tensor([False, True])}
    assert pairwise_retrieval({'a': draw(2, 3), 'b': draw(2, 3)}, seen) == {}


def test_principal_components_are_those_of_the_covariance(draw):
    x = draw(200, 5) * torch.tensor([1.0, 5.0, 0.1, 3.0, 0.2]) + 4
    mean, directions = principal_components(x)
    assert_close(mean, x.mean(dim=0))
    scores = (x - mean) @ directions
    covariance = scores.T @ scores / 200
    assert_close(covariance, covariance.diagonal().diag(), atol=1e-3, rtol=0)
    assert directions.abs().argmax(dim=0).tolist() == [1, 3, 0]
    assert (directions.abs().max(dim=0).values == directions.max(dim=0).values).all()


@pytest.mark.parametrize('count', [3, 10, 1000])
def test_a_spread_is_bounded_and_even(count):
    store = Spread(10)
    for number in range(count):
        if store.wants(number):
            store.put(number, number)
    kept = store.items()
    assert kept == sorted(kept)
    assert len(kept) == min(10, count)
    if count == 1000:
        gaps = [b - a for a, b in zip([0, *kept], [*kept, 1000])]
        assert max(gaps) < 200
