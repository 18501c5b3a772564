"""What a clock, a compiler or a profiler says of blocks, operations and steps, and what that says of a machine."""
