"""Group relative policy optimisation, the baseline for `Reasoning`.

The same model, prompts, generation and reward as evolution has; the optimiser is the
config's, and what its rules freeze stays as it is. For each prompt a group of
completions is sampled; their rewards, less the group's mean, say how much more, or
less, likely each becomes:

    maximise  mean over completions of 1/|y| Σ_t min(ρ_t A, clip(ρ_t, 1 ± ε) A) - β KL_t

where ρ_t is the probability of token t over that when it was sampled, at the sampling
temperature, and KL_t the estimate exp(d) - d - 1, d = log π_start - log π, of the
divergence from the start.

References:
    Shao et al., "DeepSeekMath" (2024), https://arxiv.org/abs/2402.03300; the estimate
    of the divergence is Schulman's "k3". Without division by the spread: Liu et al.,
    "Understanding R1-Zero-like training" (2025), https://arxiv.org/abs/2503.20783.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from eggroll import UserError
from eggroll.config import Bounds, Config, Count, NonNegative, check_bounds
from eggroll.evolution import compilers
from eggroll.training import Algorithm, Metrics, Purpose, State, instantiate, key_for
from models.llm.generation import Completions
from models.llm.interface import LanguageModel
from models.llm.scoring import log_likelihoods


EPSILON = 1e-4  # beside the spread of a group's rewards


@dataclasses.dataclass(frozen=True, kw_only=True)
class GRPOSettings:
    """What GRPO needs to know besides the optimiser.

    Attributes:
        minibatches: parts that a step's completions are cut into; they divide them.
        epochs: times they are gone through.
        clip: ε, the bound on the change of a token's probability.
        divergence: β, the weight of the divergence from the start; 0 saves a copy of
            the parameters.
        by_spread: whether rewards are divided by the spread of their group.
    """

    minibatches: Count = 4
    epochs: Count = 1
    clip: Annotated[float, Bounds(above=0, most=1)] = 0.2
    divergence: NonNegative = 0.0
    by_spread: bool = True

    def __post_init__(self):
        check_bounds(self, "grpo")


class Sampled(Protocol):
    """What is read of a task: all that `Reasoning` says of model, prompts and reward.

    `Reasoning` offers this algorithm, and so cannot be named here.
    """

    @property
    def language_model(self) -> LanguageModel: ...
    @property
    def prompts(self) -> int: ...
    @property
    def completions(self) -> int: ...
    @property
    def groups(self) -> int: ...
    @property
    def temperature(self) -> float: ...
    @property
    def top_p(self) -> float: ...
    @property
    def grpo(self) -> GRPOSettings: ...
    def evaluate(self, params: Any, data: Any, carry: Any, key: Any) -> Any: ...
    def rewards(self, done: Completions, data: Any) -> tuple[Any, Metrics]: ...


class Kept(NamedTuple):
    """What GRPO keeps between updates: the start is None without a divergence."""

    opt_state: optax.OptState
    start: PyTree


class Experience(NamedTuple):
    """Completions that are ready to be learnt from.

    Attributes:
        tokens: of prompt and completion.
        counts: which of them are of the completion.
        before: log-probability of each when it was sampled.
        start: at the start of the run; None without a divergence.
        advantage: of the whole completion.
    """

    tokens: Int[Array, "rows tokens"]
    counts: Bool[Array, "rows tokens"]
    before: Float[Array, "rows tokens"]
    start: Float[Array, "rows tokens"] | None
    advantage: Float[Array, " rows"]


def algorithm(task: Sampled, config: Config) -> Algorithm:
    """Returns GRPO on the prompts of a `Reasoning` task.

    Raises:
        UserError: the task's settings leave it nothing to compare.
    """
    rows, parts = task.prompts * task.completions, task.grpo.minibatches
    if task.completions < 2 or not task.temperature or task.top_p < 1:
        raise UserError(
            "algorithm: 'grpo' compares completions of one prompt, drawn from all "
            "tokens: it needs completions of at least 2, a temperature above 0 and "
            f"top_p 1, got {task.completions}, {task.temperature:g} and {task.top_p:g}"
        )
    if task.groups > 1 or rows % parts:
        raise UserError(
            f"algorithm: 'grpo' needs groups 1, and minibatches that divide prompts x "
            f"completions = {rows}, got {task.groups} and {parts}"
        )
    optimizer = instantiate.optimizer(config, instantiate.rules(config.strategy.rules))
    follow = functools.partial(_learn, task, optimizer)
    learn = compilers.jit(follow)

    def init(params: PyTree) -> Kept:
        start = jax.tree.map(jnp.copy, params) if task.grpo.divergence else None
        return Kept(optimizer.init(params), start)

    @jax.jit
    def sample(state: State, data: Any) -> Completions:
        key = key_for(state.key, Purpose.NOISE, state.step)
        return task.evaluate(state.params, data, (), key)[2]["completions"]

    def step(state: State, data: Any) -> tuple[State, Metrics]:
        done = sample(state, data)
        worth, figures = task.rewards(jax.device_get(done), data)
        state, metrics = learn(state, data, done, worth[0].astype("float32"))
        return state, metrics | figures

    def trial(state: State, data: Any) -> tuple[State, Metrics]:
        worth = jnp.zeros((task.prompts, task.completions))
        return follow(state, data, sample(state, data), worth)

    return Algorithm(init, step, rows, trial=trial)


def advantages(
    rewards: Float[Array, "prompts completions"], *, by_spread: bool = True
) -> Float[Array, "prompts completions"]:
    """Returns how much better each completion is than the mean of its prompt's."""
    centred = rewards - jnp.mean(rewards, axis=1, keepdims=True)
    if not by_spread:
        return centred
    return centred / (jnp.std(rewards, axis=1, keepdims=True) + EPSILON)


