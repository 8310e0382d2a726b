"""Libraries that not every installation has."""

import importlib
from types import ModuleType


def library(name: str) -> ModuleType:
    """Imports a library of the extra `llm`.

    Raises:
        ImportError: it is not installed; the message says how to get it.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ImportError(
            f"tokenizers of checkpoints need {error.name}: "
            "pip install 'eggroll-jax[llm]'"
        ) from None
