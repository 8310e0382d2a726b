"""Answers that a program can check, by language models: the task of reasoning."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from eggroll import UserError
from eggroll.config import Bounds, Config, Count, Natural, NonNegative, Positive
from eggroll.training import processes
from models.llm.generation import GREEDY, Completions, Sampling, generate
from tasks.reasoning import attacks, held_out, scores, ties
from tasks.reasoning.checkpoint import FromCheckpoint, blaming, padded
from tasks.reasoning.cluster import Cluster
from tasks.reasoning.grpo import GRPOSettings, algorithm as by_grpo
from tasks.reasoning.guard import Guard, Scored
from tasks.reasoning.randopt import RandOptSettings, algorithm as by_randopt
from tasks.reasoning.rows import Row


GRPO_DEFAULTS, RANDOPT_DEFAULTS = GRPOSettings(), RandOptSettings()
ATTACKED = 8  # problems that a reward is attacked on


class Prompts(NamedTuple):
    """What a step completes; with a leading dimension, too, of groups of members.

    Attributes:
        tokens: of the prompts, padded.
        lengths: of each.
        rows: of the dataset.
    """

    tokens: Int[Any, "prompts prompt_tokens"]
    lengths: Int[Any, " prompts"]
    rows: Int[Any, " prompts"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reasoning(FromCheckpoint):
    """Complete prompts such that a reward is high.

    Fitness is the mean reward of a member's completions; its best value and that of
    chance are the reward's. The headline metric is `solved`, the share of held-out
    prompts whose completion by the unperturbed model, always the likeliest token, gets
    at least `solved_at`: best 1.

    All members complete the same prompts, or (`groups`) each group of consecutive
    members its own; then rewards are centred prompt by prompt within the group.

    Attributes:
        prompts: that a member completes in a step.
        completions: of each prompt; more than one needs a temperature.
        aggregate: what completions of one prompt are worth: "mean", "max", or "pass@K",
            the estimated chance that one of K solves it.
        divide: what rewards, centred on each prompt's mean, are divided by: "nothing",
            or the spread of each "prompt", so that all prompts weigh the same.
        groups: how many groups of members have prompts of their own.
        temperature: 0 takes the likeliest token.
        top_p: of sampling.
        halvings: how often a batch is halved while rows end; see `generate`.
        solved_at: the reward of a solution.
        validation_samples: completions at temperature 1 of each held-out prompt, of
            which `pass@1`, `pass@2`, `pass@4` ... are told; 0 for none.
        compare_with_start: tell of the parameters' `drift`, their Euclidean distance
            from the checkpoint's, and of the `divergence` from the start, per token of
            the held-out completions, in nats. It costs a copy of the checkpoint's
            parameters on the host, another on the device while a validation lasts, and
            two readings of the completions. (Not with `random`.)
        workers: processes that score; 0: in this one, for rewards that surely end.
        scorers: actors of a ray cluster that score, with so many workers each: on any
            number of machines (extra `ray`; see `tasks.reasoning.cluster`).
        deadline: seconds for one reward.
        memory: GiB that a worker may take.
        grpo: settings of the algorithm `grpo`, a baseline.
        randopt: settings of the algorithm `randopt`, a baseline.
    """

    prompts: Count = 8
    completions: Count = 1
    aggregate: str = "mean"
    divide: Literal["nothing", "prompt"] = "nothing"
    groups: Count = 1
    temperature: NonNegative = 0.0
    top_p: Annotated[float, Bounds(above=0, most=1)] = 1.0
    halvings: Natural = 1
    solved_at: float = 1.0
    validation_samples: Natural = 0
    compare_with_start: bool = True
    workers: Natural = 2
    scorers: Natural = 0
    deadline: Positive = 5.0
    memory: Positive = 1.0
    grpo: GRPOSettings = GRPO_DEFAULTS
    randopt: RandOptSettings = RANDOPT_DEFAULTS

    algorithms = MappingProxyType({"grpo": by_grpo, "randopt": by_randopt})

    @property
    def data_axes(self) -> int | None:
        """Whether members read the same prompts (None) or a group its own (0)."""
        return None if self.groups == 1 else 0

    def __post_init__(self) -> None:
        super().__post_init__()
        with blaming("aggregate"):
            scores.aggregated(np.zeros(self.completions), self.aggregate)
        if self.completions > 1 and not self.temperature:
            raise UserError(
                f"completions: {self.completions} of one prompt are all the same at "
                "temperature 0: raise temperature, or ask for one"
            )

    def ready(self) -> None:
        super().ready()
        row = self.data.validation[0]
        with blaming("reward"):
            self.guard.try_out(row.prompt, row.columns)

    @functools.cached_property
    def guard(self) -> Guard:
        """The reward, behind its worker processes."""
        several = functools.partial(Cluster, actors=self.scorers)
        kind = several if self.scorers else Guard
        how = {"processes": self.workers, "memory": self.memory}
        return kind(self.verifier, deadline=self.deadline, **how)

    @property
    def sampling(self) -> Sampling:
        """How members choose tokens."""
        return Sampling(self.temperature, self.top_p)

    def batch_like(self) -> Prompts:
        shape = () if self.groups == 1 else (self.groups,)
        shape = (*shape, self.prompts * self.completions)
        whole = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.int32)
        return Prompts(whole((*shape, self.prompt_tokens)), whole(shape), whole(shape))

    def batch(self, state: tuple, step: int, key: PRNGKeyArray) -> Prompts:
        """Read the next prompts of the epoch; no chance is involved."""
        del state, key
        at = self.data.places(step, self.groups * self.prompts, seed=self.data_seed)
        at = np.repeat(at, self.completions)
        made = self.prompts_of(at, [self.data.train[i] for i in at.tolist()])
        if self.groups == 1:
            return made
        split = lambda x: x.reshape(self.groups, -1, *x.shape[1:])
        return Prompts(*map(split, made))

    def prompts_of(self, at: np.ndarray, rows: list[Row]) -> Prompts:
        """Rows as the model reads them, and where they stand in the dataset."""
        tokens = [self.tokens_of(row.prompt) for row in rows]
        return Prompts(*padded(tokens, self.prompt_tokens), at.astype(np.int32))

    def evaluate(
        self, params: PyTree, data: Prompts, carry: tuple, key: PRNGKeyArray
    ) -> tuple[Float[Array, ""], tuple, dict[str, Any]]:
        """Complete the prompts; what that is worth, `score` says."""
        done = self.complete(params, data, self.sampling, key)
        metrics = {
            "length": jnp.mean(done.lengths.astype(jnp.float32)),
            "ended": jnp.mean(done.ended.astype(jnp.float32)),
        }
        aux = {"steps": jnp.sum(done.lengths), "metrics": metrics, "completions": done}
        return jnp.float32(0), carry, aux

    def complete(
        self, params: PyTree, data: Prompts, sampling: Sampling, key: PRNGKeyArray
    ) -> Completions:
        """A completion of each prompt."""
        return generate(
            self.language_model,
            params,
            data.tokens,
            data.lengths,
            new_tokens=self.new_tokens,
            end_tokens=self.end_tokens,
            sampling=sampling,
            key=key,
            halvings=self.halvings,
        )

    def score(
        self, aux: Mapping[str, Any], data: Prompts
    ) -> tuple[Float[np.ndarray, " population"], dict[str, float]]:
        """Fitness and figures of a generation's completions, on the host."""
        found, figures = self.rewards(aux["completions"], data)
        worth = scores.aggregated(found, self.aggregate, self.solved_at)
        if self.groups == 1 and self.divide == "nothing":
            fitness = worth.mean(axis=1)  # centred or not: shaping does that
        else:
            groups = worth.reshape(self.groups, -1, self.prompts)
            each = [scores.prompt_wise(one, self.divide) for one in groups]
            fitness = np.concatenate(each)
        return fitness, figures | {"fitness/tied_pairs": scores.tied_pairs(fitness)}

    def rewards(
        self, done: Completions, data: Prompts
    ) -> tuple[Float[np.ndarray, "members prompts completions"], dict[str, float]]:
        """What the completions of some members get, and figures of that."""
        each = self.prompts * self.completions
        members = done.lengths.size // each
        rows = np.asarray(data.rows).reshape(self.groups, each)
        rows = np.repeat(rows, members // self.groups, axis=0).reshape(-1)
        drawn = {i: self.data.train[i] for i in {*rows.tolist()}}  # each of them once
        found = self.scored(done, [drawn[i] for i in rows.tolist()])
        figures = {"reward": found.scores.mean(), "solved": self._solved(found)}
        figures |= {f"failed/{name}": count for name, count in found.failed.items()}
        shape = members, self.prompts, self.completions
        return found.scores.reshape(shape), figures

    def scored(self, done: Completions, rows: list[Row]) -> Scored:
        """What the reward says of completions, each of a row.

        Each process of a run has a share of them scored.
        """
        own = processes.share(len(rows))
        mine, texts = rows[own], self.texts(done)[own]
        columns = {n: [x.columns[n] for x in mine] for n in rows[0].columns}
        prompts, contents = [x.prompt for x in mine], [x.content for x in mine]
        found = self.guard.score(prompts, texts, columns, contents)
        return Scored.of(processes.joined(found.plain()))

    def texts(self, done: Completions) -> list[str]:
        """What completions say, with what they begin with."""
        tokens = done.tokens.reshape(-1, done.tokens.shape[-1])
        lengths = done.lengths.reshape(-1)
        return [self._text(*one) for one in zip(tokens, lengths, strict=True)]

    def _text(self, tokens: Int[np.ndarray, " tokens"], length: int) -> str:
        return self.prefix + self.words.decode(tokens[:length])

    def _solved(self, found: Scored) -> float:
        return float(np.mean(found.solved(self.solved_at)))

    def validate(
        self, params: PyTree, state: tuple, key: PRNGKeyArray
    ) -> dict[str, float]:
        """Complete held-out prompts with the unperturbed parameters, greedily.

        `solved` and `reward`; `length`, in tokens, and the share that `ended`; `drift`
        and `divergence`, and `pass@K`, where the settings ask for them.
        """
        del state
        return held_out.validate(self, params, key)

    @functools.cached_property
    def completer(self) -> Callable[..., Completions]:
        """`complete`, compiled."""
        return jax.jit(self.complete, static_argnames="sampling")

    @functools.cached_property
    def start(self) -> PyTree:
        """The checkpoint's parameters, on the host; None where none are wanted."""
        if not self.compare_with_start or self.random:
            return None
        return jax.device_get(self.init(jax.random.key(0)))

    def check_reward(self, config: Config, say: Callable[[str], None]) -> list[str]:
        """Attacks the reward; tells what each attack gets, and what is wrong with it.

        Where the checkpoint is there, it also tells how often it is right already.
        """
        troubles = attacks.check(
            self.guard, self.data.validation[:ATTACKED], say, self.solved_at
        )
        if self.is_there:
            key = jax.random.key(config.seed)
            rows = held_out.rows_of(self)
            done = held_out.completed(self, self.init(key), rows, GREEDY, key)
            answers, found = len(rows), held_out.figures(self, done, rows)
            solved = round(found["solved"] * answers)
            pairs = config.strategy.population // 2
            say(ties.told(solved, answers, self.prompts, pairs))
        return troubles

    def sample(
        self,
        params: PyTree,
        prompt: bytes,
        length: int,
        key: PRNGKeyArray,
        temperature: float = 0.0,
    ) -> Iterator[bytes]:
        """Complete a prompt by `length` tokens at most."""
        at = np.zeros(1, np.int32)
        tokens, lengths = padded([self.tokens_of(prompt.decode())], self.prompt_tokens)
        once = dataclasses.replace(self, new_tokens=length)
        run = jax.jit(functools.partial(once.complete, sampling=Sampling(temperature)))
        done = jax.device_get(run(params, Prompts(tokens, lengths, at), key=key))
        yield self._text(done.tokens[0], done.lengths[0]).encode()
