"""Checkpoints that are either whole and true or passed over.

Orbax writes them so that a kill leaves the earlier ones alone, but restores damaged
data without a word (19 of 20 flipped bits went unnoticed). So each leaf is saved with
its digest, and so is what is noted beside them; what does not match gives way to the
newest older one that does.
"""

import contextlib
import hashlib
import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from jaxtyping import PyTree

from eggroll.errors import UserError
from eggroll.runs.digest import digests


class Restored(NamedTuple):
    """What a checkpoint held.

    Attributes:
        step: Of the checkpoint.
        state: The saved pytree.
        facts: What was noted beside it.
        damaged: Newer checkpoints that could not be read, with the reason.
    """

    step: int
    state: PyTree
    facts: dict[str, Any]
    damaged: dict[int, str]


class Checkpoints:
    """The checkpoints of one run, in a directory of their own."""

    def __init__(self, directory: Path, *, keep: int | None = None):
        """Opens the directory, which need not exist yet.

        Args:
            directory: Where the checkpoints are.
            keep: How many of them stay when one is saved; None for all.
        """
        self.directory = directory.absolute()
        options = ocp.CheckpointManagerOptions(
            max_to_keep=None, create=False, enable_async_checkpointing=False
        )
        self._keep = keep
        # Weights hardly shrink, and take five times as long if they are made to.
        arrays = ocp.PyTreeCheckpointHandler(use_compression=False)
        handlers = {"state": arrays, "note": ocp.JsonCheckpointHandler()}
        self._manager = ocp.CheckpointManager(
            self.directory, options=options, item_handlers=handlers
        )

    def steps(self) -> list[int]:
        """The steps of which there is a checkpoint, readable or not, oldest first."""
        return sorted(self._manager.all_steps())

    def save(
        self,
        step: int,
        state: PyTree,
        facts: dict[str, Any],
        *,
        spare: int | None = None,
    ) -> dict[str, str]:
        """Writes one checkpoint and then drops the oldest beyond `keep`.

        Args:
            step: Its number.
            state: A pytree of arrays.
            facts: Plain data to keep beside it.
            spare: A step whose checkpoint stays though it is old.

        Returns:
            The digests of the state.

        Raises:
            UserError: It cannot be written; the earlier ones are untouched.
        """
        note: dict[str, Any] = {"step": step, "facts": facts, "digests": digests(state)}
        note["seal"] = _seal(note)
        items = ocp.args.Composite(
            state=ocp.args.PyTreeSave(state), note=ocp.args.JsonSave(note)
        )
        self.directory.mkdir(parents=True, exist_ok=True)
        try:
            with _quiet():
                self._manager.save(step, args=items)
                self._thin(spare)
        except Exception as error:  # of many kinds, from Orbax and from TensorStore
            raise UserError(
                f"the checkpoint of step {step} cannot be written to {self.directory}: "
                f"{_in_short(error)}; earlier checkpoints are untouched"
            ) from error
        return note["digests"]

    def restore(
        self, like: PyTree, step: int | None = None, until: int | None = None
    ) -> Restored:
        """Reads the newest checkpoint that is whole.

        Args:
            like: A pytree of the structure, shapes and placement to restore.
            step: Read this one instead.
            until: Look at none of later steps.

        Raises:
            UserError: There is none, or none can be read.
        """
        steps = [one for one in self.steps() if until is None or one <= until]
        if step is not None and step not in steps:
            raise UserError(
                f"there is no checkpoint of step {step} in {self.directory}, only of "
                f"{', '.join(map(str, steps)) or 'none'}"
            )
        damaged = {}
        for number in reversed(steps) if step is None else [step]:
            try:
                return Restored(number, *self._read(number, like), damaged)
            except Exception as error:  # of many kinds, as damage is
                damaged[number] = _in_short(error)
        reasons = "; ".join(f"step {number}: {why}" for number, why in damaged.items())
        raise UserError(
            f"there is no readable checkpoint in {self.directory}"
            + (f" ({reasons})" if reasons else ": the run saved none")
        )

    def facts(self, step: int | None = None) -> dict[str, Any] | None:
        """What was noted beside the newest state, or beside that of `step`.

        None, if there is no note that can be read; `restore` says why.
        """
        for number in reversed(self.steps()) if step is None else [step]:
            with contextlib.suppress(Exception):  # of many kinds, as damage is
                items = ocp.args.Composite(note=ocp.args.JsonRestore())
                with _quiet():
                    note = self._manager.restore(number, args=items)["note"]
                return _unsealed(note, number)["facts"]
        return None

    def set_aside(self, steps: list[int]) -> None:
        """Moves checkpoints out of the way, to be looked at by a human."""
        for step in steps:
            target = self.directory.with_name("damaged") / str(step)
            target.parent.mkdir(exist_ok=True)
            shutil.rmtree(target, ignore_errors=True)
            shutil.move(self.directory / str(step), target)
        self.reload()

    def reload(self) -> None:
        """Looks afresh at what there is, which others may have changed."""
        self._manager.reload()

    def _thin(self, spare: int | None) -> None:
        """Drops the oldest beyond `keep`."""
        for step in self.steps()[: -self._keep] if self._keep else []:
            if step != spare:
                self._manager.delete(step)

    def _read(self, step: int, like: PyTree) -> tuple[PyTree, dict[str, Any]]:
        form = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(
                leaf.shape, leaf.dtype, sharding=leaf.sharding
            ),
            like,
        )
        items = ocp.args.Composite(
            state=ocp.args.PyTreeRestore(
                form, ocp.checkpoint_utils.construct_restore_args(form)
            ),
            note=ocp.args.JsonRestore(),
        )
        with _quiet():
            restored = self._manager.restore(step, args=items)
        note, state = _unsealed(restored["note"], step), restored["state"]
        for name, found in digests(state).items():
            if note["digests"].get(name) != found:
                raise ValueError(f"the data of {name} is damaged (its digest differs)")
        return state, note["facts"]


def _unsealed(note: dict[str, Any], step: int) -> dict[str, Any]:
    """The note of a checkpoint, if it is as it was written and of that step."""
    if note.pop("seal", None) != _seal(note):
        raise ValueError("what is noted beside the state has changed since")
    if note["step"] != step:
        raise ValueError(f"it is the checkpoint of step {note['step']}, renamed")
    return note


def _seal(note: dict[str, Any]) -> str:
    """The SHA-256 of a note as JSON gives it back."""
    text = json.dumps(json.loads(json.dumps(note)), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps Orbax from logging the tracebacks of what it raises, too."""
    logger = logging.getLogger("absl")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


def _in_short(error: Exception) -> str:
    text = (str(error).strip().splitlines() or [""])[0]
    if len(text) > 200:  # TensorStore puts the cause last
        text = f"{text[:40]} ... {text[-140:]}"
    return f"{type(error).__name__}: {text}"
