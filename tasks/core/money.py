"""Money: an integer of minor units and a currency; Decimal only where it is shown."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

_EXPONENT = {"JPY": 0, "KRW": 0, "CLP": 0, "ISK": 0, "BHD": 3, "KWD": 3, "OMR": 3, "TND": 3}
_SYMBOL = {"GBP": "£", "EUR": "€", "USD": "$"}


@dataclass(frozen=True, order=True)
class Money:
    """An amount in minor units (pence, cents) of `currency` (ISO 4217)."""

    minor: int
    currency: str

    def __add__(self, other: Money) -> Money:
        return Money(self.minor + self._same(other).minor, self.currency)

    def __sub__(self, other: Money) -> Money:
        return Money(self.minor - self._same(other).minor, self.currency)

    def __neg__(self) -> Money:
        return Money(-self.minor, self.currency)

    @property
    def amount(self) -> Decimal:
        """The amount in major units (pounds, euros), exact."""
        return Decimal(self.minor).scaleb(-_EXPONENT.get(self.currency, 2))

    def __str__(self) -> str:
        sign = "-" if self.minor < 0 else ""
        symbol = _SYMBOL.get(self.currency, f"{self.currency} ")
        return f"{sign}{symbol}{abs(self.amount):,}"

    def whole(self) -> str:
        """Return the amount rounded to whole major units, as reports show it."""
        sign = "-" if self.minor < 0 else ""
        symbol = _SYMBOL.get(self.currency, f"{self.currency} ")
        return f"{sign}{symbol}{abs(round(self.amount)):,}"

    def _same(self, other: Money) -> Money:
        if other.currency != self.currency:
            raise ValueError(f"cannot combine {self.currency} with {other.currency}")
        return other
