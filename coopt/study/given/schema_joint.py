"""The schema of a joint study: a study whose hardware is listed, or a chip that is free within limits."""

from __future__ import annotations

from typing import Literal

import pydantic

from coopt.spec.schema_types import Area, Count, Date, Dollars, Strict, Text, Watts, failure, year
from coopt.study.given.schema import HOST, Machine, Study


class Published(Strict):
    """A model as it was trained: its file's name, tokens, and sequences a step."""

    model: Text
    tokens: Count
    global_batch: Count


class Bounds(Strict):
    """What a chip may be at most; the limits of physics always hold."""

    area: Area | None = None
    power: Watts | None = None
    cost: Dollars | None = None  # a chip, to whoever orders
    supply: Count | None = None  # stacks of HBM in all
    date: Date | None = None

    def given(self) -> dict[str, float]:
        """Those that are given, in SI."""
        told: dict[str, float | None] = {name: getattr(self, name) for name in type(self).model_fields}
        told["date"] = year(self.date) if self.date else None
        return {name: bound for name, bound in told.items() if bound is not None}


class Chip(Strict):
    """A chip that may be ordered, beside vendors' designs that are bought; the first is where turns begin."""

    designs: tuple[Text, ...] = pydantic.Field(min_length=1)
    chips: tuple[Count, ...] = pydantic.Field(min_length=1)
    volume: Count = 100_000.0  # ordered in all
    limits: Bounds = Bounds()


class Joint(Study):
    """kind: joint."""

    kind: Literal["joint"]  # type: ignore[assignment]
    machines: tuple[Machine, ...] = ()
    published: Published
    chip: Chip | None = None

    @pydantic.model_validator(mode="after")
    def _hardware(self) -> Joint:
        if (self.chip is None) == (not self.machines):
            hint = "profiles have rents, designs what they cost their owner: they are not compared"
            raise failure("either `machines:` or `chip:`", "both or neither", hint)
        if any(machine.hardware == HOST for machine in self.machines):
            raise failure("machines by name", HOST, "joint studies time nothing")
        if self.space is None:
            raise failure("`space:`, a family of shapes", "a model", "the published model is named under `published:`")
        if self.law is None:
            raise failure("`law:`, to compare shapes by", "none", "add `law: chinchilla-besiroglu`")
        return self
