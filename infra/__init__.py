"""Tools of this repository, none of them in the wheel: benchmarks, faults, dashboards, images."""
