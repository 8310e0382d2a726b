"""A generation's perturbations, drawn again from the few bytes that tell them."""

import abc
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray, PyTree

from eggroll.evolution import calls, noise as noises
from eggroll.evolution.generation import Generation
from eggroll.evolution.members import Drawn, Members, kept, perturb
from eggroll.evolution.validation import check_index
from eggroll.perturbation.interpreter import is_perturbed
from eggroll.perturbation.layout import Layout
from eggroll.perturbation.scale import Scale


class Drawing(abc.ABC):
    """What strategies know of noise: which there is, and whose it is.

    Attributes:
        population: members N of a generation.
        noise_reuse: for how many steps in a row the noise stays the same.
    """

    population: int
    noise_reuse: int

    def member(
        self, generation: Generation, params: PyTree, index: Int[Array, ""] | int
    ) -> PyTree:
        """Returns the parameters of one member, written out.

        Args:
            generation: from `ask` or `generation`, of a strategy like this.
            params: the parameters it was asked with.
            index: of the member, from 0; 2p and 2p + 1 are a pair.

        Raises:
            ValueError: if there is no such member, if the parameters are not like those
                the generation was asked with, or if it was asked for by a strategy with
                other noise.
        """
        drawn = self._draw_one(generation, index)
        call = calls.opened(lambda params: params, (params,), {})
        arrays = [jnp.asarray(x) for x in generation.arrays(call.params)]
        one = perturb(arrays, generation.layouts, drawn)
        written = (x.materialise() if is_perturbed(x) else x for x in one)
        return call.function(generation.arranged(written, call.params))[0]

    # --- What a strategy says

    @property
    @abc.abstractmethod
    def _pairs(self) -> bool:
        """Whether members 2p and 2p + 1 mirror each other."""

    @property
    @abc.abstractmethod
    def _distribution(self) -> str:
        """Of the factors' entries: a name in `noise.DISTRIBUTIONS`."""

    @abc.abstractmethod
    def _scale(self, layout: Layout, generation: Generation) -> Scale:
        """What the product of a leaf's factors is multiplied by."""

    @property
    def _noise_settings(self) -> tuple[tuple[str, Any], ...]:
        """What decides the noise of a generation, beside its plan."""
        names = ("population", "noise_reuse")
        settings = [(name, getattr(self, name)) for name in names]
        return (*settings, ("scheme", noises.SCHEME))

    # --- How it is drawn

    def _draw_one(self, generation: Generation, index: Any) -> Drawn:
        """Draws the perturbation of one member, if there is one of that number."""
        generation.check(self._noise_settings)
        check_index(index, self.population)
        drawn = self._draw(generation, jnp.atleast_1d(jnp.asarray(index)))
        return jax.tree.map(lambda x: x[0] if x.ndim else x, drawn)  # scales: shared

    def _draw(self, generation: Generation, index: Int[Array, " members"]) -> Drawn:
        """Draws the perturbations of some members."""
        members = Members.of(index, antithetic=self._pairs)
        layouts = generation.layouts
        drawn = noises.draw(
            layouts,
            self._noise_key(generation),
            members.pair[:: members.repeat],
            self._distribution,
            members.repeat,
            members.sign,
        )
        return [
            None if layout.is_frozen else (kept(x), self._scale(layout, generation))
            for layout, x in zip(layouts, drawn, strict=True)
        ]

    def _noise_key(self, generation: Generation) -> PRNGKeyArray:
        return noises.generation_key(generation.key, generation.step, self.noise_reuse)
