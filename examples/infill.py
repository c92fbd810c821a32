"""Fills gaps in the middle of a text: the positions that hold the mask token, and no others."""

import torch
from transformers import AutoTokenizer

from d3llm import LLaDAModelLM, checkpoint_path


MODEL = checkpoint_path("student")  # or a folder or Hub id with LLaDA weights
PROMPT = "Anna has 5 cards and buys 3 more. How many cards does Anna have?"
BEFORE, GAP, AFTER = "Anna now has <<5+3=", 3, "cards.\n#### 8"

model = LLaDAModelLM.from_pretrained(MODEL).eval()
tokenizer = AutoTokenizer.from_pretrained(MODEL)
chat = [
    {"role": "user", "content": PROMPT},
    {"role": "assistant", "content": BEFORE + tokenizer.mask_token * GAP + AFTER},
]
ids = torch.tensor([tokenizer.apply_chat_template(chat, return_dict=False)])
filled = model.infill(ids)
gap = ids[0] == model.config.mask_token_id
print("given: ", tokenizer.decode(ids[0][~gap]))
print("filled:", tokenizer.decode(filled[0]))
print("gap:   ", tokenizer.decode(filled[0][gap]))
