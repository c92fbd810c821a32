"""Word problems in the style of GSM8K, with steps that depend on each other and solutions with calculator marks.

A problem is drawn in two stages. First its numbers: an opening operation on two numbers, then one to three operations,
each on the previous result. Then its story: who owns what, and how each operation is told in the question and in the
solution. The numbers alone decide whether a problem belongs to the train, validation or test split, so a problem with
other names stays in the same split.
"""

import hashlib
import random
import re
from dataclasses import dataclass
from functools import cache


SPLITS = ("train", "validation", "test")
LARGEST_VALUE = 30
END_OF_TEXT = "<|endoftext|>"

NAMES = {
    "Tom": "he", "Ben": "he", "Sam": "he", "Leo": "he", "Max": "he",
    "Anna": "she", "Mia": "she", "Lucy": "she", "Emma": "she", "Rosa": "she",
}  # fmt: skip
THINGS = (
    "apples", "pears", "books", "cards", "coins", "eggs", "marbles", "pens", "shells", "stickers", "toys", "cookies",
)  # fmt: skip
CONTAINERS = ("bags", "boxes", "baskets", "packs", "jars", "trays")
COLORS = ("red", "green", "blue", "yellow")
DAYS = ("Monday", "Tuesday", "Friday", "Sunday")

# Templates: {n} owner, {p}/{P} the owner's pronoun, {m} another person, {o} the things counted, {c} containers,
# {k}/{l} two colours, {d}/{f} two days, {a} {b} the two numbers of the opening, {x} the new number of a step, {e} the
# worked equation.
_OPENING_QUESTIONS = {
    "*": (
        "{n} has {a} {c} with {b} {o} in each.",
        "{n} buys {a} {c} of {b} {o}.",
        "There are {a} {c} with {b} {o} each. {n} takes them all.",
        "{n} gets {a} {o} a day for {b} days.",
    ),
    "+": (
        "{n} has {a} {k} {o} and {b} {l} {o}.",
        "{n} gets {a} {o} on {d} and {b} on {f}.",
        "{n} has {a} {o} and {m} has {b}. {n} takes them all.",
        "{n} has {a} {o} and buys {b} more.",
    ),
    "-": (
        "{n} has {a} {o} but loses {b} of them.",
        "{n} gets {a} {o} on {d} and loses {b} on {f}.",
        "{n} has {a} {o} and gives {b} to {m}.",
        "There are {a} {o}. {n} takes all but {b}.",
    ),
}
_EARNING_QUESTIONS = {
    "*": ("{n} works {a} hours for {b} dollars an hour.", "{n} sells {a} {o} for {b} dollars each."),
    "+": ("{n} earns {a} dollars on {d} and {b} on {f}.", "{n} has {a} dollars and earns {b} more."),
    "-": ("{n} has {a} dollars and spends {b}.", "{n} earns {a} dollars on {d} and spends {b} on {f}."),
}
_OPENING_SOLUTIONS = (
    "{n} has {e} {o}.",
    "At first {n} has {e} {o}.",
    "That makes {e} {o}.",
    "{n} starts with {e} {o}.",
    "First there are {e} {o}.",
)
_STEP_QUESTIONS = {
    "+": (
        "{P} buys {x} more.",
        "{m} gives {n} {x} more.",
        "Then {p} finds {x} {o}.",
        "On {d} {p} gets {x} more {o}.",
        "Next {p} adds {x}.",
    ),
    "-": (
        "{P} gives {x} to {m}.",
        "Then {p} loses {x}.",
        "{P} sells {x} of them.",
        "On {d} {m} takes {x} {o}.",
        "Next {p} gives away {x}.",
    ),
    "*": ("Then {p} gets {x} times as many.", "A day later {p} has {x} times as many."),
    "/": ("{P} gives half to {m}.", "Then {p} loses half of them.", "{P} keeps only half."),
}
_MONEY_STEP_QUESTIONS = {
    "+": (
        "{P} earns {x} more.",
        "{m} gives {n} {x} dollars.",
        "Then {p} finds {x} dollars.",
        "On {d} {p} earns {x} more.",
    ),
    "-": ("{P} spends {x} dollars.", "Then {p} loses {x}.", "{P} pays {m} {x} dollars.", "On {d} {p} spends {x}."),
    "*": ("Then {p} gets {x} times as many.", "A day later {p} has {x} times as many."),
    "/": ("{P} spends half of them.", "{P} gives half to {m}.", "{P} keeps only half."),
}
_STEP_SOLUTIONS = {
    "+": ("Now {p} has {e} {o}.", "Then {p} has {e} {o}.", "That makes {e} {o}.", "After that {n} has {e} {o}."),
    "-": ("{P} has {e} {o} left.", "Now {e} {o} are left.", "That leaves {e} {o}.", "After that {n} has {e} {o}."),
    "*": ("Now {p} has {e} {o}.", "Then {p} has {e} {o}.", "That makes {e} {o}.", "After that {n} has {e} {o}."),
    "/": ("{P} keeps {e} {o}.", "Now {e} {o} are left.", "That leaves {e} {o}.", "Half of that is {e} {o}."),
}
# Steps that compare two people: from here on the story is about the second one, {m}.
_COMPARE_QUESTIONS = {
    "+": ("{m} has {x} more {o} than {n}.", "{m} has {x} more than {n}."),
    "-": ("{m} has {x} fewer {o} than {n}.", "{m} has {x} fewer than {n}."),
    "*": ("{m} has {x} times as many {o} as {n}.", "{m} has {x} times as many as {n}."),
    "/": ("{m} has half as many {o} as {n}.", "{m} has half as many as {n}."),
}
_COMPARE_SOLUTIONS = ("{m} has {e} {o}.", "So {m} has {e} {o}.", "That makes {e} {o} for {m}.")
# Steps that turn things into dollars, and steps that end a story by sharing everything.
_SELL_QUESTIONS = ("{P} sells them for {x} dollars each.", "{P} gets {x} dollars for each.")
_SELL_SOLUTIONS = ("{P} gets {e} dollars.", "That makes {e} dollars.", "Now {p} has {e} dollars.")
_SHARE_QUESTIONS = ("{x} friends share them.", "{P} puts them into {x} {c}.")
_SHARE_FINAL = ("How many {o} does each friend get?", "How many {o} are in each?")
_SHARE_SOLUTIONS = (
    ("Each friend gets {e} {o}.", "Each gets {e} {o}."),
    ("Each has {e} {o}.", "There are {e} {o} in each."),
)
_FINAL_QUESTIONS = (
    "How many {o} does {n} have now?",
    "How many {o} does {n} have?",
    "How many {o} does {n} have in the end?",
    "How many {o} are there now?",
)
_CLOSINGS = ("So the answer is {v}.", "In the end {n} has {v} {o}.")


