import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tasks.supervised import Spirals, TeacherStudent


TASKS = {
    "teacher-student": TeacherStudent(hidden=(16,), batch_size=64, validation_size=256),
    "spirals": Spirals(hidden=(16,), batch_size=64, validation_size=256),
}
each_task = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)


def fitness(task, params, data):
    return task.evaluate(params, data, (), jax.random.key(0))[0]


@each_task
def test_batch_depends_on_the_key_alone(task, getkey):
    key, other = getkey(), getkey()
    first, again = task.batch((), 0, key), task.batch((), 7, key)
    np.testing.assert_array_equal(first.inputs, again.inputs)
    np.testing.assert_array_equal(first.targets, again.targets)
    assert not np.array_equal(first.inputs, task.batch((), 0, other).inputs)


@each_task
def test_gradient_agrees_with_finite_differences(task, getkey):
    params, data = task.init(getkey()), task.batch((), 0, getkey())
    direction = jax.tree.map(lambda x: jax.random.normal(getkey(), x.shape), params)

    @jax.jit
    def along(t):
        moved = jax.tree.map(lambda p, d: p + t * d, params, direction)
        return fitness(task, moved, data)

    step = 1e-2
    difference = (along(step) - along(-step)) / (2 * step)
    np.testing.assert_allclose(jax.grad(along)(0.0), difference, rtol=2e-2, atol=1e-3)


@each_task
def test_gradient_ascent_on_fitness_beats_chance(task, getkey):
    params, optimizer = task.init(getkey()), optax.adam(1e-2)
    before = task.validate(params, (), getkey())["loss"]

    @jax.jit
    def step(carry, key):
        params, opt_state = carry
        data = task.batch((), 0, key)
        grads = jax.grad(lambda p: -fitness(task, p, data))(params)
        updates, opt_state = optimizer.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state), None

    keys = jax.random.split(getkey(), 200)
    (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), keys)
    assert task.validate(params, (), getkey())["loss"] < 0.6 * before


@each_task
def test_validation_is_the_same_for_every_run(task, getkey):
    params = task.init(getkey())
    assert task.validate(params, (), getkey()) == task.validate(params, (), getkey())


def test_headline_metrics_come_first(getkey):
    names = {
        name: next(iter(task.validate(task.init(getkey()), (), getkey())))
        for name, task in TASKS.items()
    }
    assert names == {"teacher-student": "loss", "spirals": "accuracy"}


def test_answering_with_the_mean_scores_one_in_teacher_student(getkey):
    task = TASKS["teacher-student"]
    silent = jax.tree.map(jnp.zeros_like, task.init(getkey()))
    loss = task.validate(silent, (), getkey())["loss"]
    assert loss == pytest.approx(1.0, abs=5 * (2 / 1024) ** 0.5)  # 1024 numbers


def test_a_student_of_the_teachers_shape_can_be_perfect(getkey):
    task = TeacherStudent(hidden=(32,), teacher_hidden=(32,), activation="tanh")
    _, weights, mean, scale = task._teacher
    head = weights["head"]
    params = {**weights, "head": {
        "kernel": head["kernel"] / scale, "bias": (head["bias"] - mean) / scale,
    }}  # fmt: skip
    assert task.validate(params, (), getkey())["loss"] < 1e-10


def test_spiral_arms_are_equally_frequent_and_inside_the_disc(getkey):
    data = Spirals(arms=3, batch_size=3000).batch((), 0, getkey())
    counts = np.bincount(data.targets, minlength=3)
    assert np.all(np.abs(counts - 1000) < 5 * (3000 * 2 / 9) ** 0.5)
    assert np.max(np.linalg.norm(data.inputs, axis=1)) < 1.2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Spirals(arms=1), "at least 2 arms"),
        (lambda: Spirals(batch_size=0), "batch_size: expected at least 1"),
        (lambda: TeacherStudent(activation="rellu"), "Did you mean 'relu'"),
    ],
)
def test_impossible_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
