"""`python -m eggroll`, the same as the command `eggroll`."""

import sys

from eggroll.cli.main import main


if __name__ == "__main__":
    sys.exit(main())
