"""Derivations: formulas as texts that are both computed and printed, so the report's derivation is the one that ran."""

from collections.abc import Iterable
from math import prod
from typing import NamedTuple

from lmpipe.io.documents import Document


class Formula(NamedTuple):
    """Definition of a symbol: its meaning, and a number or a Python expression of the symbols before it."""

    symbol: str
    meaning: str
    expression: str | int | float
    unit: str = ""


class DerivationLine(Document):
    """Line of a derivation with its value."""

    symbol: str
    """Symbol, as later formulas use it."""
    meaning: str
    """Meaning in words."""
    formula: str
    """Expression of the symbols before it; empty for a constant."""
    value: int | float
    """Value in `unit`."""
    unit: str
    """Unit; empty for a pure number."""


def derive(formulas: Iterable[Formula]) -> list[DerivationLine]:
    """Evaluate each formula with the values of those before it.

    >>> derive([Formula("D", "width", 3), Formula("P", "square matrix", "D**2")])[-1].value
    9
    """
    lines = []
    symbols: dict[str, object] = {"__builtins__": {}, "max": max}
    for symbol, meaning, expression, unit in formulas:
        # Expressions are constants of this package: nothing that a user writes is ever evaluated.
        value = symbols[symbol] = eval(str(expression), symbols)
        text = expression if isinstance(expression, str) else ""
        lines.append(DerivationLine(symbol=symbol, meaning=meaning, formula=text, value=value, unit=unit))
    return lines


def evaluate(formulas: Iterable[Formula]) -> dict[str, int | float]:
    """Return the values of a derivation by symbol."""
    return {line.symbol: line.value for line in derive(formulas)}


def sum_terms(expressions: Iterable[str]) -> str:
    """Add expressions that are sums of products, combining equal products.

    >>> sum_terms(["2 * L * D", "L * D + D", "0"])
    '3 * L * D + D'
    """
    coefficients: dict[str, int] = {}
    for term in " + ".join(expressions).split(" + "):
        factors = term.split(" * ")
        product = " * ".join(factor for factor in factors if not factor.isdigit())
        coefficient = prod(int(factor) for factor in factors if factor.isdigit())
        coefficients[product] = coefficients.get(product, 0) + coefficient
    terms = [product if count == 1 else f"{count} * {product}" for product, count in coefficients.items() if count]
    return " + ".join(terms) or "0"
