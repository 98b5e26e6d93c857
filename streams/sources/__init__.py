"""Where events come from when no producer sends them: data sets and the simulator."""
