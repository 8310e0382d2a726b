"""What settings are made of: numbers that change, and things chosen by name."""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from eggroll.config import coercion
from eggroll.config.bounds import INT32_MAX, Bounds
from eggroll.errors import UserError


ScheduleKind = Literal["constant", "linear", "exponential", "cosine"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schedule:
    """A number that may change over the run.

    Attributes:
        start: Its value at step 0.
        end: Its value from step `steps` on; needed unless constant.
        steps: Over how many steps it goes from `start` to `end`.
        kind: On what curve.
    """

    start: float
    end: float | None = None
    steps: Annotated[int | None, Bounds(least=1, most=INT32_MAX)] = None
    kind: ScheduleKind = "constant"

    def __post_init__(self):
        is_complete = self.end is not None and (self.steps or 0) > 0
        if self.kind != "constant" and not is_complete:
            raise UserError(
                f"a schedule of kind {self.kind!r} needs `end` and `steps` > 0, "
                f"got end={self.end}, steps={self.steps}"
            )
        if self.kind == "constant" and (self.end, self.steps) != (None, None):
            raise UserError(
                "a schedule with `end` or `steps` needs `kind`: "
                "linear, exponential or cosine"
            )
        if self.kind == "exponential" and not (self.start > 0 and (self.end or 0) > 0):
            raise UserError(
                "an exponential schedule needs `start` and `end` above 0, "
                f"got {self.start} and {self.end}"
            )

    @classmethod
    def parse(cls, value: Any, where: str) -> Self:
        """Reads a schedule, for which a plain number may stand."""
        if isinstance(value, Mapping):
            return coercion.from_mapping(cls, value, where)
        return cls(start=coercion.coerce(value, float, where))

    def numbers(self) -> tuple[float | None, ...]:
        """Between which it stays."""
        return self.start, self.end

    def plain(self) -> Any:
        return self.start if self.kind == "constant" else dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choice:
    """Something chosen by name, with its options.

    Attributes:
        name: Of a function of a module that the reader of the setting knows.
        options: Its keyword arguments.
    """

    name: str
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def parse(cls, value: Any, where: str) -> Self:
        """Reads a name alone, or a mapping of `name` and the options."""
        if not isinstance(value, Mapping):
            return cls(name=coercion.coerce(value, str, where))
        options = dict(coercion.coerce(value, Any, where))
        if "name" not in options:
            raise UserError(f"the setting {where + '.name'!r} is missing")
        return cls(
            name=coercion.coerce(options.pop("name"), str, where), options=options
        )

    def plain(self) -> Any:
        return {"name": self.name, **self.options} if self.options else self.name
