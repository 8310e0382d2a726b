import shutil
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from eggroll.errors import UserError
from eggroll.runs import Checkpoints, digests


class Bundle(NamedTuple):
    params: dict
    opt_state: optax.OptState
    key: jax.Array
    nothing: tuple


def bundle(seed: int) -> Bundle:
    key = jax.random.key(seed)
    params = {
        "w": jax.random.normal(key, (64, 8)),
        "half": jax.random.normal(key, (3,), jnp.bfloat16),
        "int": jnp.arange(5, dtype=jnp.int8),
        "scalar": jnp.float32(seed),
    }
    return Bundle(params, optax.adam(0.1).init({"w": params["w"]}), key, ())


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "checkpoints"


@pytest.fixture
def three(directory: Path) -> Checkpoints:
    checkpoints = Checkpoints(directory)
    for step in (1, 2, 3):
        checkpoints.save(step, bundle(step), {"step": step})
    return checkpoints


def data_file(directory: Path, step: int) -> Path:
    """The file that holds most of the arrays."""
    files = (directory / str(step)).rglob("d/*")
    return max(
        (file for file in files if file.is_file()), key=lambda f: f.stat().st_size
    )


def test_what_is_saved_comes_back_bit_for_bit(directory):
    saved = bundle(7)
    Checkpoints(directory).save(7, saved, {"seconds": 1.5})
    restored = Checkpoints(directory).restore(like=bundle(0))
    assert digests(restored.state) == digests(saved)
    assert jax.tree.structure(restored.state) == jax.tree.structure(saved)
    assert (restored.step, restored.facts) == (7, {"seconds": 1.5})


def test_the_oldest_checkpoints_go(directory):
    checkpoints = Checkpoints(directory, keep=2)
    for step in (1, 5, 9):
        checkpoints.save(step, bundle(step), {})
    assert checkpoints.steps() == [5, 9]


def flip_a_bit(directory: Path) -> None:
    file = data_file(directory, 3)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def truncate(directory: Path) -> None:
    file = data_file(directory, 3)
    file.write_bytes(file.read_bytes()[:100])


def remove_metadata(directory: Path) -> None:
    for file in (directory / "3").rglob("_METADATA"):
        file.write_text("")


def edit_the_facts(directory: Path) -> None:
    (file,) = (directory / "3").rglob("note/*etadata*")
    before = file.read_text()
    file.write_text(before.replace('{"step": 3}', '{"step": 2}'))
    assert file.read_text() != before


def rename(directory: Path) -> None:
    shutil.rmtree(directory / "3")
    (directory / "1").rename(directory / "3")


def empty(directory: Path) -> None:
    (directory / "4").mkdir()


@pytest.mark.parametrize(
    "damage", [flip_a_bit, truncate, remove_metadata, edit_the_facts, rename, empty]
)
def test_damage_is_noticed_and_the_newest_whole_checkpoint_taken(
    three, directory, damage
):
    damage(directory)
    restored = Checkpoints(directory).restore(like=bundle(0))
    assert restored.step == (3 if damage is empty else 2)
    assert digests(restored.state) == digests(bundle(restored.step))
    assert list(restored.damaged) == [4 if damage is empty else 3]


def test_a_flipped_bit_is_named(three, directory):
    flip_a_bit(directory)
    with pytest.raises(UserError, match=r"step 3: .*(digest differs|Error)"):
        Checkpoints(directory).restore(like=bundle(0), step=3)


def test_damaged_checkpoints_are_set_aside_and_their_number_is_free(three, directory):
    truncate(directory)
    checkpoints = Checkpoints(directory)
    checkpoints.set_aside(list(checkpoints.restore(like=bundle(0)).damaged))
    assert checkpoints.steps() == [1, 2]
    assert (directory.parent / "damaged" / "3").is_dir(), "nothing is deleted"
    checkpoints.save(3, bundle(3), {})
    assert checkpoints.restore(like=bundle(0)).step == 3


def test_another_form_of_the_state_is_no_checkpoint_of_it(three, directory):
    other = bundle(0)._replace(params={"w": jnp.ones((2, 2))})
    with pytest.raises(UserError, match="no readable checkpoint"):
        Checkpoints(directory).restore(like=other)


def test_a_step_that_was_not_saved_is_refused_with_those_that_were(three, directory):
    with pytest.raises(UserError, match=r"no checkpoint of step 5 .* only of 1, 2, 3"):
        three.restore(like=bundle(0), step=5)


def test_no_checkpoint_at_all_is_said(directory):
    with pytest.raises(UserError, match="the run saved none"):
        Checkpoints(directory).restore(like=bundle(0))


def test_a_failed_save_leaves_the_earlier_ones(three, directory, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(three._manager, "save", full)
    with pytest.raises(UserError, match=r"step 4 cannot be written .*No space left"):
        three.save(4, bundle(4), {})
    assert Checkpoints(directory).restore(like=bundle(0)).step == 3


def test_a_digest_tells_dtype_and_shape_apart():
    zeros = digests({"a": np.zeros((2, 3), np.float32)})
    assert zeros != digests({"a": np.zeros((3, 2), np.float32)})
    assert zeros != digests({"a": np.zeros((2, 3), np.int32)})


def test_a_checkpoint_is_restored_onto_the_devices_asked_for(directory):
    mesh = jax.make_mesh(
        (4,), ("population",), axis_types=(jax.sharding.AxisType.Auto,)
    )
    spread = jax.NamedSharding(mesh, jax.P("population"))
    state = {"w": jnp.arange(8.0)}
    Checkpoints(directory).save(1, state, {})
    like = jax.device_put(state, spread)
    restored = Checkpoints(directory).restore(like=like)
    assert restored.state["w"].sharding == spread
    assert digests(restored.state) == digests(state)
