"""Candidates priced by the million: the best of each machine, in parts where they are many, how sure their order is."""
