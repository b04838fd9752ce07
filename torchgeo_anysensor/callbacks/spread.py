# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""A bounded number of items out of a stream."""

import heapq

#: The golden ratio's fraction: its multiples, modulo 1, fill the interval evenly however many.
_GOLDEN = 0.6180339887498949


class Spread[T]:
    """Keep a bounded number of the items that come, spread evenly over all of them.

    What is kept depends on the number of an item alone, not on how many come at a time, and takes
    nothing from a random generator.
    """

    def __init__(self, size: int) -> None:
        """Make an empty store.

        Args:
            size: How many items to keep.
        """
        self.size = size
        self._items: dict[int, T] = {}
        self._orders: list[tuple[float, int]] = []  # a heap; the next to go is first

    def wants(self, number: int) -> bool:
        """Whether an item would be kept.

        Args:
            number: Of the item in the stream.
        """
        return len(self._items) < self.size or _order(number) > self._orders[0]

    def put(self, number: int, item: T) -> None:
        """Keep an item that is wanted.

        Args:
            number: Of the item in the stream; each comes once.
            item: What is kept.
        """
        self._items[number] = item
        if len(self._items) <= self.size:
            heapq.heappush(self._orders, _order(number))
        else:
            _, gone = heapq.heapreplace(self._orders, _order(number))
            del self._items[gone]

    def items(self) -> list[T]:
        """What was kept, in the order in which it came."""
        return [self._items[number] for number in sorted(self._items)]


def _order(number: int) -> tuple[float, int]:
    """Items of high order stay longest."""
    return -(number * _GOLDEN % 1), number
