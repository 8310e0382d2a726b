"""Chat templates: a conversation as the text that a model was trained on.

Templates come with checkpoints, so they run in Jinja's sandbox, with the few functions
that `transformers` promises them.
"""

import datetime
import json
from collections.abc import Mapping, Sequence
from typing import Any

from models.llm.extras import library


def render(
    template: str, messages: Sequence[Mapping[str, Any]], known: Mapping[str, Any]
) -> str:
    """The text of a conversation.

    Args:
        template: in Jinja.
        messages: the conversation.
        known: what else the template may ask for.

    Raises:
        ValueError: the template is wrong, does what it must not, or refuses the
            messages.
    """
    jinja, sandbox = library("jinja2"), library("jinja2.sandbox")
    world = sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    world.filters["tojson"] = to_json
    world.globals["raise_exception"] = refuse
    world.globals["strftime_now"] = now
    failures = (jinja.TemplateError, TypeError, ArithmeticError, LookupError)
    try:
        return world.from_string(template).render(messages=messages, **known)
    except (*failures, RecursionError) as error:
        raise ValueError(f"the chat template fails: {error}") from None


def to_json(value: Any, indent: int | None = None) -> str:
    """JSON as it is, where Jinja's own filter spells it for HTML."""
    return json.dumps(value, ensure_ascii=False, indent=indent)


def refuse(reason: str) -> None:
    """Lets a template refuse a conversation."""
    raise ValueError(f"the chat template refuses the messages: {reason}")


def now(form: str) -> str:
    """The date, of which some templates tell the model."""
    return datetime.datetime.now().strftime(form)
