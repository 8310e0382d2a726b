"""What model libraries need beyond pytrees, at the edge: the engine knows none of them.

`opened` makes of any call a pure function of arrays. An adapter is loaded only where
its library is loaded already, so that nobody pays for a library of others.
"""

from eggroll.adapters.dispatch import opened, positions
from eggroll.adapters.interface import Each, Opened


__all__ = ["Each", "Opened", "opened", "positions"]
