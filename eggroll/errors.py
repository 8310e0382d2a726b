"""The one exception that stands for a mistake the user can mend."""

from typing import Any


class UserError(ValueError):
    """A wrong setting, file or task, with a message that says how to mend it.

    The command line shows the message alone; every other exception is a fault of the
    library or of the task, and keeps its traceback.
    """


def brief(value: Any, length: int = 80) -> str:
    """How a value is written, or the start of that: for messages.

    Args:
        value: Anything, of any size.
        length: Of the text, at most.
    """
    if isinstance(value, str | bytes):
        value = value[: length + 1]
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # of numbers with thousands of digits
        text = f"a {type(value).__name__}"
    return text if len(text) <= length else f"{text[: length - 3]}..."
