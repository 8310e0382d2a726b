"""How the command line says things: a line at a time, to whoever still listens."""

import contextlib
import os
import sys
from pathlib import Path


def say(text: str) -> None:
    """Writes a line to standard output, if there is anybody to read it."""
    from tqdm import tqdm

    try:
        tqdm.write(text)  # does not tear a progress bar
        sys.stdout.flush()
    except OSError:  # of a pipe that is read no more, as by `head`, or a lost terminal
        with contextlib.suppress(OSError), Path(os.devnull).open("w") as nobody:
            os.dup2(nobody.fileno(), sys.stdout.fileno())
