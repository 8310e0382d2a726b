"""Reinforcement learning as a task: fitness is the return of whole episodes."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from eggroll import Task, UserError
from eggroll.config import Bounds, Choice, Count, Natural, check_bounds
from eggroll.runs import Frame
from tasks.control.action_head import ActionHead, Squash
from tasks.control.adapters import make
from tasks.control.environment import Environment, in_words
from tasks.control.inspection import inspected
from tasks.control.networks import Network
from tasks.control.normalisation import (
    Moments,
    merge,
    merge_all,
    no_moments,
    normalise,
    normalise_team,
)
from tasks.control.partial import partial
from tasks.control.ppo import PPOSettings, algorithm as ppo_algorithm
from tasks.control.rendering import watch
from tasks.control.rollout import Episodes, rollout, summary
from tasks.evosax import OPEN_ES, algorithm as evosax_algorithm


# Returns at which an environment counts as solved, for the plots.
SOLVED = MappingProxyType(
    {
        "gymnax/CartPole-v1": 475.0,
        "gymnax/Acrobot-v1": -100.0,
        "gymnax/Pendulum-v1": -200.0,
    }
)


PPO_DEFAULTS = PPOSettings()


class Data(NamedTuple):
    """What all members read in one step.

    Attributes:
        observed: moments of the observations of all generations before.
        key: decides the episodes if all members shall have the same.
        step_limit: steps after which an episode is truncated.
    """

    observed: Moments
    key: PRNGKeyArray
    step_limit: Int[Array, ""]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Control(Task):
    """Maximise the return of an environment's episodes.

    Fitness is the mean undiscounted return of a member's episodes, in the
    environment's own unit of reward; its best value and that of a random policy
    are the environment's too (CartPole-v1: best 500, random about 22).
    A non-finite reward, a non-finite observation that has to be acted on, or a state in
    which no action is legal ends its episode and makes the member's fitness non-finite,
    and so void.

    Attributes:
        environment: `library/name`, the name alone where one library has it,
            `package.module:Class`, or an environment itself.
        environment_options: passed on to the environment.
        unseen: numbers of an observation that the policy is not shown, such as its
            velocities, counted from 0 along the last axis.
        episodes: episodes per member and step.
        seeds: who meets the same initial states and chances in one step: the two
            members of a `pair`, the whole `population`, or no two members at all.
        network: `mlp`, `paper` (an `mlp` whose first layer has no bias, as in the
            paper), `gru`, `conv`, `itemwise`, or `package.module:Class`.
        hidden: width of each hidden layer.
        activation: a name from `models.activations.ACTIVATIONS`.
        shared: whether all agents of a team have the same parameters.
        deterministic: whether the policy takes its likeliest action or draws one.
        squash: how continuous actions keep to their bounds, `tanh` or `clip`.
        log_std: what the log standard deviation of continuous actions that are drawn
            is: outputs of the network, its `head`; or `free`, parameters that do not
            depend on what is observed, as in the paper, which start at 0.
        normalise_observations: whether to scale observations by the running mean
            and variance of all that the population has seen, and all agents of a team
            with `shared` parameters; what tells these apart (indices, types, padding)
            stays as it is. Validation reads these statistics and leaves them as they
            are.
        max_steps: steps after which an episode is truncated; by default (and at
            most) the environment's own limit.
        max_steps_start: the limit at step 0, if it shall rise to `max_steps`;
        max_steps_ramp: in that many steps, linearly.
        evaluation_episodes: episodes of the unperturbed policy per validation.
        ppo: settings of the algorithm `ppo`, the baseline.
        evosax: the strategy that the algorithm `evosax` is, with its options.
    """

    environment: str | Environment = "gymnax/CartPole-v1"
    environment_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    unseen: Annotated[Sequence[int], Bounds(least=0)] = ()
    episodes: Count = 1
    seeds: Literal["pair", "population", "member"] = "pair"
    network: str = "mlp"
    hidden: Annotated[Sequence[int], Bounds(least=1, most=2**20)] = (64, 64)
    activation: str = "pqn"
    shared: bool = True
    deterministic: bool = True
    squash: Squash = "tanh"
    log_std: Literal["head", "free"] = "head"
    normalise_observations: bool = False
    max_steps: Count | None = None
    max_steps_start: Count | None = None
    max_steps_ramp: Natural = 0
    evaluation_episodes: Count = 128
    ppo: PPOSettings = PPO_DEFAULTS
    evosax: Choice = OPEN_ES

    algorithms = MappingProxyType({"evosax": evosax_algorithm, "ppo": ppo_algorithm})
    samples = "frames"

    def __post_init__(self):
        check_bounds(self)
        if self.seeds not in ("pair", "population", "member"):
            raise UserError(
                f"seeds must be 'pair', 'population' or 'member', got {self.seeds!r}."
            )
        if self.log_std not in ("head", "free"):
            raise UserError(f"log_std must be 'head' or 'free', got {self.log_std!r}.")
        self.policy.check()  # a misspelt name is refused now, not at the first step

    @functools.cached_property
    def env(self) -> Environment:
        """The environment itself."""
        whole = self.environment
        if isinstance(whole, str):
            whole = make(whole, **self.environment_options)
        return partial(inspected(whole), self.unseen)

    @functools.cached_property
    def head(self) -> ActionHead:
        """How outputs become actions."""
        space = self.env.action_space
        return ActionHead(space, self.deterministic, self.squash)

    @functools.cached_property
    def policy(self) -> Network:
        """The network that reads observations."""
        agents, shape = self.env.agents, self.env.observation_shape
        return Network(
            self.network,
            shape if agents is None else shape[1:],
            self.head.outputs,
            hidden=self.hidden,
            activation=self.activation,
            agents=agents,
            shared=self.shared,
            free=self.head.spreads if self.log_std == "free" else 0,
        )

    @property
    def reference(
        self,
    ) -> Mapping[str, float]:
        """Returns worth a line in a plot."""
        name = self.env.name
        return {"solved": SOLVED[name]} if name in SOLVED else {}

    @property
    def most_samples(self) -> int:
        """Frames that a member's evaluation takes at most."""
        limit = self.env.step_limit
        return self.episodes * min(self.max_steps or limit, limit)

    def describe(self) -> Mapping[str, str]:
        """The environment in words, by name."""
        return in_words(self.env)

    def init(self, key: PRNGKeyArray) -> PyTree:
        return self.policy.init(key)

    def initial_state(self) -> Moments:
        return no_moments(self.env.observation_shape)

    def initial_carry(self, population: int) -> PyTree:
        """Number the members, if each shall have its own episodes."""
        return jnp.arange(population) if self.seeds == "member" else ()

    def batch(self, state: Moments, step: int, key: PRNGKeyArray) -> Data:
        return Data(state, key, self.step_limit_at(step))

    def evaluate(
        self, params: PyTree, data: Data, carry: PyTree, key: PRNGKeyArray
    ) -> tuple[Float[Array, ""], PyTree, dict[str, Any]]:
        if self.seeds == "population":
            key = data.key
        elif self.seeds == "member":
            key = jax.random.fold_in(key, carry)
        episodes = self._episodes(
            params,
            data.observed,
            key,
            episodes=self.episodes,
            step_limit=data.step_limit,
            observe=self.normalise_observations,
        )
        fitness = jnp.mean(episodes.returns)
        aux: dict[str, Any] = {
            "steps": jnp.sum(episodes.lengths),
            "metrics": {
                "episode_length": jnp.mean(episodes.lengths),
                "utilisation": episodes.utilisation,
            },
        }
        if episodes.won is not None:
            aux["metrics"]["win_rate"] = jnp.mean(episodes.won)
        if self.normalise_observations:
            aux["observed"] = episodes.observed
        return fitness, carry, aux

    def update_state(self, state: Moments, aux: dict[str, Any]) -> Moments:
        """Add what this generation has observed to what was observed before."""
        if not self.normalise_observations:
            return state
        return merge(state, merge_all(aux["observed"]))

    def validate(
        self, params: PyTree, state: Moments, key: PRNGKeyArray
    ) -> dict[str, float]:
        """Return the mean return of the unperturbed policy and its standard error.

        See `tasks.control.rollout.summary`.
        """
        return summary(jax.device_get(self._validation(params, state, key)))

    def render(
        self,
        params: PyTree,
        state: Moments,
        key: PRNGKeyArray,
        steps: int | None = None,
    ) -> list[Frame]:
        """Watch an episode of the unperturbed policy, of `steps` steps at most.

        Raises:
            UserError: the environment cannot be drawn.
        """
        act = functools.partial(self._act, params, state)
        limit = min(steps or self.env.step_limit, self.max_steps or self.env.step_limit)
        return watch(self.env, act, key, memory=self.policy.memory, step_limit=limit)

    @functools.cached_property
    def _validation(self):
        return jax.jit(
            functools.partial(self._episodes, episodes=self.evaluation_episodes)
        )

    def _episodes(
        self, params: PyTree, observed: Moments, key: PRNGKeyArray, **options: Any
    ) -> Episodes:
        """Run episodes of one policy."""
        act = functools.partial(self._act, params, observed)
        options = {"step_limit": self.max_steps, **options}
        memory = self.policy.memory
        return rollout(self.env, act, key, memory=memory, **options)

    def _act(
        self,
        params: PyTree,
        observed: Moments,
        observation: Float[Array, "..."],
        memory: PyTree,
        key: PRNGKeyArray,
        legal: Bool[Array, "..."] | None = None,
    ) -> tuple[Array, PyTree]:
        """Choose an action; returns it and the next memory."""
        if self.normalise_observations:
            is_team = self.env.agents is not None and self.shared
            scale = normalise_team if is_team else normalise
            observation = scale(observation, observed)
        outputs, memory = self.policy(params, observation, memory)
        return self.head.act(outputs, key, legal), memory

    def step_limit_at(self, step: int | Int[Array, ""]) -> Int[Array, ""]:
        """Steps after which an episode is truncated in one step of training."""
        limit = min(self.max_steps or self.env.step_limit, self.env.step_limit)
        if self.max_steps_start is None:
            return jnp.int32(limit)
        share = jnp.minimum(step / max(self.max_steps_ramp, 1), 1.0)
        start = min(self.max_steps_start, limit)
        return jnp.int32(jnp.round(start + share * (limit - start)))
