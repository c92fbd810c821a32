"""Puts a model on the Hub in one commit: weights, decoder, tokenizer, and a card with what is known about it."""

import sys
from pathlib import Path

from d3llm import checkpoint_path
from d3llm.hub_cards.convert import convert
from d3llm.hub_cards.push import push
from d3llm.hub_cards.repositories import model_repository


if len(sys.argv) != 2:
    sys.exit("usage: python push.py OWNER/NAME")
REPO = sys.argv[1]
MODEL = Path(checkpoint_path("student"))  # or another folder, such as one that d3llm distill wrote
EXPORT = Path("export")

if not EXPORT.is_dir():
    convert(MODEL, EXPORT)  # adds the code; a folder that save_pretrained wrote has it, and can be pushed as it is
repository = model_repository(EXPORT, REPO)  # refuses pickles, secrets, a missing licence, and incomplete folders
for warning in repository.warnings:
    print("warning:", warning)
pushed = push(repository, REPO, private=True)
print(f"{pushed.url}: {pushed.changed} files changed")
