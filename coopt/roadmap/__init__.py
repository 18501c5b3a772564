"""Years: which chips at which sites, under power, capital, supply and dates, to train what."""

from coopt.roadmap.options import Option as Option
from coopt.roadmap.options import Task as Task
from coopt.roadmap.plan import plan as plan
from coopt.roadmap.scenario import scenario as scenario
