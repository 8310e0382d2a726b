"""Rewards that misbehave, in a module that worker processes can import."""

import os
import sys
import time

from tasks.reasoning.verifier import Verifier


def behave(completion: str, wanted: str = "") -> float:
    """1 for "right N", and what a completion says for others."""
    hoard = []
    match completion.partition(" ")[0]:
        case "sleep":
            time.sleep(3600)
        case "nap":
            time.sleep(0.2)
        case "spin":
            while True:
                pass
        case "tower":
            return float(63**95**96)
        case "eat":
            while True:
                hoard.append(bytearray(2**24))
        case "huge":
            return float(len(bytearray(2**45)))
        case "die":
            os._exit(3)
        case "exit":
            sys.exit(3)
        case "raise":
            raise ZeroDivisionError("no such luck")
        case "recurse":
            return behave(completion, wanted)
        case "nan":
            return float("nan")
        case "none":
            return None
        case "print":
            sys.stdout.write("noise\n")
            sys.stdout.flush()
            os.write(2, b"noise\n")
        case "jax":
            return float("jax" in sys.modules)
        case "bad":
            return -1.0
    return float(completion == wanted) if wanted else 1.0


def in_batches(prompts, completions, *, answer, **columns):
    """As TRL has it; the score tells how many completions came together."""
    return [
        len(completions) + (text == right) / 10
        for text, right in zip(completions, answer, strict=True)
    ]


def too_few(prompts, completions, **columns):
    return [1.0] * (len(completions) - 1)


def always_raise(completion, answer):
    return {}["wind"]


def always_nan(completion):
    return float("nan")


def not_a_list(prompts, completions, **columns):
    return 1.0


def no_completion(text):
    return 1.0


class Broken(Verifier):
    """Cannot do what it needs to do first."""

    def prepare(self) -> None:
        raise RuntimeError("out of order")


def spin_on_powers(completion: str) -> float:
    """Never ends where it is shown a power with a long foot."""
    while "63**95" in completion:
        pass
    return 0.0
