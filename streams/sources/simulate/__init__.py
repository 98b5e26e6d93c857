"""Simulated customers with known truth: what no public data set has, opens and send hours among it.

Every number made on this data is a number about the simulator; reports that use it have to say so.
"""

from streams.sources.simulate.faults import FAULTS, faults
from streams.sources.simulate.simulator import Simulator
from streams.sources.simulate.truth import CustomerTruth, ResponseTruth

__all__ = ["FAULTS", "CustomerTruth", "ResponseTruth", "Simulator", "faults"]
