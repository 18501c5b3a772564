"""What must be done: `count(model, layout, workload) -> Ops`. Logic alone; no hardware is known here."""

from coopt.ops.count import count as count
from coopt.ops.shapes import active_parameters as active_parameters
from coopt.ops.shapes import parameters as parameters
