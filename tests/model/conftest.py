"""Tiny models, made once a session: a folder in transformers format and transformers' own model."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from tiny_models import CHATML, FAMILIES, make_model

from hhchat.model import Model, load_model


@dataclass(frozen=True)
class Tiny:
    """A model folder and the transformers model that was saved there."""

    folder: Path
    oracle: Any

    def load(self, quantization: str = "none", dtype: str = "fp32") -> Model:
        return load_model(str(self.folder), quantization=quantization, dtype=dtype, device="cpu")


@pytest.fixture(scope="session")
def make_tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Tiny]:
    """`make_tiny("qwen2")`, `make_tiny("llama", template=None)`: each is made once."""

    @cache
    def make(family: str = "llama", template: str | None = CHATML, seed: int = 0) -> Tiny:
        folder = tmp_path_factory.mktemp(family)
        return Tiny(folder, make_model(folder, family, template=template, seed=seed))

    return make


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def tiny(make_tiny: Callable[..., Tiny]) -> Tiny:
    return make_tiny("llama")


@pytest.fixture(scope="session")
def llama(tiny: Tiny) -> Model:
    """A llama in fp32. Read only: tests that change it load their own."""
    return tiny.load()


@pytest.fixture(scope="session")
def int8(tiny: Tiny) -> Model:
    return tiny.load("int8")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
