"""The network in 8-bit integers, for CPUs that multiply these several times faster than floats."""
