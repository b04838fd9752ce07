# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Modules as plain values, the form that a YAML config has, and back."""

import dataclasses
import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

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


def build[T: nn.Module](
    description: Mapping[str, Any], kind: type[T], *, parts: tuple[type[nn.Module], ...]
) -> T:
    """Build what a description names.

    A file may come from anywhere: it must not make Python import or call anything but the classes
    that are asked for.

    Args:
        description: ``class_path`` and ``init_args``.
        kind: What it must be.
        parts: What else may be among its arguments: modules, or their classes.

    Returns:
        The module, with fresh weights.

    Raises:
        TypeError: If it is of another kind.
        ValueError: If there is no such class in what is imported.
    """
    target = _named(description['class_path'], (kind,))
    init_args = description.get('init_args') or {}
    return cast(T, target(**{key: _built(value, parts) for key, value in init_args.items()}))


def _built(value: Any, parts: tuple[type[nn.Module], ...]) -> Any:
    """What a description among arguments says; anything else as it is.

    With arguments it is a module, and without any the class itself.
    """
    if not isinstance(value, Mapping) or 'class_path' not in value:
        return value
    target = _named(value['class_path'], parts)
    return build(value, target, parts=parts) if 'init_args' in value else target


def _named(path: Any, kinds: tuple[type[nn.Module], ...]) -> type[nn.Module]:
    """The class of a path.

    Raises:
        TypeError: If it is of none of the kinds.
        ValueError: If there is no such class in what is imported.
    """
    module_name, _, name = str(path).rpartition('.')
    if module_name not in sys.modules:
        raise ValueError(
            f'{path} is in no module that is imported; import {module_name} first if you trust it, '
            'or take the version that the file was made by'
        )
    target = vars(sys.modules[module_name]).get(name)
    if target is None:
        raise ValueError(f'{module_name} has no {name}; was the file made by a newer version?')
    if not (inspect.isclass(target) and issubclass(target, kinds)):
        asked = ' or '.join(kind.__name__ for kind in kinds)
        raise TypeError(f'{path} is not a class of {asked}, and is not called')
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
    return _with_weights(description, lambda name: Path(name).name)


def _with_weights(description: Mapping[str, Any], change: Callable[[str], Any]) -> dict[str, Any]:
    """A description with other ``weights``, in what it is made of too."""

    def changed(key: str, value: Any) -> Any:
        if isinstance(value, Mapping) and 'init_args' in value:
            return _with_weights(value, change)
        return change(value) if key == 'weights' and isinstance(value, str) else value

    init_args = description.get('init_args') or {}
    return {
        'class_path': description['class_path'],
        'init_args': {key: changed(key, value) for key, value in init_args.items()},
    }
