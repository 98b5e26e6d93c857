"""Decoded customers, bounded by bytes, least recently used first out; what is not written yet stays."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Container

from streams.core.customer import Customer

#: A decoded customer takes several times its encoded size: tuples, strings and dict slots.
DECODED_PER_ENCODED = 6
_OVERHEAD_BYTES = 2_048


class CustomerCache:
    """Id -> customer. The caller names those that must not go; sizes are estimated from encoded records."""

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self.used_bytes = 0
        self.evicted = 0
        self._customers: OrderedDict[str, Customer] = OrderedDict()
        self._cost: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._customers)

    def get(self, customer_id: str) -> Customer | None:
        customer = self._customers.get(customer_id)
        if customer is not None:
            self._customers.move_to_end(customer_id)
        return customer

    def peek(self, customer_id: str) -> Customer | None:
        """The same without counting as a use."""
        return self._customers.get(customer_id)

    def put(self, customer_id: str, customer: Customer, encoded_bytes: int) -> None:
        self._customers[customer_id] = customer
        self.resize(customer_id, encoded_bytes)

    def resize(self, customer_id: str, encoded_bytes: int) -> None:
        """A customer was encoded again: take its new size."""
        cost = encoded_bytes * DECODED_PER_ENCODED + _OVERHEAD_BYTES
        self.used_bytes += cost - self._cost.get(customer_id, 0)
        self._cost[customer_id] = cost

    def remove(self, customer_id: str) -> None:
        if self._customers.pop(customer_id, None) is not None:
            self.used_bytes -= self._cost.pop(customer_id)

    def shrink(self, keep: Container[str]) -> None:
        """Evict down to the budget, sparing ``keep``; may stay above it when those alone are larger."""
        excess_bytes, cost = self.used_bytes - self.budget_bytes, self._cost
        leaving: list[str] = []
        for customer_id in self._customers if excess_bytes > 0 else ():
            if customer_id not in keep:
                leaving.append(customer_id)
                excess_bytes -= cost[customer_id]
                if excess_bytes <= 0:
                    break
        for customer_id in leaving:
            del self._customers[customer_id]
            self.used_bytes -= cost.pop(customer_id)
        self.evicted += len(leaving)
