"""What an integer strategy may be told: its kinds of noise, and what it refuses."""

import math
from typing import Any, Literal

from eggroll.evolution.validation import check_whole
from eggroll.integer import votes


IntegerNoise = Literal["rademacher", "gaussian", "truncated"]

# The distributions, and log2 of the standard deviation of a product of two values.
NOISES = {
    "rademacher": ("rademacher", 0),
    "gaussian": ("int8_gaussian", 8),
    "truncated": ("int8_truncated", 8),
}


def check_settings(es: Any) -> None:
    """Refuses settings of an `IntegerStrategy` that cannot work.

    Raises:
        ValueError: for a setting that cannot work; the message says what can.
    """
    if es.noise not in NOISES:
        raise ValueError(f"noise must be one of {', '.join(NOISES)}, got {es.noise!r}")
    if es.rounding not in ("nearest", "floor"):
        raise ValueError(f'rounding must be "nearest" or "floor", got {es.rounding!r}')
    if es.weighting not in votes.WEIGHTS:
        raise ValueError(
            f'weighting must be "difference" or "sign", got {es.weighting!r}'
        )
    if es.weighting == "difference" and es.noise != "rademacher":
        raise ValueError(
            f'weighting="difference" needs noise="rademacher", as other products '
            f'overflow int8; with {es.noise!r} noise use weighting="sign"'
        )
    if not 0 <= es.sigma_shift <= 8:
        raise ValueError(
            f"sigma_shift must be between 0 (sigma 1) and 8 (sigma 1/256), got "
            f"{es.sigma_shift}: 4 is the published choice"
        )
    check_whole(es, "rank")
    for pattern, rule in es.rules.items():
        scale = getattr(rule, "sigma_scale", 1.0)
        if math.log2(scale) % 1:
            raise ValueError(
                f"the sigma_scale of an integer leaf is a shift, so it must be a power "
                f"of two; got {scale} for {pattern!r}"
            )
