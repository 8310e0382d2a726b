"""From published learning rates to ours.

Sigma means the same everywhere: the standard deviation of each weight's perturbation.
Learning rates do not. Written for fitness weights w and unit-variance perturbations E,
one step of gradient descent moves the mean weights by

    convention      step                             learning rate for `optax.sgd` here
    ours            η/(Nσ) Σ w_i E_i                 η
    "paper"         α/N Σ w_i E_i                    η = α σ
    "hyperscale"    lr √N/N Σ w_i σ E_i              η = lr σ² √N
    "vllm"          lr/(Nσ) Σ w_i σ E_i              η = lr σ

"paper" is equation 6 of arXiv 2511.16652, whose α has taken in 1/σ; "hyperscale" the
library the paper's JAX experiments were run with; "vllm" that of its Qwen experiments
(times √N where its flag for that is set). Optimisers that divide by the gradient's own
size, such as Adam, keep their published learning rate.
"""

from collections.abc import Callable


CONVENTIONS: dict[str, Callable[[float, int], float]] = {
    "ours": lambda sigma, population: 1.0,
    "paper": lambda sigma, population: sigma,
    "hyperscale": lambda sigma, population: sigma**2 * population**0.5,
    "vllm": lambda sigma, population: sigma,
}


def sgd_learning_rate(
    published: float, convention: str, *, sigma: float, population: int
) -> float:
    """Returns the learning rate with which `optax.sgd` makes the published step.

    Args:
        published: the learning rate as published.
        convention: "paper", "hyperscale", "vllm" or "ours": see the module's table.
        sigma: standard deviation of each weight's perturbation.
        population: number of members, both of each antithetic pair counted.

    Raises:
        ValueError: if the convention is unknown.
    """
    if convention not in CONVENTIONS:
        raise ValueError(
            f"convention must be one of {', '.join(CONVENTIONS)}, got {convention!r}"
        )
    return published * CONVENTIONS[convention](sigma, population)
