"""What an executor is given: a function by name, its payload, and the limits that its caller keeps."""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Job:
    """One job: `package.module:function` on a JSON payload, and when it counts as failed.

    Args:
      path: the function; it takes the payload, and `report` if it wants to name its phases; it returns a dict.
      deadline_s: seconds from the start of the job; kept by the parent, so nothing in the child can stop it.
      lease: name of a device; no two jobs on a host hold the same one at once.
      lease_wait_s: seconds to wait for that lease; then the outcome is `timeout` in phase `lease`.
      memory_cap: bytes of private memory the child may have.
    """

    path: str
    payload: dict[str, Any]
    deadline_s: float
    lease: str | None = None
    lease_wait_s: float = 600.0
    memory_cap: int | None = None

    @property
    def longest_s(self) -> float:
        """Seconds after which the job has ended whatever it does, without the start of its worker.

        >>> Job("a:b", {}, 10.0).longest_s, Job("a:b", {}, 10.0, lease="gpu-0").longest_s
        (10.0, 610.0)
        """
        return self.deadline_s + (self.lease_wait_s if self.lease else 0.0)
