"""``pulsegraph demo``: the whole pipeline on real data, in one command, with sums that add up."""
