"""RWKV-7 as the `rwkv` package computes it, on small models of our own numbers.

Run as a program, where torch and rwkv are installed, to write the golden file:

    PYTHONPATH=. python tests/support/parity_rwkv.py

The numbers are a hash, exactly the same on every machine, so no file holds weights.
"""

import contextlib
import io
import os
import warnings
from pathlib import Path

import numpy as np

from models.llm.rwkv7_checkpoint import to_tensors
from models.llm.rwkv7_config import RWKV7Config, shapes


GOLDEN = Path(__file__).parents[1] / "models" / "llm" / "rwkv7.npz"
CONFIG = RWKV7Config(
    width=128,
    layers=3,
    heads=2,
    feedforward=160,
    vocabulary=97,
    decay_rank=16,
    rate_rank=12,
    value_rank=8,
    gate_rank=24,
)
LENGTHS = (24, 1, 7)
NEW = 64


def numbers(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers that look random, uniform in [-1, 1): multiples of 2**-23."""
    x = np.arange(np.prod(shape), dtype=np.uint32) + np.uint32(seed * 7919)
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x = (x ^ (x >> np.uint32(shift))) * np.uint32(factor)
    x = x ^ (x >> np.uint32(16))
    return ((x >> np.uint32(8)).astype(np.float32) / 2**23 - 1).reshape(shape)


def params_of(config: RWKV7Config) -> dict:
    """Parameters of which none is without effect."""

    def leaf(name: str, shape: tuple[int, ...]) -> np.ndarray:
        x = numbers(sum(map(ord, name)) * len(name), shape)
        if name.startswith("x_"):
            return (1 + x) / 2
        if name == "w0":
            return 3 * x - 2
        if name.endswith("norm") or name in ("k_k", "k_a"):
            return 1 + x / 2
        if name.endswith("_bias") or name in ("a0", "v0", "r_k"):
            return x / 2
        scale = 1.0 if name == "embed" else (3 / shape[-2]) ** 0.5
        return np.float32(scale) * x

    sizes = shapes(config)
    params = {k: leaf(k, s) for k, s in sizes.items() if k != "layers"}
    params["layers"] = {k: leaf(k, s) for k, s in sizes["layers"].items()}
    if not config.layer0_values:
        for name in ("v0", "v1", "v2"):
            params["layers"][name][0] = 0
    return params


def prompts(config: RWKV7Config, lengths: tuple[int, ...] = LENGTHS) -> list[list[int]]:
    """Tokens of rows of these lengths."""
    return [
        ((numbers(i + 1, (n,)) + 1) / 2 * config.vocabulary).astype(int).tolist()
        for i, n in enumerate(lengths)
    ]


def theirs(config: RWKV7Config, params: dict, folder: Path, rows: list[list[int]]):
    """What the package computes of rows: all logits, and 64 greedy tokens after each.

    Leaves the file that it read in `folder`, as `model.pth`.
    """
    os.environ["RWKV_V7_ON"] = "1"  # before the import
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        import torch
        from rwkv.model import RWKV

        tensors = to_tensors(config, params)
        tensors = {name: torch.tensor(x.copy()) for name, x in tensors.items()}
        torch.save(tensors, folder / "model.pth")
        model = RWKV(str(folder / "model"), "cpu fp32")
        logits, greedy = [], []
        for row in rows:
            out, state = model.forward(row, None, full_output=True)
            logits.append(out.numpy().reshape(len(row), -1))
            following = [int(logits[-1][-1].argmax())]
            while len(following) < NEW:
                out, state = model.forward(following[-1], state)
                following.append(int(out.argmax()))
            greedy.append(following)
    return logits, np.array(greedy)


def main() -> None:
    """Writes the golden file."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        params, rows = params_of(CONFIG), prompts(CONFIG)
        logits, greedy = theirs(CONFIG, params, Path(folder), rows)
    np.savez_compressed(GOLDEN, logits=np.concatenate(logits), greedy=greedy)


if __name__ == "__main__":
    main()
