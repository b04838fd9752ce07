# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""What a module makes of its parameters alone, kept in evaluation."""

from collections.abc import Callable, Hashable, Iterable
from typing import Any, Self

import torch
from torch import Tensor

#: Most values that are kept.
_SIZE = 64


class Memo:
    """Values of one module, by key, for as long as its parameters stay what they are.

    Nothing is kept while gradients are on, in a graph that is compiled or exported, or in a copy.
    """

    def __init__(self) -> None:
        """Start empty."""
        self._values: dict[Hashable, Tensor] = {}

    def get(
        self, key: Hashable, parameters: Iterable[Tensor], make: Callable[[], Tensor]
    ) -> Tensor:
        """Give the value of a key.

        Args:
            key: What the value depends on, beside the parameters.
            parameters: What it is made of.
            make: Makes it.
        """
        if torch.compiler.is_compiling():
            return make()
        if torch.is_grad_enabled():
            # Sharded parameters come back from a step at their old address, with their old version
            self._values.clear()
            return make()
        parameters = list(parameters)
        if any(p.is_inference() for p in parameters):
            return make()
        kind = parameters[0].device.type
        cast = torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind)
        state = tuple((p.data_ptr(), p._version, p.dtype) for p in parameters)
        key = (key, cast, state, torch.is_inference_mode_enabled())
        if key not in self._values:
            if len(self._values) >= _SIZE:
                self._values.clear()
            self._values[key] = make()
        return self._values[key]

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """A copy of the module has its own."""
        return type(self)()

    def __reduce__(self) -> tuple[type[Self], tuple[()]]:
        """Keep nothing in a file."""
        return type(self), ()
