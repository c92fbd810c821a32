"""Fills the tables of the pages from the result files.

A table stands between `<!-- docs/results/NAME.json -->` and `<!-- end -->`; the machine, versions and repeats above it
come from the file too. A file that does not exist leaves its table as it is.

    python -m benchmarks.tables
"""

import functools
import json
import os
import re
import textwrap
from pathlib import Path
from typing import Any

from benchmarks.decode import COLUMNS, cell
from d3llm.common.files import write_atomically


ROOT = Path(__file__).resolve().parent.parent
PAGES = ("benchmarks/README.md", "docs/training.md", "docs/autoregressive.md", "docs/serving.md")
DRAFTER = "docs/results/introspective.json"
SENTENCE = re.compile(r"(<!-- drafter -->\n).*?(<!-- end of drafter -->)", re.DOTALL)
TABLE = re.compile(r"(<!-- (docs/results/\S+\.json) -->\n).*?(<!-- end -->)", re.DOTALL)
OF_PROBLEMS = ("problems", "accuracy (95 % interval)", "TPF")
LOSSLESS = (
    "states",
    "assistant, its forwards",
    "forwards",
    "row forwards",
    "TPF",
    "seconds",
    "tokens/s",
    "equal texts",
    "ties",
)
AGAINST = ("equal rows", "forwards", "theirs", "seconds", "theirs", "theirs / ours", "head", "theirs")


def main() -> None:
    for page in filter(Path.is_file, (ROOT / name for name in PAGES)):
        text = page.read_text(encoding="utf-8")
        write_atomically(page, TABLE.sub(functools.partial(filled, page.parent), text).encode())
    if (ROOT / DRAFTER).is_file():
        text = (ROOT / "README.md").read_text(encoding="utf-8")
        sentence = drafter_sentence(json.loads((ROOT / DRAFTER).read_text(encoding="utf-8")))
        write_atomically(ROOT / "README.md", SENTENCE.sub(rf"\1{sentence}\n\2", text).encode())


def filled(folder: Path, table: re.Match[str]) -> str:
    """The place of a table, on a page in this folder, with what its result file says."""
    beginning, name, end = table.groups()
    if not (ROOT / name).is_file():
        print(f"{name} does not exist: its table stays as it is")
        return table[0]
    result = json.loads((ROOT / name).read_text(encoding="utf-8"))
    link = f"[Result file]({os.path.relpath(ROOT / name, folder)})"
    above = textwrap.fill(f"{describe(result)} {link}.", width=120, break_long_words=False, break_on_hyphens=False)
    return f"{beginning}\n{above}\n\n{render(result)}\n\n{end}"


def describe(result: dict[str, Any]) -> str:
    """Machine, versions and settings in one paragraph."""
    machine, settings = result["machine"], result.get("settings")
    instructions = ", ".join([machine["cpu_capability"], *machine["bfloat16_instructions"]])
    threads = settings["threads"] if settings else 1
    where = f"{machine['cpu']} ({instructions}), {threads} of {machine['cores']} cores"
    packages = ("torch", "transformers", "torchao", "bitsandbytes")
    versions = ", ".join(f"{name} {machine[name]}" for name in packages if name in machine)
    versions += f", Python {machine['python']}"
    if settings is None:
        return f"{where}; {versions}."
    if "repeats" not in settings:
        of = f"{settings['prompts']} prompts, up to {settings['new_tokens']} new tokens"
    else:
        of = f"{settings['repeats']} repeat{'s' * (settings['repeats'] != 1)}"
    return f"{where}; {versions}; {of}, seed {settings['seed']}."


def problem_cells(row: dict[str, Any]) -> list[str]:
    low, high = (f"{100 * share:.1f}%" for share in row["accuracy_interval"])
    return [
        str(row["problems"]),
        f"{100 * row['accuracy']:.1f}% ({low} to {high})",
        f"{row['tokens_per_forward']:.2f}",
    ]