def objective(
    now: Float[Array, "rows tokens"], data: Experience, settings: GRPOSettings
) -> tuple[Float[Array, ""], Metrics]:
    """Returns what GRPO maximises, of log-probabilities as they are, and figures."""
    ratio = jnp.exp(jnp.where(data.counts, now - data.before, 0))
    low, high = 1 - settings.clip, 1 + settings.clip
    gain = data.advantage[:, None]
    value = jnp.minimum(ratio * gain, jnp.clip(ratio, low, high) * gain)
    figures = {"grpo/clipped": _mean(value < ratio * gain, data.counts)}
    if data.start is not None:
        away = jnp.where(data.counts, data.start - now, 0)
        divergence = jnp.exp(away) - away - 1
        value = value - settings.divergence * divergence
        figures["grpo/divergence"] = _mean(divergence, data.counts)
    return _mean(value, data.counts), figures


def _mean(x: Array, counts: Bool[Array, "rows tokens"]) -> Float[Array, ""]:
    """The mean over completions of the mean over each one's tokens."""
    lengths = jnp.maximum(jnp.sum(counts, axis=1), 1)
    return jnp.mean(jnp.sum(x, axis=1, where=counts) / lengths)


def _learn(
    task: Sampled,
    optimizer: optax.GradientTransformation,
    state: State,
    prompts: Any,
    done: Completions,
    worth: Float[Array, "prompts completions"],
) -> tuple[State, Metrics]:
    """Goes through a step's completions, minibatch after minibatch."""
    settings, kept = task.grpo, state.opt_state
    data = _experience(task, state, prompts, done, worth)
    likelihood = _likelihood(task)

    def loss(params: PyTree, part: Experience) -> tuple[Array, Metrics]:
        value, figures = objective(likelihood(params, part.tokens), part, settings)
        return -value, figures

    def update(carry: tuple, part: Experience) -> tuple[tuple, Metrics]:
        params, opt_state = carry
        grads, figures = jax.grad(loss, has_aux=True)(params, part)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        figures["gradient/norm"] = optax.global_norm(grads)
        return (optax.apply_updates(params, updates), opt_state), figures

    order = _order(key_for(state.key, Purpose.CENTRE, state.step), data, settings)
    parts = jax.tree.map(lambda x: x[order], data)
    carry = state.params, kept.opt_state
    (params, opt_state), figures = jax.lax.scan(update, carry, parts)
    metrics = {name: jnp.mean(x) for name, x in figures.items()} | {
        "samples": jnp.sum(done.lengths),
        "length": jnp.mean(done.lengths.astype(jnp.float32)),
        "ended": jnp.mean(done.ended.astype(jnp.float32)),
        "grpo/without_advantage": jnp.mean(jnp.ptp(worth, axis=1) == 0),
    }
    new = state.advanced(params=params, opt_state=kept._replace(opt_state=opt_state))
    return new, metrics


def _experience(
    task: Sampled, state: State, prompts: Any, done: Completions, worth: Array
) -> Experience:
    tokens, counts = joined(prompts.tokens, prompts.lengths, done)
    likelihood, start = _likelihood(task), state.opt_state.start
    parts = tokens.reshape(task.grpo.minibatches, -1, tokens.shape[1])

    # As many at once as later, when gradients flow.
    def of(params: PyTree) -> Float[Array, "rows tokens"]:
        found = jax.lax.map(functools.partial(likelihood, params), parts)
        return found.reshape(tokens.shape)

    gains = advantages(worth, by_spread=task.grpo.by_spread)
    return Experience(
        tokens,
        counts,
        before=of(state.params),
        start=None if start is None else of(start),
        advantage=gains.reshape(-1),
    )


def _likelihood(task: Sampled) -> Callable[[PyTree, Array], Float[Array, "rows n"]]:
    """Of each token, at the temperature at which it was sampled."""
    of = functools.partial(log_likelihoods, task.language_model)
    return functools.partial(of, temperature=task.temperature)


def joined(
    tokens: Int[Array, "rows prompt_tokens"],
    lengths: Int[Array, " rows"],
    done: Completions,
) -> tuple[Int[Array, "rows tokens"], Bool[Array, "rows tokens"]]:
    """Puts completions behind their prompts; tells which tokens are theirs."""
    room = done.tokens.shape[1]
    place = jnp.arange(tokens.shape[1] + room) - lengths[:, None]
    counts = (place >= 0) & (place < done.lengths[:, None])
    made = jnp.take_along_axis(done.tokens, jnp.clip(place, 0, room - 1), axis=1)
    given = jnp.pad(tokens, ((0, 0), (0, room)))
    return jnp.where(counts, made, given), counts


def _order(
    key: PRNGKeyArray, data: Experience, settings: GRPOSettings
) -> Int[Array, "updates rows"]:
    """Which rows each update reads."""
    rows = data.advantage.shape[0]
    keys = jax.random.split(key, settings.epochs)
    every = jax.vmap(lambda key: jax.random.permutation(key, rows))(keys)
    return every.reshape(settings.epochs * settings.minibatches, -1)