@dataclass(frozen=True)
class Problem:
    """
    One word problem with its worked solution.

    Attributes:
        question (`str`): The story and the question.
        solution (`str`): The steps, each with an equation `<<3*4=12>>12`, then a line `#### 12`.
        answer (`int`): The result.
        signature (`str`): Operations and operands, for example `"3*4,+5"`, without names and wording.
    """

    question: str
    solution: str
    answer: int
    signature: str


def split_of_signature(signature: str) -> str:
    """
    The split a problem belongs to: 80 % train, 10 % validation, 10 % test by a SHA-256 hash of the signature.

    Problems with a single step practise one fact. They always belong to the train split.
    """
    if "," not in signature:
        return "train"
    bucket = int.from_bytes(hashlib.sha256(signature.encode()).digest()[:8], "big") % 10
    return "validation" if bucket == 8 else "test" if bucket == 9 else "train"


def extract_answer(text: str) -> int | None:
    """
    The number after `####`, or `None` if there is none.

    Args:
        text (`str`): Decoded text of a solution. Text after the first `<|endoftext|>` is ignored.
    """
    match = re.search(r"####\s*(-?\d+)", text.split(END_OF_TEXT, 1)[0])
    return int(match.group(1)) if match else None


def apply_operation(left: int, operation: str, right: int) -> int:
    """Returns `left operation right` for one of `+ - * /`; a division must have no remainder."""
    if operation == "+":
        return left + right
    if operation == "-":
        return left - right
    if operation == "*":
        return left * right
    if operation == "/" and left % right == 0:
        return left // right
    raise ValueError(f"{left} {operation} {right} has no whole result.")


def _is_allowed(left: int, operation: str, right: int) -> bool:
    if operation == "/" and left % right:
        return False
    return 2 <= apply_operation(left, operation, right) <= LARGEST_VALUE


