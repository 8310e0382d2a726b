"""How large discounted returns are: the unit of what a critic learns."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


class Returns(NamedTuple):
    r"""What is known of $R_t = r_t + \gamma R_{t-1}$, begun anew with each episode.

    This looks back where a return looks ahead: it is as large, and known at once.

    Attributes:
        running: $R_t$ of each worker.
        count: how many have been seen.
        square: the mean of their squares.

    References:
        Engstrom et al., "Implementation Matters in Deep Policy Gradients" (2020),
        appendix A.1, https://arxiv.org/abs/2005.12729.
    """

    running: Float[Array, " workers"]
    count: Float[Array, ""]
    square: Float[Array, ""]

    def after(
        self,
        reward: Float[Array, "time workers"],
        ended: Bool[Array, "time workers"],
        discount: float,
    ) -> "Returns":
        """What is known after more steps."""

        def one(running: Array, row: tuple[Array, Array]) -> tuple[Array, Array]:
            reward, ended = row
            running = reward + discount * running
            return jnp.where(ended, 0, running), running

        running, values = jax.lax.scan(one, self.running, (reward, ended))
        count = self.count + values.size
        change = jnp.mean(values**2) - self.square
        return Returns(running, count, self.square + change * values.size / count)

    @property
    def scale(self) -> Float[Array, ""]:
        """Their root mean square; 1 if all were 0.

        Not the standard deviation, which is next to nothing where they hardly differ.
        """
        return jnp.where(self.square > 0, jnp.sqrt(self.square), 1)


def no_returns(workers: int) -> Returns:
    """What is known before the first step."""
    return Returns(jnp.zeros(workers), jnp.zeros(()), jnp.zeros(()))
