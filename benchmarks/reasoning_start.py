"""Where the runs of `benchmarks.reasoning` start: small models that answer in part.

Each is drawn at random and fine-tuned on the reference answers of the problems to learn
from, until it solves a quarter of those held out.
"""

import json
from pathlib import Path
from typing import Any

import jax
from jaxtyping import PyTree
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from eggroll import training
from eggroll.config import Config, load
from models.llm import checkpoint, rwkv7_checkpoint, world
from models.llm.config import TransformerConfig
from models.llm.interface import LanguageModel
from models.llm.rwkv7 import RWKV7
from models.llm.rwkv7_config import RWKV7Config
from models.llm.transformer import Transformer
from tasks.reasoning import held_out
from tasks.reasoning.likelihood import Likelihood
from tasks.reasoning.task import Reasoning


ROOT = Path(__file__).parent.parent
CHECKPOINTS = ROOT / "runs" / "reasoning"
SETTINGS = Path(__file__).with_name("reasoning.yaml")
WANTED, EVERY = 0.25, 100  # the share that is solved; steps between looks
TUNING = {
    "algorithm": "backprop",
    "optimizer.name": "adam",
    "learning_rate": 3e-3,
    "examples": 32,
}
# Of what is completed; a verifier that reads 16 characters needs no guard.
COMPLETED = {"halvings": 0, "workers": 0, "compare_with_start": False}
BYTES = 256
END = 256  # of the Transformer's vocabulary; the World's ends with 0
SIZES: dict[str, LanguageModel] = {
    "transformer": Transformer(
        TransformerConfig(
            width=128,
            layers=4,
            heads=4,
            kv_heads=4,
            head_dim=32,
            feedforward=384,
            vocabulary=BYTES + 1,
            tied=True,
            context=64,
            end_tokens=(END,),
        )
    ),
    "rwkv7": RWKV7(
        RWKV7Config(
            width=128,
            layers=4,
            heads=4,
            feedforward=512,
            vocabulary=BYTES + 1,
            decay_rank=16,
            rate_rank=16,
            value_rank=16,
            gate_rank=32,
        )
    ),
}


def settings(
    model: str, changes: dict[str, Any], task: type = Reasoning, seed: int = 0
) -> Config:
    """The settings of a run of some model."""
    given = {
        "task.class": f"{task.__module__}:{task.__name__}",
        "checkpoint": CHECKPOINTS / model,
        "seed": seed,
        **(COMPLETED if task is Reasoning else {}),
        **changes,
    }
    pairs = [(name, str(value)) for name, value in given.items()]
    return load(SETTINGS, pairs, name="run")


def solved(judge: Any, params: PyTree) -> float:
    """The share of held-out problems that a model solves, greedily."""
    return held_out.validate(judge, params, jax.random.key(0))["solved"]


def fine_tuned(model: str) -> Path:
    """Makes a model's checkpoint, if it is not there."""
    path, record = CHECKPOINTS / model, CHECKPOINTS / f"{model}.json"
    if record.exists():
        return path
    _write(path, model, SIZES[model].init(jax.random.key(0)))
    judge = training.prepare(settings(model, {})).task
    experiment = training.prepare(settings(model, TUNING, Likelihood))
    state = training.initial_state(experiment)
    curve = {0: solved(judge, state.params)}
    while curve[max(curve)] < WANTED:
        for step in range(max(curve), max(curve) + EVERY):
            data = experiment.task.batch(state.task, step, state.key)
            state, _ = experiment.algorithm.step(state, data)
        curve[int(state.step)] = solved(judge, state.params)
        print(f"{model}: {int(state.step)} steps: {max(curve.values()):.3f} solved")
    _write(path, model, jax.device_get(state.params))
    record.write_text(json.dumps(curve) + "\n")
    return path


def _write(path: Path, model: str, params: PyTree) -> None:
    """Writes weights, and a vocabulary of single bytes."""
    path.mkdir(parents=True, exist_ok=True)
    found = SIZES[model]
    if isinstance(found, RWKV7):
        rwkv7_checkpoint.write(path / "model.safetensors", found.config, params)
        lines = [f"{i + 1} {bytes([i])!r} 1\n" for i in range(BYTES)]
        (path / world.VOCABULARY).write_text("".join(lines))
        return
    assert isinstance(found, Transformer)
    for old in path.glob("*.safetensors"):
        old.unlink()
    checkpoint.save(path, found.config, params)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(
        add_prefix_space=False, use_regex=False
    )
    made.decoder = decoders.ByteLevel()
    made.add_tokens([AddedToken("<end>", special=True)])
    made.save(str(path / "tokenizer.json"))
