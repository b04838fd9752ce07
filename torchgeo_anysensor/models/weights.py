# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Weights of models that others have trained, from files that are already here."""

import re
from collections.abc import Mapping
from enum import Enum
from pathlib import Path

import torch
from torch import Tensor, nn
from torchgeo.models import get_weight

#: A member of one of TorchGeo's enumerations, by its name.
_MEMBER = re.compile(r'\w+_Weights\.\w+')


def weights_name(weights: Enum | str | Path | None) -> str | None:
    """Name weights by a plain string, from which :func:`read_weights` finds them again."""
    return None if weights is None else str(weights)


def weights_file(name: str) -> Path:
    """Find the file of weights. Nothing is ever downloaded.

    Args:
        name: A weights member of TorchGeo (``DOFABase16_Weights.DOFA_MAE``) whose file is in the
            cache of torch hub, or the path of a file.

    Returns:
        Its path.

    Raises:
        FileNotFoundError: If the file is not here.
        ValueError: If TorchGeo has no such weights.
    """
    path = _cached(name) if _MEMBER.fullmatch(name) else Path(name)
    if not path.is_file():
        raise FileNotFoundError(
            f'{path}: no such file of weights; give the path of a state dict, or a member of '
            "TorchGeo's weights such as DOFABase16_Weights.DOFA_MAE"
        )
    return path


def read_weights(name: str) -> dict[str, Tensor]:
    """Read the weights of a file.

    Args:
        name: See :func:`weights_file`.

    Returns:
        The state dict in the file.

    Raises:
        FileNotFoundError: If the file is not here.
        ValueError: If TorchGeo has no such weights, or the file holds no state dict.
    """
    path = weights_file(name)
    state = torch.load(path, map_location='cpu', weights_only=True)
    if not (isinstance(state, Mapping) and all(isinstance(v, Tensor) for v in state.values())):
        raise ValueError(f'{path}: expected a state dict (names and tensors) and nothing else')
    return dict(state)


def _cached(name: str) -> Path:
    """Where torch hub keeps the file of a weights member.

    Raises:
        FileNotFoundError: If it is not there.
        ValueError: If TorchGeo has no such member.
    """
    url = get_weight(name).url
    path = Path(torch.hub.get_dir()) / 'checkpoints' / url.rpartition('/')[2]
    if not path.is_file():
        raise FileNotFoundError(
            f'the file of {name} is not on this machine, and is not downloaded unasked: fetch '
            f'{url} and save it as {path}, or give the path of your copy as weights'
        )
    return path


def load_weights(
    module: nn.Module,
    state: Mapping[str, Tensor],
    *,
    source: str,
    fresh: tuple[str, ...] = (),
    unused: tuple[str, ...] = (),
) -> None:
    """Load weights into a model, and let nothing pass unnoticed.

    Args:
        module: The model.
        state: The weights.
        source: What the errors call the weights.
        fresh: Beginnings of the names that the weights need not have; these stay random.
        unused: Beginnings of the names that the model need not have.

    Raises:
        ValueError: If names are missing or not expected, or shapes differ.
    """
    state = {key: value for key, value in state.items() if not key.startswith(unused)}
    try:
        keys = module.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise ValueError(
            f'{source}: the weights have other sizes than the model: {error}'
        ) from None
    missing = [key for key in keys.missing_keys if not key.startswith(fresh)]
    if missing or keys.unexpected_keys:
        raise ValueError(
            f'{source}: the weights are of another model: missing {missing}, '
            f'unexpected {keys.unexpected_keys}'
        )
