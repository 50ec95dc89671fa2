"""Silence what loading and building print on their own; errors still come through."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import diffusers
import transformers


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and no warnings by log of diffusers and transformers inside; all settings as before after."""
    libraries: list[Any] = [diffusers.utils.logging, transformers.utils.logging]
    before = [(library.get_verbosity(), library.is_progress_bar_enabled()) for library in libraries]
    for library in libraries:
        library.set_verbosity_error()
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library, (verbosity, has_progress_bar) in zip(libraries, before, strict=True):
            library.set_verbosity(verbosity)
            if has_progress_bar:
                library.enable_progress_bar()