# All facts by operation: the openings (both numbers are given) and the steps (a running value and a small new number).
OPENING_FACTS = {
    "+": [(a, b) for a in range(2, 20) for b in range(2, 10) if _is_allowed(a, "+", b)],
    "-": [(a, b) for a in range(5, LARGEST_VALUE + 1) for b in range(2, 10) if _is_allowed(a, "-", b)],
    "*": [(a, b) for a in range(2, 11) for b in range(2, 11) if _is_allowed(a, "*", b)],
}
Numbers = tuple[int, str, int, list[tuple[str, int]]]  # a, operation, b, further operations with their operands
STEP_OPERANDS = {"+": range(2, 10), "-": range(2, 10), "*": range(2, 6), "/": range(2, 6)}
STEP_FACTS = [(v, op, x) for op, xs in STEP_OPERANDS.items() for v in range(2, LARGEST_VALUE + 1) for x in xs]
FACTS = sorted(
    {(a, op, b) for op, pairs in OPENING_FACTS.items() for a, b in pairs}
    | {fact for fact in STEP_FACTS if _is_allowed(*fact)}
)


@cache
def _step_operands(value: int, operation: str, is_last: bool) -> list[int]:
    # Only the last step divides by more than 2: after that, the story has no owner to continue with.
    candidates = STEP_OPERANDS[operation] if operation != "/" or is_last else (2,)
    return [x for x in candidates if _is_allowed(value, operation, x)]


def _draw_numbers(rng: random.Random, num_steps: int) -> Numbers:
    """The opening `a op b` and the steps `(operation, operand)` that follow it."""
    opening = rng.choice("+-**")
    a, b = rng.choice(OPENING_FACTS[opening])
    value, steps = apply_operation(a, opening, b), []
    for index in range(1, num_steps):
        is_last = index == num_steps - 1
        operations = ["+", "+", "-", "-", "*", "/"]
        rng.shuffle(operations)
        for operation in operations:
            allowed = _step_operands(value, operation, is_last)
            if allowed:
                break
        operand = rng.choice(allowed)
        steps.append((operation, operand))
        value = apply_operation(value, operation, operand)
    return a, opening, b, steps


def _signature(a: int, opening: str, b: int, steps: list[tuple[str, int]]) -> str:
    if opening in "+*":  # 3*4 and 4*3 are the same problem
        a, b = min(a, b), max(a, b)
    return ",".join([f"{a}{opening}{b}"] + [f"{operation}{operand}" for operation, operand in steps])


def _draw_numbers_of_split(rng: random.Random, split: str, num_steps: int) -> tuple[Numbers, str]:
    while True:
        numbers = _draw_numbers(rng, num_steps)
        signature = _signature(*numbers)
        if split_of_signature(signature) == split:
            return numbers, signature


def _tell(rng: random.Random, a: int, opening: str, b: int, steps: list[tuple[str, int]]) -> tuple[str, str, int]:
    """Draws a story for the numbers and returns question, solution and answer."""
    people = rng.sample(sorted(NAMES), 8)
    words: dict[str, object] = {"a": a, "b": b}
    words["k"], words["l"] = rng.sample(COLORS, 2)
    words["d"], words["f"] = rng.sample(DAYS, 2)
    words["c"] = rng.choice(CONTAINERS)
    words["o"] = rng.choice(THINGS)

    def set_owner(name: str) -> None:
        words.update(n=name, p=NAMES[name], P=NAMES[name].capitalize(), m=people.pop())

    def ask(templates: tuple[str, ...]) -> str:
        template = rng.choice(templates)
        text = template.format_map(words)
        if "{m}" in template:  # this person does not appear again
            words["m"] = people.pop()
        return text

    def equation(left: int, operation: str, right: int) -> int:
        result = apply_operation(left, operation, right)
        words["e"] = f"<<{left}{operation}{right}={result}>>{result}"
        return result

    set_owner(people.pop())
    is_money = rng.random() < 0.25
    question = [ask((_EARNING_QUESTIONS if is_money else _OPENING_QUESTIONS)[opening])]
    if is_money:
        words["o"] = "dollars"
    value = equation(a, opening, b)
    solution = [rng.choice(_OPENING_SOLUTIONS).format_map(words)]
    final = rng.choice(_FINAL_QUESTIONS)
    for index, (operation, operand) in enumerate(steps):
        is_last = index == len(steps) - 1
        words["x"] = operand
        value = equation(value, operation, operand)
        if operation == "/" and (operand > 2 or (is_last and rng.random() < 0.3)):
            kind = rng.randrange(2)
            question.append(_SHARE_QUESTIONS[kind].format_map(words))
            solution.append(rng.choice(_SHARE_SOLUTIONS[kind]).format_map(words))
            final = _SHARE_FINAL[kind]
        elif operation == "*" and not is_money and rng.random() < 0.5:
            question.append(rng.choice(_SELL_QUESTIONS).format_map(words))
            solution.append(rng.choice(_SELL_SOLUTIONS).format_map(words))
            is_money, words["o"] = True, "dollars"
        elif rng.random() < 0.2:
            question.append(rng.choice(_COMPARE_QUESTIONS[operation]).format_map(words))
            solution.append(rng.choice(_COMPARE_SOLUTIONS).format_map(words))
            set_owner(str(words["m"]))
        else:
            templates = _MONEY_STEP_QUESTIONS if is_money else _STEP_QUESTIONS
            question.append(ask(templates[operation]))
            solution.append(rng.choice(_STEP_SOLUTIONS[operation]).format_map(words))
    question.append(final.format_map(words))
    if final in _FINAL_QUESTIONS and rng.random() < 0.15:
        solution.append(rng.choice(_CLOSINGS).format_map({**words, "v": value}))
    return " ".join(question), " ".join(solution) + f"\n#### {value}", value


