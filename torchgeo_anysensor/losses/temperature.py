# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""The temperature of a contrast, fixed or learned."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Temperature(nn.Module):
    """Divisor of the similarities.

    A learned one is ``low (high / low) ** sigmoid(u)`` of the free parameter ``u``: it cannot leave
    its bounds, and has a gradient everywhere.
    """

    def __init__(self, value: float, *, bounds: Sequence[float] | None = None) -> None:
        """Make the temperature.

        Args:
            value: The temperature, at the start if it is learned.
            bounds: The least and the largest value of a learned one; fixed if not given.

        Raises:
            ValueError: If the value is not positive, or not between the bounds.
        """
        super().__init__()
        if not (value > 0 and math.isfinite(value)):
            raise ValueError(f'temperature must be positive and finite, got {value}')
        self.start = float(value)
        self.bounds = None if bounds is None else tuple(float(bound) for bound in bounds)
        self.free: nn.Parameter | None = None
        if self.bounds is not None:
            if len(self.bounds) != 2 or not 0 < self.bounds[0] < value < self.bounds[1] < math.inf:
                raise ValueError(
                    f'temperature_bounds must be positive and on both sides of temperature={value},'
                    f' got {list(self.bounds)}'
                )
            low, high = self.bounds
            share = math.log(value / low) / math.log(high / low)
            self.free = nn.Parameter(torch.tensor(math.log(share / (1 - share))))

    def scale(self, like: Tensor) -> Tensor:
        """What similarities are multiplied by, ``()``, of the type and device of a tensor."""
        if self.free is None or self.bounds is None:
            return like.new_full((), 1 / self.start)
        low, high = self.bounds
        share = torch.sigmoid(self.free.to(like.dtype))
        return torch.exp(-share * math.log(high / low)) / low

    @property
    def value(self) -> float:
        """The temperature as it is now."""
        if self.free is None:
            return self.start
        return 1 / float(self.scale(self.free.double()).detach())
