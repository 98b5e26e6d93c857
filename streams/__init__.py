"""The runtime: pure core, state, agents and the edges where I/O lives."""