def cache_cells(row: dict[str, Any]) -> list[str]:
    if "accuracy" in row:
        shown = problem_cells(row)
    else:
        shown = ["-", "-", f"{row['tokens_per_forward']:.2f}"]
    error = f"{row['mean_error_nats']:.2f}" if "mean_error_nats" in row else "-"
    return [row["cache"], row["model"], *shown, f"{row['mean_window']:.2f}", error]


def throughput_cells(row: dict[str, Any]) -> list[str]:
    low, high = row["times_faster_interval"]
    return [
        row["model"],
        f"`{row['preset']}`",
        row["cache"],
        str(row["batch_size"]),
        f"{row['seconds']:.1f}",
        "1" if low == high else f"{row['times_faster']:.2f} ({low:.2f} to {high:.2f})",
        f"{row['tokens_per_second']:.0f}",
        *problem_cells(row),
    ]


def attention_cells(row: dict[str, Any]) -> list[str]:
    attention, decoder = row["attention"].replace("_", "-"), row["decoder"]
    measured = [f"{row['mean_window']:.2f}", f"{row['forwards']:,}", f"{row['seconds']:.0f}"]
    return [attention, decoder, *problem_cells(row), *measured]


def lossless_cells(row: dict[str, Any]) -> list[str]:
    widest = row["ties"][0] if row.get("ties") else None
    return [
        row["model"],
        f"`{row['preset']}`",
        str(row["batch_size"]),
        "-" if row["draft_states"] == 1 else str(row["draft_states"]),
        f"{row['assistant']}, {row['assistant_forwards']:,}" if "assistant" in row else "-",
        f"{row['forwards']:,}",
        f"{row['row_forwards']:,}",
        f"{row['tokens_per_forward']:.2f}",
        f"{row['seconds']:.1f}",
        f"{row['tokens_per_second']:.0f}",
        f"{row['problems'] - len(row['differing'])}/{row['problems']}",
        "-" if widest is None else f"{widest['either'] / widest['forwards']:.1%}",
    ]


def introspective_tables(rows: list[dict[str, Any]]) -> str:
    """What each way takes; what the drafter takes for each kind of prompt; how often its drafts are accepted."""
    titles = ["way", "the same text", "forwards", "TPF (95 % interval)", "seconds", "times as fast (95 % interval)"]
    ways = [[row["way"], f"{row['identical']:.1%}", *introspective_cells(row)] for row in rows]
    parts = [markdown(titles, ways)]
    for drafter in (row for row in rows if row["way"] == "drafter"):
        kinds = [[kind, *introspective_cells(row)] for kind, row in drafter["kinds"].items()]
        reached = [f"{count / drafter['forwards']:.0%}" for count in drafter["accepted"]]
        given = [f"{a / p:.0%}" for a, p in zip(drafter["accepted"], drafter["proposed"], strict=True)]
        places = [str(place) for place in range(1, len(reached) + 1)]
        parts += [
            f"The drafter by kind of prompt, of {drafter['tokens']:,} tokens in all:",
            markdown(["prompts", *titles[2:]], kinds),
            "Its drafts by their place after the last token:",
            markdown(["draft", *places], [["accepted, of all forwards", *reached], ["of those verified", *given]]),
        ]
    return "\n\n".join(parts)


def drafter_sentence(result: dict[str, Any]) -> str:
    """What the README says of the shipped drafter."""
    rows = {row["way"]: row for row in result["rows"]}
    drafter, packed = rows["drafter"], rows["packed"]

    def figure(name: str) -> str:
        low, high = drafter[f"{name}_interval"]
        return f"{drafter[name]:.2f} ({low:.2f} to {high:.2f})"

    text = (
        f"On {drafter['prompts']} held-out prompts {drafter['identical']:.1%} of the texts are the model's own. It "
        f"needs a forward for {figure('tokens_per_forward')} tokens, and is {figure('times_faster')} times as fast as "
        f"`generate()` of transformers on {result['settings']['threads']} cores; packing the weights alone gives "
        f"{packed['times_faster']:.2f} times ([result file]({DRAFTER}))."
    )
    return textwrap.fill(text, width=120, break_long_words=False, break_on_hyphens=False)


