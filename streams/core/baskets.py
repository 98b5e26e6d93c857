"""What a clickstream event says of goods: its lines, what of them is given back, and what it is worth."""

from __future__ import annotations

from typing import Final, NamedTuple

from schemas.events import GIVING_BACK, Clickstream, Line

Product = Clickstream | Line
"""A line, or the event itself where it is about one product: both say item, category, title, price and quantity."""


class Basket(NamedTuple):
    """The products of one event."""

    taken: tuple[Product, ...]
    """What was bought, viewed, put into the cart."""
    given_back: tuple[Product, ...]


_NONE: Final[tuple[Product, ...]] = ()


def is_return(body: Clickstream) -> bool:
    """Whether an event gives back and takes nothing: a refund, a return, a purchase below 0.

    A purchase with lines is a return where it buys none of them; one that gives back one product for another is a
    purchase. A total below 0 makes a return of a purchase whose lines do not say which of them came back.
    """
    if body.event != "purchase":
        return body.event in GIVING_BACK
    if body.items is not None:
        return _buys_nothing(body, body.items)
    amount, quantity = body.value, body.quantity
    if amount is None:
        amount = body.price
    return (amount is not None and amount < 0) or (quantity is not None and quantity < 0)


def _buys_nothing(body: Clickstream, items: tuple[Line, ...]) -> bool:
    amount = body.value
    if amount is not None and amount < 0 and not any(_is_below_0(line.quantity) for line in items):
        return True
    return not any(_is_bought(line) for line in items)


def basket_of(body: Clickstream) -> Basket:
    """The products of an event. A discount, a line of a purchase with a price below 0, is none."""
    items = body.items
    if items is None:
        return Basket(_NONE, (body,)) if is_return(body) else Basket((body,), _NONE)
    if body.event != "purchase":
        return Basket(_NONE, items) if body.event in GIVING_BACK else Basket(items, _NONE)
    returned = tuple(line for line in items if _is_below_0(line.quantity))
    if is_return(body):
        return Basket(_NONE, returned or tuple(line for line in items if not _is_below_0(line.price)))
    return Basket(tuple(line for line in items if _is_bought(line)), returned)


def items_of(body: Clickstream) -> tuple[str, ...]:
    """Ids of the products that are taken."""
    return tuple(product.item_id for product in basket_of(body).taken if product.item_id is not None)


def amount_of(body: Clickstream, gives_back: bool | None = None) -> float | None:
    """What a purchase is worth, or what giving back takes off, below 0; None where a return does not say how much.

    The event's ``value`` counts, else price times quantity of its lines. A price of 0 is an amount. For a return the
    sign does not matter: producers write either.

    Args:
        gives_back: as :func:`is_return` says, where that is known.
    """
    amount = body.value
    if gives_back is None:
        gives_back = is_return(body)
    if amount is None:
        if body.items is None:
            if gives_back and body.price is None:
                return None
            amount = _worth(body)
        else:
            if gives_back and all(line.price is None for line in body.items):
                return None
            parts = [_worth(line) for line in body.items]
            amount = sum(map(abs, parts)) if body.event in GIVING_BACK else sum(parts)
    return -abs(amount) if gives_back else amount


def _worth(product: Product) -> float:
    price, quantity = product.price, product.quantity
    return 0.0 if price is None else price if quantity is None else price * quantity


def _is_bought(line: Line) -> bool:
    return not (_is_below_0(line.quantity) or _is_below_0(line.price))


def _is_below_0(number: float | None) -> bool:
    return number is not None and number < 0
