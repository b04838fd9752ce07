# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Encoders and other modules by their description, and encoders from checkpoints."""

import importlib
import inspect
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .base import SensorEncoder

#: Where a task keeps its encoder, and so how its weights are named in a checkpoint.
ENCODER_PREFIX = 'encoder.'


def describe(module: Any) -> Any:
    """Describe a module as ``class_path`` and ``init_args``, the form that a YAML config has.

    Args:
        module: A module with ``init_args``, or a class or function.

    Returns:
        The description, of plain values; anything else comes back as it is.
    """
    init_args = getattr(module, 'init_args', None)
    if isinstance(module, nn.Module) and isinstance(init_args, dict):
        kind = type(module)
        return {
            'class_path': f'{kind.__module__}.{kind.__qualname__}',
            'init_args': {key: describe(value) for key, value in init_args.items()},
        }
    if inspect.isclass(module) or inspect.isfunction(module):
        return {'class_path': f'{module.__module__}.{module.__qualname__}'}
    return module


def build_encoder(description: Mapping[str, Any]) -> SensorEncoder:
    """Build an encoder from its description.

    Args:
        description: ``class_path`` and ``init_args``.

    Returns:
        The encoder, with fresh weights.

    Raises:
        ValueError: If the class is not found in this package or in a module that is already
            imported (a checkpoint must not make Python import others).
        TypeError: If what it names is no encoder.
    """
    path = description['class_path']
    init_args = {key: _class(value) for key, value in (description.get('init_args') or {}).items()}
    encoder = _named(path)(**init_args)
    if not isinstance(encoder, SensorEncoder):
        raise TypeError(f'{path} makes a {type(encoder).__name__}, not a SensorEncoder')
    return encoder


def _class(value: Any) -> Any:
    """The class that a description without arguments names; anything else as it is."""
    named = isinstance(value, Mapping) and value.keys() == {'class_path'}
    return _named(value['class_path']) if named else value


def _named(path: str) -> Any:
    """What a path in a checkpoint names.

    Raises:
        ValueError: If it is not in this package, nor in a module that is imported; or not there.
    """
    module_name, _, name = path.rpartition('.')
    package = __name__.partition('.')[0]
    if module_name.partition('.')[0] != package and module_name not in sys.modules:
        raise ValueError(
            f'{path} is not part of {package}; import {module_name} first if you trust it'
        )
    target = getattr(importlib.import_module(module_name), name, None)
    if target is None:
        raise ValueError(
            f'{module_name} has no {name}; was the checkpoint made by a newer version?'
        )
    return target


def load_encoder(path: str | Path) -> SensorEncoder:
    """Load the encoder out of a checkpoint that a task of this package wrote.

    Args:
        path: The ``.ckpt`` file.

    Returns:
        The encoder with its weights, in evaluation mode, on the CPU.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the checkpoint holds no encoder, or its weights do not fit.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f'{path}: no such checkpoint. Pretrain first (torchgeo-anysensor fit --config '
            'conf/pretrain.yaml), or give the path of another one'
        )
    checkpoint = torch.load(path, map_location='cpu', weights_only=True)
    description = checkpoint.get('hyper_parameters', {}).get('encoder')
    if not isinstance(description, Mapping) or 'class_path' not in description:
        raise ValueError(
            f'{path}: the checkpoint does not describe an encoder; '
            'expected one of CrossSensorContrastive or SegmentationProbe'
        )
    init_args = dict(description.get('init_args') or {})
    if 'weights' in init_args:  # what a wrapped encoder started from; the checkpoint has its own
        init_args['weights'] = None
    encoder = build_encoder({**description, 'init_args': init_args})
    weights = {
        key.removeprefix(ENCODER_PREFIX): value
        for key, value in checkpoint['state_dict'].items()
        if key.startswith(ENCODER_PREFIX)
    }
    try:
        encoder.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(
            f'{path}: the weights do not fit the encoder it describes: {error}'
        ) from None
    return encoder.eval()
