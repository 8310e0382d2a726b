"""`eggroll sample --model ...`, which a checkpoint of a language model answers."""

from collections.abc import Sequence


# Nothing here knows what it does with its arguments.
SPEAKER = "models.llm.speak:main"


def is_for_it(arguments: Sequence[str]) -> bool:
    """Whether a command is not one of ours."""
    names = [word.partition("=")[0] for word in arguments]
    return list(names[:1]) == ["sample"] and "--model" in names


def speak(arguments: Sequence[str]) -> int:
    """Hands the arguments on; returns an exit status."""
    from eggroll.config import lookup  # of the extra `cli`

    return lookup.locate(SPEAKER)(arguments)
