# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Shared memory that a worker fills again and again."""

import torch
from torch import Tensor

# More are outstanding at once only if the main process does not take them
_KEPT = 8

_FREE, _LENT = 0, 1

_pieces: list[Tensor] = []


def borrow(size: int) -> Tensor:
    """Shared memory for a batch, to be sent to the main process and given back there.

    The kernel clears the pages of new memory, which takes longer than to fill them.

    Args:
        size: Bytes.

    Returns:
        *size* bytes or more, and one more that says whether they are lent.
    """
    for piece in _pieces:
        if len(piece) > size and piece[-1] == _FREE:
            break
    else:
        # As torch's own collate does
        storage = torch.UntypedStorage._new_shared(size + 1)  # type: ignore[no-untyped-call]
        piece = torch.empty(0, dtype=torch.uint8).set_(storage)
        if len(_pieces) == _KEPT:
            del _pieces[0]
        _pieces.append(piece)
    piece[-1] = _LENT
    return piece


def give_back(piece: Tensor, size: int) -> Tensor:
    """Copy the first *size* bytes into memory of this process, so that the worker may fill it anew."""
    own = piece[:size].clone()
    piece[-1] = _FREE
    return own
