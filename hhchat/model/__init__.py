"""torch lives here: one base, adapters as roles, the prompt format, sampling and the PM."""

import hhchat.threads  # noqa: F401 (first: it must come before torch)

# isort: split
from hhchat.model.base import Model, load_model
from hhchat.model.engine import LocalEngine
from hhchat.model.locate import STARTER, estimate, read_config
from hhchat.model.lora import Adapter, load_adapter, save_adapter
from hhchat.model.preference import PreferenceModel

__all__ = [
    "STARTER",
    "Adapter",
    "LocalEngine",
    "Model",
    "PreferenceModel",
    "estimate",
    "load_adapter",
    "load_model",
    "read_config",
    "save_adapter",
]
