"""What is learnt from signs, packed for the wire: a tenth of a byte a member.

Where the better of two mirrored members is all that counts (the shaping `pair_sign`,
the integer strategy's weighting "sign"), those who evaluate members elsewhere have no
more to send, whatever the size of the model.

References:
    "Evolution Strategies at the Hyperscale", arXiv 2511.16652, appendix J.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int8, Num, UInt8

from eggroll.evolution import shaping


_PLACES = np.array([1, 3, 9, 27, 81], np.int32)  # of five numbers of three values


def packed(fitness: Num[Array, " members"]) -> UInt8[Array, " bytes"]:
    """Which member of each pair is the better one: five pairs a byte.

    Pairs with a member that failed (NaN, infinity) count as tied.

    Raises:
        ValueError: if the number of members is odd.
    """
    better = jnp.sign(shaping.pair_sign(fitness)[0::2])
    usable = jnp.isfinite(fitness[0::2]) & jnp.isfinite(fitness[1::2])
    digits = jnp.where(usable, better, 0).astype(jnp.int32) + 1
    digits = jnp.pad(digits, (0, -digits.shape[0] % len(_PLACES)), constant_values=1)
    return (digits.reshape(-1, len(_PLACES)) @ _PLACES).astype(jnp.uint8)


def unpacked(packed: UInt8[Array, " bytes"], members: int) -> Int8[Array, " members"]:
    """Fitness, from which is learnt what would be from that which was packed.

    Args:
        packed: by `packed`; or of several parts of a population, one after another, of
            which all but the last have a multiple of ten members.
        members: how many there are.

    Returns:
        1 and -1 for the members of a pair, -1 and 1, or 0 twice.

    Raises:
        ValueError: if it takes another number of bytes.
    """
    wanted = -(-members // (2 * len(_PLACES)))
    if packed.shape[0] != wanted or members % 2:
        raise ValueError(
            f"expected an even number of members, ten a byte, got {members} members in "
            f"{packed.shape[0]} bytes"
        )
    digits = packed[:, None].astype(jnp.int32) // _PLACES % 3
    better = (digits.reshape(-1)[: members // 2] - 1).astype(jnp.int8)
    return jnp.stack([better, -better], axis=1).reshape(-1)
