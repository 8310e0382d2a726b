"""Datasets by name: made, from files, or from a hub."""

import importlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

from eggroll import UserError
from tasks.reasoning import rows
from tasks.reasoning.problems import PROBLEMS, of_reasoning_gym
from tasks.reasoning.rewards import gold_number
from tasks.reasoning.rows import Dataset, Row


COMMON = {"prompt", "system"}
FROM_FILES = {"train", "validation", "columns"}
HUB = "huggingface:"
GYM = "reasoning_gym:"


def load(
    name: str,
    options: Mapping[str, Any] | None = None,
    *,
    train: int = 10_000,
    validation: int = 256,
    seed: int = 0,
) -> Dataset:
    """Loads or makes a dataset.

    Args:
        name: "countdown" or "addition", made here; "reasoning_gym:NAME"; "gsm8k", from
            the hub or, by its options, from files; a file of JSON lines; or
            "huggingface:NAME".
        options: `prompt`, a text with the names of columns in braces, and `system`, the
            system's message, for all. Of what is made, its settings: see
            `tasks.reasoning.problems`. Of what is loaded: `columns`, which of the
            source's columns goes by which name, `train` and `validation`, files, or
            splits of the hub's dataset; further ones go to `datasets.load_dataset`.
            Without a part of its own for validation, the hash of a row decides.
        train: how many rows to make; what is loaded is taken whole.
        validation: rows to be judged on; of a part for validation, at most.
        seed: of what is made, and of the choice of rows for validation.

    Raises:
        UserError: there is no such dataset; it is empty, lacks a column, has a row in
            both parts, or its options make no sense.
    """
    options = dict(options or {})
    common = {key: options.pop(key) for key in COMMON & {*options}}
    if name in PROBLEMS or name.startswith(GYM):
        return _made(name, options, common, train, validation, seed)
    if name == "gsm8k":
        return _gsm8k(options, common, validation, seed)
    columns = options.pop("columns", {})
    parts = _hub(name, options) if name.startswith(HUB) else _files(name, options)
    if "prompt" not in common and columns and "prompt" not in columns:
        columns = {**columns, "prompt": "prompt"}
    make = lambda source, where: _row(_renamed(source, columns, where), common, where)
    return _parted(name, parts, make, validation, seed)


def _made(
    name: str,
    options: dict[str, Any],
    common: Mapping[str, str],
    train: int,
    validation: int,
    seed: int,
) -> Dataset:
    if name.startswith(GYM):
        columns = of_reasoning_gym(name.removeprefix(GYM), seed, options)
        common = {"prompt": "{question}", **common}

        def draw(index: int) -> Row:
            return _row(columns(index), common, name)

        found = rows.generated(name, draw, train, validation, "reasoning_gym")
        own = {"dataset": name.removeprefix(GYM)}
        return Dataset(name, found.train, found.validation, found.reward, own)
    try:
        problems = PROBLEMS[name](**options)
    except TypeError as error:
        raise UserError(f"dataset {name!r}: dataset_options: {error}") from error
    common = {"prompt": problems.template, **common}

    def draw(index: int) -> Row:
        columns, content = problems.draw(Random(f"{seed}:{index}"))
        return _row(columns, common, name)._replace(content=content)

    return rows.generated(name, draw, train, validation, problems.reward)


def _gsm8k(
    options: dict[str, Any], common: Mapping[str, str], validation: int, seed: int
) -> Dataset:
    """Grade-school word problems: `question`, `solution`, and the number, `answer`."""
    common = {"prompt": "{question}", **common}
    if ".json" in str(options.get("train", "")):
        parts = _files("gsm8k", options)
    else:
        hub = {"path": "openai/gsm8k", "name": "main", "validation": "test"}
        parts = _hub(HUB + (hub | options).pop("path"), {**hub, **options})

    def make(source: Mapping[str, Any], where: str) -> Row:
        names = {"question": "question", "solution": "answer"}
        columns = _renamed(source, names, where)
        value = gold_number(columns["solution"])
        if value is None:
            raise UserError(
                f"{where}: its answer holds no number after '####': "
                f"{str(columns['solution'])[-60:]!r}"
            )
        return _row({**columns, "answer": str(value)}, common, where)

    found = _parted("gsm8k", parts, make, validation, seed)
    return Dataset(found.name, found.train, found.validation, "gsm8k")


Part = Iterable[Mapping[str, Any]]


def _parted(
    name: str,
    parts: Mapping[str, Part],
    make: Callable[[Mapping[str, Any], str], Row],
    validation: int,
    seed: int,
) -> Dataset:
    made = {
        part: [
            make(source, f"dataset {name!r}: row {number} of {part}")
            for number, source in enumerate(sources)
        ]
        for part, sources in parts.items()
    }
    if "validation" not in made:
        return rows.divided(name, made["train"], validation, seed)
    return rows.paired(name, made["train"], made["validation"], validation, seed)


