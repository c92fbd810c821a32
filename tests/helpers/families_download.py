"""A process in which the package cannot be imported: loads the checkpoints of a folder with their code, saves again.

Arguments: the folder of checkpoints, the file for the results.
"""

import json
import sys
from pathlib import Path

from hub_download import NoPackage


if __name__ == "__main__":
    sys.meta_path.insert(0, NoPackage())

import torch
from transformers import AutoModelForCausalLM


if __name__ == "__main__":
    results = {}
    for folder in sorted(Path(sys.argv[1]).iterdir()):
        model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).eval()
        ids = torch.arange(4, 14)[None]
        with torch.no_grad():
            logits = model(ids).logits
        preset = "d3llm" if model.attention is None else None
        tokens = model.generate(ids, preset=preset, max_new_tokens=8, block_size=4)
        found = {"logits": logits.tolist(), "tokens": tokens.tolist(), "class": type(model).__name__}
        if hasattr(model.config, "num_experts"):
            model.set_experts_implementation("batched_mm")
            with torch.no_grad():
                found["batched logits"] = model(ids, output_router_logits=True).logits.tolist()
        model.save_pretrained(folder / "again")
        results[folder.name] = found
    Path(sys.argv[2]).write_text(json.dumps(results))
