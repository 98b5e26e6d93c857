"""Simulated customers with known truth: what no public data set has, opens and send hours among it.

Every number made on this data is a number about the simulator; reports that use it have to say so.
"""

from streams.simulate.faults import FAULTS, faults
from streams.simulate.simulator import Simulator
from streams.simulate.truth import CustomerTruth, ResponseTruth

__all__ = ["FAULTS", "CustomerTruth", "ResponseTruth", "Simulator", "faults"]