def serving_table(result: dict[str, Any]) -> str:
    """Many clients at once and one alone, and what the other parts of the load test found."""
    titles = ["clients", "requests", "lost", "requests/s", "tokens/s", "median wait, s", "95th percentile, s"]
    cells = [
        [
            str(row["clients"]),
            f"{row['requests']:,}",
            str(sum(row["errors"].values())),
            f"{row['requests_per_second']:.1f}",
            f"{row['tokens_per_second']:.0f}",
            f"{row['median_seconds']:.2f}",
            f"{row['p95_seconds']:.2f}",
        ]
        for row in result["rows"]
    ]
    killed, clients = result["killed"], result["rows"][0]["clients"]
    below = (
        f"Together they are served {result['speedup']:.1f} times as fast as one after another. "
        f"{result['answers_that_differ_from_generate']} answers differ from `generate()`. Of {clients} clients of a "
        f"server that was killed at its first answer {killed['failed']} got an error; started again on the same port, "
        f"it answered after {killed['restart_seconds']:.1f} s."
    )
    return f"{markdown(titles, cells)}\n\n{textwrap.fill(below, width=120)}"


def introspective_cells(row: dict[str, Any]) -> list[str]:
    low, high = row["tokens_per_forward_interval"]
    slow, fast = row["times_faster_interval"]
    return [
        f"{row['forwards']:,}",
        f"{row['tokens_per_forward']:.2f} ({low:.2f} to {high:.2f})",
        f"{row['seconds']:.0f}",
        f"{row['times_faster']:.2f} ({slow:.2f} to {fast:.2f})",
    ]


def render(result: dict[str, Any]) -> str:
    rows = result["rows"]
    if rows and "attention" in rows[0]:
        titles = ["attention", "decoder", *OF_PROBLEMS, "mean window", "forwards", "seconds"]
        return markdown(titles, [attention_cells(row) for row in rows])
    if rows and "mean_window" in rows[0]:
        return markdown(
            ["cache", "model", *OF_PROBLEMS, "mean window", "error, nats"], [cache_cells(row) for row in rows]
        )
    if rows and "precision" in rows[0]:
        cells = [
            [row["precision"], row["model"], *problem_cells(row), f"{row['tokens_per_second']:.0f}"] for row in rows
        ]
        return markdown(["precision", "model", *OF_PROBLEMS, "tokens/s"], cells)
    if rows and "rounds" in rows[0]:
        titles = ["model", "preset", "cache", "batch", "seconds", "times as fast (95 % interval)", "tokens/s"]
        return markdown([*titles, *OF_PROBLEMS], [throughput_cells(row) for row in rows])
    if rows and "way" in rows[0]:
        return introspective_tables(rows)
    if rows and "clients" in rows[0]:
        return serving_table(result)
    if rows and "identical" in rows[0]:
        return markdown(["model", "preset", "batch", *LOSSLESS], [lossless_cells(row) for row in rows])
    if rows and "side" in rows[0]:
        return markdown(["side", "method", "batch", *AGAINST], [against_cells(row) for row in rows])
    shown = [title for title in COLUMNS if any(row.get(COLUMNS[title][0]) is not None for row in rows)]
    cells = [
        [f"`{row['preset']}`", row["cache"], row["dtype"], str(row["batch_size"]), *(cell(row, t) for t in shown)]
        for row in rows
    ]
    return markdown(["preset", "cache", "dtype", "batch", *shown], cells)


def against_cells(row: dict[str, Any]) -> list[str]:
    """The cells of a row of `against.py`; its table on the terminal has the same."""
    low, high = row["ratio_spread"]
    return [
        row["side"],
        row["method"],
        str(row["batch_size"]),
        f"{row['rows_with_equal_tokens']}/{row['rows']}",
        str(row["ours_forwards"]),
        str(row["theirs_forwards"]),
        f"{row['ours_seconds']:.2f}",
        f"{row['theirs_seconds']:.2f}",
        f"{row['ratio']:.2f} ({low:.2f} to {high:.2f})",
        f"{row['ours_share_of_head']:.0%}",
        f"{row['theirs_share_of_head']:.0%}",
    ]


def markdown(titles: list[str], rows: list[list[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    main()