def _files(name: str, options: dict[str, Any]) -> dict[str, Part]:
    """The parts of a dataset that are files of JSON lines."""
    paths = {
        part: options.pop(part) for part in ("train", "validation") if part in options
    }
    paths.setdefault("train", name)
    if options:
        raise UserError(
            f"dataset {name!r}: dataset_options has no {sorted(options)} for files: "
            f"expected {', '.join(sorted(COMMON | FROM_FILES))}"
        )
    return {part: _lines(Path(path)) for part, path in paths.items()}


def _lines(path: Path) -> list[Mapping[str, Any]]:
    if not path.is_file():
        raise UserError(
            f"dataset: there is no file {str(path)!r}; give one of JSON lines, one of "
            f"{', '.join(sorted(PROBLEMS))}, gsm8k, '{GYM}NAME' or '{HUB}NAME'"
        )
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        if not line.strip():
            continue
        try:
            found.append(json.loads(line))
        except ValueError as error:
            raise UserError(f"{path}: line {number} is no JSON: {error}") from error
        if not isinstance(found[-1], dict):
            raise UserError(
                f"{path}: line {number}: expected an object with columns, got "
                f"{line[:80]!r}"
            )
    return found


def _hub(name: str, options: dict[str, Any]) -> dict[str, Part]:
    try:
        library = importlib.import_module("datasets")
    except ImportError as error:
        raise UserError(
            f"dataset {name!r} needs the package `datasets`: "
            "pip install 'eggroll-jax[llm]'"
        ) from error
    if "trust_remote_code" in options:
        raise UserError(
            f"dataset {name!r}: trust_remote_code would run the code of whoever made "
            "it, and is never passed on: convert it to JSON lines or Parquet"
        )
    splits = {part: options.pop(part, part) for part in ("train", "validation")}
    path = options.pop("path", name.removeprefix(HUB))
    try:
        loaded = library.load_dataset(path, **options)
    except Exception as error:  # its errors share no base class
        raise UserError(f"dataset {name!r}: {error}") from error
    if not isinstance(loaded, Mapping):
        loaded = {splits["train"]: loaded}
    if splits["train"] not in loaded:
        raise UserError(
            f"dataset {name!r} has no split {splits['train']!r}, only "
            f"{', '.join(map(repr, loaded))}: name it as dataset_options.train"
        )
    return {part: loaded[split] for part, split in splits.items() if split in loaded}


def _renamed(
    source: Mapping[str, Any], columns: Mapping[str, str], where: str
) -> dict[str, Any]:
    """A source's columns, by the names they go by; all of them where none is named."""
    for wanted, known in columns.items():
        if known not in source:
            raise UserError(
                f"{where} lacks the column {known!r}, from which {wanted!r} is read; "
                f"it has {', '.join(map(repr, source))}"
            )
    if not columns:
        return dict(source)
    return {wanted: source[known] for wanted, known in columns.items()}


def _row(columns: dict[str, Any], common: Mapping[str, str], where: str) -> Row:
    prompt = _prompt(columns, common.get("prompt"), where)
    if system := common.get("system"):
        told = [{"role": "system", "content": system}]
        asked = [{"role": "user", "content": prompt}]
        prompt = told + (asked if isinstance(prompt, str) else prompt)
    kept = {name: value for name, value in columns.items() if name != "prompt"}
    return Row(prompt, kept, rows.content_of(prompt))


def _prompt(columns: Mapping[str, Any], template: str | None, where: str) -> Any:
    known = ", ".join(map(repr, columns))
    if template is not None:
        try:
            return template.format_map(columns)
        except (KeyError, IndexError, ValueError, AttributeError) as error:
            raise UserError(
                f"{where}: the prompt {template!r} cannot be filled in from the "
                f"columns {known}: {error!r}; a brace is written twice"
            ) from error
    prompt = columns.get("prompt")
    if _is_talk(prompt):
        return [dict(message) for message in prompt or ()]
    if not isinstance(prompt, str) or not prompt.strip():
        raise UserError(
            f"{where} has no prompt: expected a text, or messages with the user's "
            f"among them, in the column 'prompt', got {prompt!r:.80} and the columns "
            f"{known}: name one in dataset_options.columns, or write a "
            "dataset_options.prompt with columns in braces"
        )
    return prompt


def _is_talk(prompt: Any) -> bool:
    """Whether a prompt is messages, of which the user's is one."""
    if isinstance(prompt, str) or not isinstance(prompt, Sequence):
        return False
    return all(
        isinstance(message, Mapping) and {"role", "content"} <= {*message}
        for message in prompt
    ) and any(message["role"] == "user" for message in prompt)
