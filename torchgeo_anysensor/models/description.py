# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Modules as plain values, the form that a YAML config has, and back."""

import dataclasses
import importlib
import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn


def describe(module: Any) -> Any:
    """Describe a module as ``class_path`` and ``init_args``, the form that a YAML config has.

    Args:
        module: A module with ``init_args``, a class or function, or an instance of a dataclass.

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
    if dataclasses.is_dataclass(module) and not isinstance(module, type):
        return dataclasses.asdict(module)
    if inspect.isclass(module) or inspect.isfunction(module):
        return {'class_path': f'{module.__module__}.{module.__qualname__}'}
    return module


def build(description: Mapping[str, Any]) -> Any:
    """Build what a description names.

    Args:
        description: ``class_path`` and ``init_args``.

    Returns:
        The object, with fresh weights.

    Raises:
        ValueError: If it is not the class of a module, found in this package or in what is already
            imported: a file must not make Python import or call anything else.
    """
    init_args = {key: _built(value) for key, value in (description.get('init_args') or {}).items()}
    return _named(description['class_path'])(**init_args)


def _built(value: Any) -> Any:
    """What a description among arguments says; anything else as it is.

    With arguments it is a module, and without any the class itself.
    """
    if not isinstance(value, Mapping) or 'class_path' not in value:
        return value
    return build(value) if 'init_args' in value else _named(value['class_path'])


def _named(path: str) -> type[nn.Module]:
    """What the path of a class names.

    Raises:
        ValueError: If it is not in this package, nor in a module that is imported; or not there, or
            no class of modules.
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
    if not (inspect.isclass(target) and issubclass(target, nn.Module)):
        raise ValueError(f'{path} is not a class of torch.nn.Module, and is not called')
    return target


def without_weights(description: Mapping[str, Any]) -> dict[str, Any]:
    """A description without the file of weights that a wrapped model started from.

    For a model whose own weights are loaded next.
    """
    return _with_weights(description, lambda name: None)


def without_folders(description: Mapping[str, Any]) -> dict[str, Any]:
    """A description with the name alone of the file of weights that a wrapped model started from.

    For others, whom the folders of a machine do not concern.
    """
    return _with_weights(description, lambda name: name and Path(name).name)


def _with_weights(description: Mapping[str, Any], change: Callable[[Any], Any]) -> dict[str, Any]:
    """A description with other ``weights``, in what it is made of too."""
    init_args = {
        key: _with_weights(value, change)
        if isinstance(value, Mapping) and 'init_args' in value
        else change(value)
        if key == 'weights'
        else value
        for key, value in (description.get('init_args') or {}).items()
    }
    return {'class_path': description['class_path'], 'init_args': init_args}
