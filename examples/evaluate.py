"""Measures a model on a task of your own: a YAML file, data in JSON lines, and a preset per row of the table."""

import json
from pathlib import Path

from transformers import AutoTokenizer

from d3llm import LLaDAModelLM, checkpoint_path, load_task, measure


MODEL = checkpoint_path("student")  # or a folder or Hub id with LLaDA weights
TASK = """\
data: sums.jsonl
prompt: "{{ name }} has {{ first }} cards and buys {{ second }} more. How many cards does {{ name }} have?"
answer: "{{ first + second }}"
extract: number
metric: numeric
max_new_tokens: 96
"""

rows = [{"name": name, "first": 3 + i, "second": 4} for i, name in enumerate(("Anna", "Tom", "Mia", "Leo"))]
Path("sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
Path("sums.yaml").write_text(TASK, encoding="utf-8")

model = LLaDAModelLM.from_pretrained(MODEL).eval()
tokenizer = AutoTokenizer.from_pretrained(MODEL)
for result in measure(model, tokenizer, load_task("sums.yaml"), "results", presets=["llada", "d3llm"]):
    low, high = result.accuracy_interval
    accuracy = f"{result.accuracy:.0%} right (95 % interval {low:.0%} to {high:.0%})"
    print(f"{result.preset}: {accuracy}, {result.tokens_per_forward:.1f} tokens per forward")
