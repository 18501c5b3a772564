"""What it takes: `estimate(ops, hardware) -> Cost`. Physics alone; no model and no layout is known here."""

from coopt.cost.estimate import estimate as estimate
from coopt.cost.explain import explain as explain
from coopt.cost.quality import loss as loss
