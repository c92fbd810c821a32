"""Numbers of a story: drawn so that every result is a whole number of the allowed size."""

import random
from dataclasses import dataclass, field

from .event import REGISTERS, Equation, ParsedEvent


LARGEST_VALUE = 1000
LARGEST_FACTOR = 12
# Half of all numbers are small, as in a schoolbook: shares of draws, and the largest value of each.
_SIZES = ((0.45, 20), (0.85, 100), (1.0, LARGEST_VALUE))
_DIVISORS = [[d for d in range(2, 101) if value and value % d == 0] for value in range(LARGEST_VALUE + 1)]

Worked = tuple[int, str, int, int]  # left, operation, right, result


@dataclass
class Numbers:
    """
    The numbers of a story so far.

    Attributes:
        values (`dict[str, int]`): The registers `u` and `v`.
        results (`set[str]`): Registers that hold a result; the others hold a number of the question.
        equations (`list[Worked]`): What was calculated.
        told (`list[str]`): Operations with the operands that the question tells, for the signature.
    """

    values: dict[str, int] = field(default_factory=dict)
    results: set[str] = field(default_factory=set)
    equations: list[Worked] = field(default_factory=list)
    told: list[str] = field(default_factory=list)

    def signature(self) -> str:
        """Operations and operands without names, wording and order, for example `"*3,*4,+5"`."""
        return ",".join(sorted(self.told))


def calculate(left: int, operation: str, right: int) -> int | None:
    """The result of `left operation right`, or `None` when it is negative or no whole number."""
    if operation == "+":
        return left + right
    if operation == "-":
        return left - right if left >= right else None
    if operation == "*":
        return left * right
    return None if right == 0 or left % right else left // right


def _size(rng: random.Random, low: int, high: int) -> int | None:
    if high < low:
        return None
    draw = rng.random()
    limit = next(size for share, size in _SIZES if draw < share)
    if limit < high:
        high = max(limit, low)
    return low + int(rng.random() * (high - low + 1))


def _right(rng: random.Random, left: int, operation: str, low: int, high: int, smallest: int) -> int | None:
    """Draws the right operand for a left one."""
    if operation == "+":
        return _size(rng, low, min(high, LARGEST_VALUE - left))
    if operation == "-":
        return _size(rng, low, min(high, left - smallest))
    if operation == "*":
        return _size(rng, low, min(high, LARGEST_VALUE // max(left, 1)))
    divisors = [d for d in _DIVISORS[left] if low <= d <= high and left // d >= smallest]
    return divisors[int(rng.random() * len(divisors))] if divisors else None


def _left(rng: random.Random, operation: str, right: int, low: int, high: int, smallest: int) -> int | None:
    """Draws the left operand for a right one."""
    if operation in "+*":
        return _right(rng, right, operation, low, high, smallest)
    if operation == "-":
        difference = _size(rng, max(smallest, low - right), high - right)
        return None if difference is None else right + difference
    if right == 0:
        return None
    quotient = _size(rng, max(smallest, -(-low // right)), high // right)
    return None if quotient is None else right * quotient


def _range(parsed: ParsedEvent, letter: str, operation: str, is_right: bool) -> tuple[int, int]:
    if letter in parsed.event.ranges:
        return parsed.event.ranges[letter]
    return 2, LARGEST_FACTOR if operation in "*/" and is_right else LARGEST_VALUE


def _operands(
    rng: random.Random, parsed: ParsedEvent, equation: Equation, values: dict[str, int]
) -> tuple[int, int] | None:
    operation, smallest = equation.operation, parsed.event.smallest
    left = equation.left if isinstance(equation.left, int) else values.get(equation.left)
    right = equation.right if isinstance(equation.right, int) else values.get(equation.right)
    if right is None:
        low, high = _range(parsed, str(equation.right), operation, is_right=True)
        right = _size(rng, low, high) if left is None else _right(rng, left, operation, low, high, smallest)
    if left is None and right is not None:
        low, high = _range(parsed, str(equation.left), operation, is_right=False)
        left = _left(rng, operation, right, low, high, smallest)
    return None if left is None or right is None else (left, right)


def draw_numbers(rng: random.Random, parsed: ParsedEvent, numbers: Numbers) -> tuple[Numbers, dict[str, int]] | None:
    """
    Draws the numbers of an event that continues a story.

    Args:
        rng (`random.Random`): Source of randomness.
        parsed ([`ParsedEvent`]): The event.
        numbers ([`Numbers`]): The numbers before it; unchanged.

    Returns:
        `tuple[Numbers, dict[str, int]]`, *optional*: The numbers after it, and the numbers that its forms tell; `None`
        when the event does not fit, for example half of an odd number.
    """
    values, results = dict(numbers.values), set(numbers.results)
    equations, told = list(numbers.equations), list(numbers.told)
    shown: dict[str, int] = {}
    for equation in parsed.equations:
        operands = _operands(rng, parsed, equation, values)
        if operands is None:
            return None
        left, right = operands
        result = calculate(left, equation.operation, right)
        if result is None or not parsed.event.smallest <= result <= LARGEST_VALUE:
            return None
        for letter, value in ((equation.left, left), (equation.right, right)):
            if isinstance(letter, str) and letter not in values:
                values[letter] = shown[letter] = value
        told += _told(equation, left, right, results)
        equations.append((left, equation.operation, right, result))
        values[equation.target] = result
        results.add(equation.target)
    for letter in parsed.drawn:
        if letter not in shown:
            low, high = parsed.event.ranges.get(letter, (2, LARGEST_VALUE))
            values[letter] = shown[letter] = _size(rng, low, high) or low
            results.discard(letter)
    kept = {letter: values[letter] for letter in REGISTERS if letter in values}
    return Numbers(kept, results & kept.keys(), equations, told), shown


def _told(equation: Equation, left: int, right: int, results: set[str]) -> list[str]:
    """An operation with what the question tells of it. Results are left out, so that the order of steps is, too."""
    told_left, told_right = equation.left not in results, equation.right not in results
    operation = equation.operation
    if told_left and told_right:
        return [f"{'*' if operation == '*' else '+'}{left}", f"{operation}{right}"]
    if told_right:
        return [f"{operation}{right}"]
    if told_left:
        return [f"{operation}{left}" if operation in "+*" else f"{left}{operation}"]
    return [operation]
