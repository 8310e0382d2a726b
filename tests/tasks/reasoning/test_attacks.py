"""What a reward pays for without a solution."""

import pytest
import reasoning_rewards

from tasks.reasoning import attacks
from tasks.reasoning.guard import Guard
from tasks.reasoning.rewards import find
from tasks.reasoning.sources import load
from tasks.reasoning.verifier import Function


@pytest.fixture(scope="module")
def dataset():
    return load("countdown", {"counts": [4]}, train=10, validation=4)


def attacked(reward, rows):
    lines = attacks.run(Guard(reward, processes=0), rows)
    return {line.name: line for line in lines}, attacks.verdict(lines)


def test_countdown_pays_for_its_reference_alone(dataset):
    found, troubles = attacked(find("countdown"), dataset.validation)
    assert troubles == []
    assert next(iter(found)) == "reference"
    assert found.pop("reference").solved == 1
    assert all(line.best <= 0.1 for line in found.values())
    assert {"empty", "huge", "towers of powers", "injected code"} <= {*found}
    assert found["a number used twice"].count == 4 * 4


@pytest.mark.parametrize(
    ("name", "options"), [("addition", {}), ("addition", {"take": "tag"})]
)
def test_exact_answers_are_paid_for_their_reference_alone(name, options):
    rows = load(name, {"low": 50}, train=10, validation=4).validation
    found, troubles = attacked(find("exact", options), rows)
    assert troubles == []
    assert sum(line.solved for line in found.values()) == 1


def test_a_reward_that_pays_for_anything_is_found_out(dataset):
    """Paid for the tag alone, wherever it came from."""
    naive = Function(lambda completion: float("<answer>" in completion))
    _, troubles = attacked(naive, dataset.validation)
    assert any("numbers in tags: 100% are paid in full" in one for one in troubles)


def test_a_number_used_twice_is_found_out_even_once(dataset):
    def careless(completion, numbers, target):
        from tasks.reasoning.answers import tagged
        from tasks.reasoning.countdown import evaluate

        found = evaluate(tagged(completion) or "")
        return float(found is not None and found.value == target)

    reward = Function(careless)
    lines = attacks.run(
        Guard(reward, processes=0),
        dataset.validation,
        reference=find("countdown").reference,
    )
    troubles = attacks.verdict(lines)
    assert any("a number used twice" in one for one in troubles)


def test_a_reward_that_hangs_is_found_out():
    row = load("addition", train=2, validation=1).validation[0]
    spin = Function(reasoning_rewards.spin_on_powers)
    with Guard(spin, deadline=0.2) as guard:
        lines = attacks.run(guard, [row])
    assert any("towers of powers" in one for one in attacks.verdict(lines))


def test_a_reference_that_is_not_paid_is_told(dataset):
    never = find("countdown", {"solved": 0.9})
    lines = attacks.run(Guard(never, processes=0), dataset.validation)
    assert "only 0% are paid in full" in attacks.verdict(lines)[0]


def test_the_table_has_a_line_for_each_attack(dataset):
    said = []
    guard = Guard(find("countdown"), processes=0)
    assert attacks.check(guard, dataset.validation, said.append) == []
    table, times = said
    lines = table.splitlines()
    assert lines[0].split() == ["attack", "n", "mean", "best", "solved", "ms", "failed"]
    assert lines[1].startswith("reference ")
    row = dataset.validation[0]
    known = attacks.catalogue(row, guard.reward.reference(**row.columns))
    assert len(lines) == 1 + len(known)
    assert "completions of 4 problems" in times
