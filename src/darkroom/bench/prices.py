"""Seconds on a worker -> dollars for any card of the price table."""

from __future__ import annotations

from dataclasses import dataclass

from darkroom.timing import USD_PER_SECOND, card_of, usd_per_second


@dataclass(frozen=True)
class Price:
    """A card and its dollars per second. `assumed`: the card was named by the caller, not by the reply."""

    card: str
    usd_per_second: float
    assumed: bool


def price_of(card: str) -> float:
    """Dollars per second of a card by its name, 'A100', 'RTX 4090' or 'NVIDIA A100 80GB PCIe'. Raises ValueError."""
    if (price := usd_per_second(card)) is not None:
        return price
    known = ", ".join(name.removeprefix("NVIDIA ") for name in USD_PER_SECOND)
    raise ValueError(f"no price is known for {card!r}; known are {known}")


def prices(cards: list[str], measured_on: str | None) -> list[Price]:
    """The cards asked for, else the one that the jobs ran on, else none."""
    if cards:
        return [Price(card, price_of(card), assumed=not _same(card, measured_on)) for card in cards]
    price = usd_per_second(measured_on)
    return [] if price is None or measured_on is None else [Price(measured_on, price, assumed=False)]


def _same(card: str, measured_on: str | None) -> bool:
    """Whether both names mean one card of the table: 'L4' is 'NVIDIA L4' but not 'NVIDIA L40S'."""
    return measured_on is not None and card_of(card) == card_of(measured_on)
