"""Spaces, and the sweep that prices all of one: pure, and nothing above the cost expression is known here."""

from coopt.search.beyond import beyond as beyond
from coopt.search.bound import Bounded as Bounded
from coopt.search.certificate import certificate as certificate
from coopt.search.describe import space_from as space_from
from coopt.search.elasticity import changes as changes
from coopt.search.elasticity import elasticities as elasticities
from coopt.search.layouts import layout_space as layout_space
from coopt.search.nearest import nearest as nearest
from coopt.search.pareto import front as front
from coopt.search.price import OBJECTIVES as OBJECTIVES
from coopt.search.price import price as price
from coopt.search.refine import refine as refine
from coopt.search.space import Axis as Axis
from coopt.search.space import Candidate as Candidate
from coopt.search.space import Space as Space
from coopt.search.space import axis as axis
from coopt.search.space import candidate as candidate
from coopt.search.space import product as product
from coopt.search.space import settings as settings
from coopt.search.space import size as size
from coopt.search.sweep import Ranked as Ranked
from coopt.search.sweep import Result as Result
from coopt.search.sweep import sweep as sweep
