"""A chip, a shape and a layout chosen together: orders of chips, their worth, mixes of futures, joint studies."""
