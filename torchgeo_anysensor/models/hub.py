# Copyright (c) torchgeo_anysensor contributors.
# Licensed under the MIT License.

"""Encoders in folders that can be shared: weights, what they are, and how they came about."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self, cast

import torch
from huggingface_hub import ModelHubMixin, hf_hub_download
from safetensors.torch import load_file, save_file

from .description import describe, without_folders

CONFIG, WEIGHTS = 'config.json', 'model.safetensors'

_CARD = """---
{{ card_data }}
---

# {{ kind }}

An encoder of optical sensors for torchgeo_anysensor.

```python
from torchgeo_anysensor.models import SensorEncoder

encoder = SensorEncoder.from_pretrained('FOLDER')  # this folder
```

| | |
| --- | --- |
| class | `{{ class_path }}` |
| parameters | {{ parameters }} |
{% for name, value in init_args.items() -%}
| {{ name }} | {{ value }} |
{% endfor %}
## How it was trained
{% if run %}
| | |
| --- | --- |
{% for name, value in run.items() -%}
| {{ name }} | {{ value }} |
{% endfor %}{% else %}
Nothing is known of a training: the weights may be random.
{% endif %}"""


class HubEncoder(
    ModelHubMixin,
    library_name='torchgeo_anysensor',
    tags=['earth-observation', 'multispectral'],
    model_card_template=_CARD,
):
    """What an encoder needs to be saved to a folder or a hub, and to come back.

    Attributes:
        init_args: Plain values, or classes, that rebuild the encoder.
        run: What is known of the training of the weights, as plain values.
    """

    init_args: dict[str, Any]
    run: Mapping[str, Any] | None = None

    def _save_pretrained(self, save_directory: Path) -> None:
        """Write weights and config; :meth:`save_pretrained` adds the model card."""
        assert isinstance(self, torch.nn.Module)
        weights = {key: x.detach().cpu().contiguous() for key, x in self.state_dict().items()}
        save_file(weights, save_directory / WEIGHTS)
        config = {**without_folders(describe(self)), 'run': self.run}
        (save_directory / CONFIG).write_text(json.dumps(config, indent=2) + '\n')
        (save_directory / 'README.md').unlink(missing_ok=True)  # of other weights

    def generate_model_card(self, *args: Any, **kwargs: Any) -> Any:
        """Write down what the encoder is and how it was trained."""
        assert isinstance(self, torch.nn.Module)
        about = without_folders(describe(self))
        run = dict[str, Any]()
        for key, value in (self.run or {}).items():
            run |= value if isinstance(value, Mapping) else {key: value}
        facts = {
            'kind': type(self).__name__,
            'class_path': about['class_path'],
            'init_args': _flat(about['init_args']),
            'parameters': f'{sum(p.numel() for p in self.parameters()):,}',
            'run': run,
        }
        return super().generate_model_card(*args, **{**facts, **kwargs})

    @classmethod
    def _from_pretrained(
        cls, *, model_id: str, config: Mapping[str, Any] | None = None, **options: Any
    ) -> Self:
        """Build the encoder that a config describes, and load its weights.

        Raises:
            TypeError: If the config describes another class, which is not built then.
            ValueError: If there is no config, or no weights that fit it.
        """
        from .pretrained import rebuild_encoder  # it needs this module

        if not config or 'class_path' not in config:
            raise ValueError(f'{model_id}: no {CONFIG} that describes an encoder')
        kind = cast(type[torch.nn.Module], cls)
        encoder: Any = rebuild_encoder(config, source=model_id, kind=kind)
        path = Path(model_id) / WEIGHTS
        if not Path(model_id).is_dir():
            known = ('revision', 'cache_dir', 'force_download', 'local_files_only', 'token')
            where = {key: options[key] for key in known}
            path = Path(hf_hub_download(repo_id=model_id, filename=WEIGHTS, **where))
        if not path.is_file():
            raise ValueError(f'{path}: no such file; the folder has a config and no weights')
        try:
            encoder.load_state_dict(load_file(path))
        except RuntimeError as error:
            raise ValueError(f'{path}: the weights do not fit the config: {error}') from None
        encoder.run = config.get('run')
        return cast(Self, encoder.eval())


def _flat(init_args: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of an encoder and of those in it, with classes by their paths."""
    found = dict[str, Any]()
    for key, value in init_args.items():
        inside = isinstance(value, Mapping)
        found[key] = value['class_path'] if inside else value
        found |= _flat(value.get('init_args') or {}) if inside else {}
    return found
