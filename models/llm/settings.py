"""What the makers of a checkpoint say of generation, and which of it is followed."""

import os
from pathlib import Path
from typing import Any, NamedTuple

from models.llm.config import end_tokens, read_json
from models.llm.generation import GREEDY, Sampling


HARMLESS = {
    *("bos_token_id", "pad_token_id", "eos_token_id", "transformers_version"),
    *("do_sample", "temperature", "top_p", "max_length", "max_new_tokens", "use_cache"),
    "_from_model_config",
}
# Fields of which these values change nothing.
NEUTRAL = {
    **{"repetition_penalty": 1.0, "length_penalty": 1.0, "typical_p": 1.0},
    **{"top_k": 0, "min_p": 0.0, "num_beams": 1, "no_repeat_ngram_size": 0},
}


class Settings(NamedTuple):
    """What a `generation_config.json` says.

    Attributes:
        end_tokens: each of which ends a completion. `load` makes them the model's.
        sampling: what its makers suggest, if they suggest to sample. Nothing applies
            it unasked: the default is to take the most likely token.
        ignored: fields that `transformers` applies and nothing here does, such as
            `repetition_penalty`, which changes its greedy decoding, too, or `top_k`.
    """

    end_tokens: tuple[int, ...]
    sampling: Sampling
    ignored: dict[str, Any]


def generation_settings(directory: str | os.PathLike) -> Settings:
    """Reads `generation_config.json`; without one, nothing is suggested."""
    path = Path(directory) / "generation_config.json"
    fields = read_json(path) if path.exists() else {}
    sampling = GREEDY
    if fields.get("do_sample"):
        temperature, top_p = fields.get("temperature"), fields.get("top_p")
        sampling = Sampling(
            1.0 if temperature is None else temperature, 1.0 if top_p is None else top_p
        )
    ignored = {
        name: x
        for name, x in fields.items()
        if name not in HARMLESS and x not in (None, NEUTRAL.get(name))
    }
    return Settings(end_tokens(fields.get("eos_token_id")), sampling, ignored)