def draw_problem(rng: random.Random, split: str, num_steps: int) -> Problem:
    """
    Draws one problem of a split.

    Args:
        rng (`random.Random`): Source of randomness, advanced by the draw.
        split (`str`): `"train"`, `"validation"` or `"test"`.
        num_steps (`int`): Number of operations, 1 to 4; 1 only in the train split.
    """
    if split not in SPLITS:
        raise ValueError(f"Unknown split {split!r}; expected one of {', '.join(SPLITS)}.")
    if not (1 if split == "train" else 2) <= num_steps <= 4:
        raise ValueError(f"`num_steps` must be 2 to 4 (1 is allowed in the train split only), got {num_steps}.")
    numbers, signature = _draw_numbers_of_split(rng, split, num_steps)
    return Problem(*_tell(rng, *numbers), signature)


def generate_problems(split: str, n: int, seed: int = 0) -> list[Problem]:
    """
    Draws `n` problems of 2 to 4 steps, no two with the same signature.

    The result is a pure function of the arguments, and a smaller `n` gives a prefix of a larger one.

    Args:
        split (`str`): `"train"`, `"validation"` or `"test"`. No signature occurs in two of them.
        n (`int`): Number of problems.
        seed (`int`, *optional*, defaults to 0): Seed of the draw.

    Returns:
        `list[Problem]`: The problems.
    """
    if split not in SPLITS:
        raise ValueError(f"Unknown split {split!r}; expected one of {', '.join(SPLITS)}.")
    rng = random.Random(f"{split}:{seed}")
    problems: dict[str, Problem] = {}
    attempts = 0
    while len(problems) < n:
        numbers, signature = _draw_numbers_of_split(rng, split, num_steps=rng.randint(2, 4))
        if signature not in problems:
            problems[signature] = Problem(*_tell(rng, *numbers), signature)
        attempts += 1
        if attempts > 10 * n + 1000:
            raise ValueError(f"`n` = {n} is too large: the {split} split has too few distinct problems.")
    return list(problems.values())


def vocabulary() -> list[str]:
    """All words, numbers and marks that a problem can contain, sorted. Each number is one entry."""
    groups = [NAMES, NAMES.values(), [p.capitalize() for p in NAMES.values()], THINGS, CONTAINERS, COLORS, DAYS]
    groups += [*_OPENING_QUESTIONS.values(), *_EARNING_QUESTIONS.values(), _OPENING_SOLUTIONS]
    groups += [*_STEP_QUESTIONS.values(), *_MONEY_STEP_QUESTIONS.values(), *_STEP_SOLUTIONS.values()]
    groups += [*_COMPARE_QUESTIONS.values(), _COMPARE_SOLUTIONS, _SELL_QUESTIONS, _SELL_SOLUTIONS]
    groups += [_SHARE_QUESTIONS, _SHARE_FINAL, *_SHARE_SOLUTIONS, _FINAL_QUESTIONS, _CLOSINGS]
    texts = [re.sub(r"\{\w\}", "", text) for group in groups for text in group]
    words = {word for text in texts for word in re.findall(r"[A-Za-z]+", text)}
    marks = ["<<", ">>", "####", "+", "-", "*", "/", "=", ".", ",", "?"]
    return marks + [str(number) for number in range(LARGEST_VALUE + 1)] + sorted(words)
