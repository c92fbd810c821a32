"""`d3llm compare`: sides that take turns, and what is said of them."""

import re
import time

import pytest

from d3llm.commands.main import main
from d3llm.hub_cards.canvas_space import turns as turns_module
from d3llm.hub_cards.canvas_space.turns import StoppedError, Turns, run_in_turns
from tests.helpers.commands import run_fails


class Clock:
    """Time that passes only when a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(turns_module, "time", clock)
    return clock


def test_the_turn_is_that_of_the_slowest_clock(clock):
    """A runner that needs three times as long gets a third of the turns, and none runs while another does."""
    turns, order, computing = Turns(2), [], []

    def runner(number: int, forwards: int, seconds: float):
        def run() -> int:
            for _ in range(forwards):
                computing.append(number)
                time.sleep(0.001)
                clock.wait(seconds)
                assert computing == [number]
                computing.clear()
                turns.next(number, lambda: order.append(number))
            return number

        return run

    assert run_in_turns(turns, [runner(0, 12, 1.0), runner(1, 4, 3.0)]) == [0, 1]
    assert order == [0, 1, *[0, 0, 0, 1] * 3, 0, 0]
    assert turns.seconds == [12.0, 12.0]


def test_what_is_drawn_is_not_timed(clock):
    turns = Turns(1)
    run_in_turns(turns, [lambda: turns.next(0, lambda: clock.wait(5.0))])
    assert turns.seconds == [0.0]


def test_an_error_of_one_ends_all():
    turns, made = Turns(2), []

    def fail() -> None:
        raise ValueError("broken")

    def endless() -> None:
        while True:
            made.append(1)
            turns.next(1, lambda: None)

    with pytest.raises(ValueError, match="broken"):
        run_in_turns(turns, [fail, endless])
    with pytest.raises(StoppedError):
        turns.next(1, lambda: None)


def compare(capsys, *arguments: str) -> str:
    assert main(["compare", "--prompt", "one plus two is", *arguments]) == 0
    return capsys.readouterr().out


def test_two_presets_of_one_model(tiny_checkpoint, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    arguments = ["--model", str(tiny_checkpoint), "--preset", "llada", "d3llm", "--max-new-tokens", "16"]
    printed = compare(capsys, *arguments, "--early-stop", "false", "--threshold", "3")
    rows = [line.split("│")[1:-1] for line in printed.splitlines() if line.count("│") == 9]
    facts = [[cell.strip() for cell in row] for row in rows]
    assert [row[1] for row in facts] == ["llada", "d3llm"]
    assert facts[0][3] == "16" and int(facts[1][3]) < 16  # forwards
    assert facts[0][-1] == "" and facts[1][-1] in ("the same", "another")
    beside = next(line for line in printed.splitlines() if "llada" in line and "d3llm" in line)
    assert beside.index("llada") < 60 < beside.index("d3llm")
    assert len(re.findall(r"TPF \d", printed)) == 2 and "\x1b" not in printed


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--preset", "llada"], "give a second"),
        (["--preset", "llada", "dream", "dparallel", "wedlm", "d3llm"], "at most 4"),
        (["--model", "a", "b", "--preset", "llada", "dream", "d3llm"], "--model names 2 and --preset 3"),
        (["--preset", "llada", "d3lm"], "d3lm"),
        (["--model", "nowhere", "there"], "nowhere"),
        (["--num-return-sequences", "2"], "one sequence"),
    ],
)
def test_wrong_sides(capsys, arguments, said):
    assert said in run_fails(capsys, "compare", "--prompt", "one", *arguments)
    assert "empty" in run_fails(capsys, "compare", "--prompt", " ")
