# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""``a & b`` and ``a | b`` of datasets whose samples are views, any number of times."""

from torchgeo.datasets import GeoDataset, IntersectionDataset, UnionDataset

from .collate import concat_views, merge_views


class JoinableDataset(GeoDataset):
    """A dataset whose samples TorchGeo's own rules would not join.

    TorchGeo concatenates every key, the time and the bounds too, and fails on numbers.
    """

    def __and__(self, other: GeoDataset) -> IntersectionDataset:
        """Intersection: the bands of both on this dataset's grid (see :func:`concat_views`)."""
        return ViewIntersection(self, other, collate_fn=concat_views)

    def __or__(self, other: GeoDataset) -> UnionDataset:
        """Union: the first valid pixel wins (see :func:`merge_views`)."""
        return ViewUnion(self, other, collate_fn=merge_views)


class ViewIntersection(JoinableDataset, IntersectionDataset):
    """What ``a & b`` returns: it can be joined again."""


class ViewUnion(JoinableDataset, UnionDataset):
    """What ``a | b`` returns: it can be joined again."""
