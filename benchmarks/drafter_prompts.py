"""The prompts whose texts train the shipped drafter: `d3llm extract --order ar` records them.

Half are requests about a topic, each line of `requests.txt` with each of `topics.txt`. The others are in equal parts
questions of GSM8K's training split and descriptions of MBPP's training and validation splits. What is measured, the
test splits of both and `instructions.txt`, is not among them.

    python -m benchmarks.drafter_prompts --gsm8k train.jsonl --mbpp mbpp.jsonl --output prompts.jsonl
"""

import argparse
import json
import random
import sys
from pathlib import Path

from benchmarks.introspective import MBPP_TEST, read_lines
from d3llm.common.files import write_atomically


HERE = Path(__file__).parent
TEXTS = ("topics.txt", "requests.txt")


def draw_prompts(gsm8k: Path, mbpp: Path, prompts: int, seed: int) -> list[dict[str, str]]:
    """Rows with `id` and `prompt`, shuffled."""
    topics, requests = (HERE.joinpath(name).read_text(encoding="utf-8").splitlines() for name in TEXTS)
    kinds = {
        "english": [request.format(topic) for topic in topics for request in requests],
        "gsm8k": [row["question"] for row in read_lines(gsm8k)],
        "mbpp": [row["text"] for row in read_lines(mbpp) if row["task_id"] > MBPP_TEST[-1]],
    }
    counts = {"english": prompts - 2 * (prompts // 4), "gsm8k": prompts // 4, "mbpp": prompts // 4}
    pick = random.Random(seed)
    drawn = [
        {"id": f"{kind}-{number}", "prompt": texts[number]}
        for kind, texts in kinds.items()
        for number in pick.sample(range(len(texts)), min(counts[kind], len(texts)))
    ]
    pick.shuffle(drawn)
    return drawn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gsm8k", type=Path, required=True, help="JSON lines with `question`")
    parser.add_argument("--mbpp", type=Path, required=True, help="JSON lines with `task_id` and `text`")
    parser.add_argument("--prompts", type=int, default=1200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    try:
        rows = draw_prompts(args.gsm8k, args.mbpp, args.prompts, args.seed)
        write_atomically(args.output, "".join(json.dumps(row) + "\n" for row in rows).encode())
    except (OSError, ValueError, KeyError) as error:
        sys.exit(f"drafter_prompts: error: {error}")
    print(f"{len(rows)} prompts in {args.output}")


if __name__ == "__main__":
    main()
