"""One design explained: beside others, beside a run of its own, and what it would ask of a machine."""
