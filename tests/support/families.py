"""One tiny run of each family of tasks, each algorithm and each network."""

import importlib.util
from pathlib import Path
from typing import Any

from texts import folder_of


Settings = dict[str, Any]
ADAM = {"name": "adam", "learning_rate": 0.05}
WALK = {
    "class": "tasks.control:Control",
    "environment": "wandering:Wandering",
    "hidden": [4],
    "activation": "tanh",
    "normalise_observations": True,
    "evaluation_episodes": 4,
}
PPO = {"workers": 4, "steps": 12, "epochs": 2, "minibatches": 2}
GYMNASIUM = {
    "class": "tasks.control.host:HostControl",
    "environment": "host_environments:Walk-v0",
    "hidden": [4],
    "activation": "tanh",
    "processes": 0,
    "evaluation_episodes": 4,
}
TEXTS = {
    "class": "tasks.language:Language",
    "lanes": 4,
    "tokens": 8,
    "layers": 1,
    "width": 16,
    "validation_lanes": 4,
}
SUMS = {
    "class": "tasks.reasoning.task:Reasoning",
    "dataset": "addition",
    "dataset_options": {"low": 0, "high": 9, "prompt": "{a}{sign}{b}="},
    "reward": "families:letters",
    "validation_prompts": 4,
    "validation_batch": 4,
    "prompt_tokens": 12,
    "new_tokens": 3,
    "prompts": 2,
    "workers": 0,
    "halvings": 0,
}
SAMPLED = {**SUMS, "temperature": 1.0, "completions": 2}
PAIRS = {"population": 4, "sigma": 0.2}


def letters(completion: str) -> float:
    """A reward in which perturbed models differ."""
    return sum(ord(x) % 32 for x in completion) / 100


def toy(name: str, **more: Any) -> Settings:
    return {"task": {"class": f"toy:{name}"}, **more}


FAMILIES: dict[str, Settings] = {
    "shared state": toy("Sharing"),
    "carries": toy("Remembering"),
    "scored on the host": toy("ScoredOutside"),
    "backprop": toy("Line", algorithm="backprop"),
    "sigma adapts": toy(
        "Line", strategy={"sigma_adaptation": "one_fifth_success"}, precision="bfloat16"
    ),
    "a baseline": toy(
        "ScoredOutside", strategy={"shaping": "centre", "baseline": {"half_life": 2}}
    ),
    "supervised": {
        "task": {"class": "tasks.supervised:Spirals", "hidden": [4], "batch_size": 8}
    },
    **{
        f"control, {network}": {"task": {**WALK, "network": network, "hidden": [4, 4]}}
        for network in ("mlp", "gru", "conv", "itemwise")
    },
    "control, openes": {"task": WALK, "algorithm": "openes"},
    "control, ppo": {"task": {**WALK, "ppo": PPO}, "algorithm": "ppo"},
    "control, evosax": {"task": WALK, "algorithm": "evosax"},
    "control, gymnasium": {"task": GYMNASIUM},
    "control, ppo on the host": {
        "task": {**GYMNASIUM, "normalise_observations": True, "ppo": PPO},
        "algorithm": "ppo",
    },
    "language, integers": {"task": TEXTS, "algorithm": "integer"},
    "language, gru": {"task": {**TEXTS, "model": "gru"}},
    "language, transformer, backprop": {
        "task": {**TEXTS, "model": "transformer"},
        "algorithm": "backprop",
    },
    "reasoning, greedy": {"task": SUMS, "strategy": PAIRS},
    "reasoning, sampled": {
        "task": {**SAMPLED, "workers": 1},
        "strategy": {**PAIRS, "shaping": "centre", "baseline": {"half_life": 2}},
        "precision": "bfloat16",
    },
    "reasoning, grpo": {
        "task": {**SAMPLED, "grpo": {"divergence": 0.1}},
        "strategy": PAIRS,
        "algorithm": "grpo",
    },
    "reasoning, randopt": {
        "task": {**SUMS, "solved_at": 0.4, "randopt": {"best": 2}},
        "strategy": PAIRS,
        "algorithm": "randopt",
    },
}
NEEDS = {
    "control, evosax": "evosax",
    "control, gymnasium": "gymnasium",
    "control, ppo on the host": "gymnasium",
}
UNLOGGED = ("backprop", "ppo", "evosax", "grpo", "randopt")  # by algorithm
CARRYING = ("carries", "language, integers", "language, gru")  # cannot leap by the log


def missing(name: str) -> str:
    """The package that a family needs and that is not installed; or ""."""
    needs = NEEDS.get(name, "tokenizers" if name.startswith("reasoning") else "jax")
    return "" if importlib.util.find_spec(needs) else needs


def settings(name: str, folder: Path) -> Settings:
    """A config of a family, without a budget; what it reads is written to a folder."""
    family = FAMILIES[name]
    task, strategy = dict(family["task"]), family.get("strategy", {})
    if name.startswith("language"):
        task["corpus"] = str(folder_of(folder / "texts"))
    if name.startswith("reasoning"):
        import tiny_llm  # which needs an extra

        model = tiny_llm.write(folder / "model", layers=1, tied=False)
        task["checkpoint"] = str(model)
    made = {
        "optimizer": ADAM,
        "mesh": {"devices": 1},
        "diagnose_every": 10,
        "output": str(folder),
        **family,
        "task": task,
        "strategy": {"population": 16, "sigma": 0.0625, **strategy},
    }
    if made.get("algorithm") == "integer":
        del made["optimizer"]
    return made
