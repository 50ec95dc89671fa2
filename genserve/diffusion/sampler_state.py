"""What a run has changed in its samplers and guiders, as JSON and tensors; knows no sampler by name.

A multistep sampler keeps a history of predictions, counters and the last sample as plain attributes. Whatever is no
longer the object that preparing left there is state of the run; the rest (schedules, tables) is made again by
preparing the same generation, so it is not saved.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from genserve.errors import InvariantBroken

Attributes = dict[str, Any]


def attributes_of(components: Mapping[str, Any]) -> dict[str, Attributes]:
    """Each component's attributes at this moment, by reference."""
    return {name: dict(vars(component)) for name, component in components.items()}


def dump_changes(
    components: Mapping[str, Any], prepared: Mapping[str, Attributes], tensors: dict[str, torch.Tensor]
) -> dict[str, Any]:
    """JSON of each component's class and of what is not as prepared; tensors go into ``tensors`` by dotted name.

    Raises InvariantBroken ``sampler_not_saved`` for an attribute that is neither number, text, list nor tensor.
    """
    return {
        name: {
            "class": type(component).__name__,
            "changes": {
                key: _dump(value, f"{name}.{key}", tensors)
                for key, value in vars(component).items()
                if isinstance(value, list) or value is not prepared[name].get(key)
            },
        }
        for name, component in sorted(components.items())
    }


def restore_changes(
    components: Mapping[str, Any],
    saved: Mapping[str, Any],
    tensors: Mapping[str, torch.Tensor],
    *,
    device: torch.device,
) -> None:
    """Put saved changes into freshly prepared components; tensors go to the device."""
    for name, component in components.items():
        for key, value in saved[name]["changes"].items():
            setattr(component, key, _restore(value, tensors, device))


def _dump(value: Any, name: str, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor | np.ndarray):
        tensors[name] = torch.as_tensor(value)
        return {"tensor": name}
    if isinstance(value, list):
        return [_dump(item, f"{name}.{index}", tensors) for index, item in enumerate(value)]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise InvariantBroken("sampler_not_saved", f"{name} is a {type(value).__name__}, which a checkpoint cannot hold")


def _restore(value: Any, tensors: Mapping[str, torch.Tensor], device: torch.device) -> Any:
    if isinstance(value, dict):
        return tensors[value["tensor"]].to(device)
    if isinstance(value, list):
        return [_restore(item, tensors, device) for item in value]
    return value
