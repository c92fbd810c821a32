"""What the caches of d3LLM cost and save: accuracy and tokens per forward on the quickstart models, the mean window,
and the error of logits on a larger random model.

The presets decode the same problems one by one; a window is the positions that a forward recomputes, as a share of its
canvas. The error is that of the candidates' log-probabilities in a forward with the cache, against a forward without
it on the same canvas.

    python -m benchmarks.caches --json docs/results/caches.json
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging

from benchmarks.machine import describe_machine
from d3llm.common.files import write_atomically
from d3llm.evaluation import encode_prompt
from d3llm.evaluation.decoding import wilson_interval
from d3llm.generation import decoding_run
from d3llm.modeling import LLaDAConfig, LLaDAModelLM
from d3llm.modeling.loading import load_model, load_tokenizer
from d3llm.quickstart import checkpoint_path
from d3llm.quickstart.stories.checker import is_right
from d3llm.quickstart.stories.problem import generate_problems
from d3llm.quickstart.stories.task import STORIES


CACHES: dict[str, dict[str, Any]] = {
    "no cache": {"preset": "d3llm"},
    "block, published": {"preset": "d3llm", "cache": "block"},
    "opened": {"preset": "d3llm_opened"},
}


class Windows:
    """While it is on, adds up what forwards recompute."""

    def __init__(self):
        self.positions, self.canvas, self.forwards = 0, 0, 0

    def __enter__(self):
        self.forward = forward = decoding_run.DecodingRun.forward

        def watched(run):
            self.positions += int(run.window.positions.sum())
            self.canvas += run.canvas.tokens.size
            self.forwards += 1
            return forward(run)

        decoding_run.DecodingRun.forward = watched
        return self

    def __exit__(self, *error):
        decoding_run.DecodingRun.forward = self.forward


def on_problems(folder: Path, fields: dict[str, Any], count: int, split: str, seed: int) -> dict[str, Any]:
    """Accuracy, tokens per forward and mean window of a model over problems, decoded one by one."""
    model, tokenizer = load_model(folder).eval(), load_tokenizer(folder)
    right, tokens, start = 0, 0.0, time.perf_counter()
    with Windows() as windows:
        for problem in generate_problems(split, count, seed):
            ids = torch.tensor([encode_prompt(tokenizer, problem.question)])
            canvas = {"max_new_tokens": STORIES.max_new_tokens}
            output = model.generate(ids, return_dict_in_generate=True, **canvas, **fields)
            text = tokenizer.decode(output.sequences[0, ids.shape[1] :], skip_special_tokens=True)
            right += is_right(problem, text)
            tokens += int(output.tokens)
    low, high = wilson_interval(right, count)
    return {
        "model": folder.name,
        "problems": count,
        "split": split,
        "seed": seed,
        "accuracy": right / count,
        "accuracy_interval": [low, high],
        "tokens_per_forward": tokens / windows.forwards,
        "mean_window": windows.positions / windows.canvas,
        "forwards": windows.forwards,
        "seconds": time.perf_counter() - start,
    }


def on_random_model(fields: dict[str, Any], new_tokens: int, seed: int) -> dict[str, Any]:
    """Mean window and error of log-probabilities on a random LLaDA of 9 M parameters with sharp outputs."""
    torch.manual_seed(seed)
    size = {"d_model": 256, "n_heads": 4, "n_layers": 6, "mlp_hidden_size": 704, "max_sequence_length": 1024}
    tokens = {"vocab_size": 8192, "embedding_size": 8192, "mask_token_id": 8191, "eos_token_id": 8190}
    model = LLaDAModelLM(LLaDAConfig(**size, **tokens, pad_token_id=8190)).eval()
    head = model.get_output_embeddings()
    with torch.no_grad():
        head.weight.mul_(9 / (head.weight.std() * size["d_model"] ** 0.5))
        head.weight[[8190, 8191]] = 0
    errors = []

    with Windows() as windows:
        propose = decoding_run.DecodingRun.propose

        def proposed(run, states):
            tokens, rows, eligible = (run.upload(x) for x in (run.canvas.tokens, run.positions, run.eligible))
            exact = model(tokens, logits_to_keep=rows).logits[eligible].log_softmax(dim=-1)
            found = run.head(states[eligible]).log_softmax(dim=-1)
            likely = exact > -7  # the tail of a distribution decides nothing
            errors.append((found - exact).abs()[likely].mean())
            return propose(run, states)

        decoding_run.DecodingRun.propose = proposed
        try:
            prompt = torch.randint(0, 8000, (1, 64), generator=torch.Generator().manual_seed(seed))
            output = model.generate(
                prompt, max_new_tokens=new_tokens, early_stop=False, return_dict_in_generate=True, **fields
            )
        finally:
            decoding_run.DecodingRun.propose = propose
    return {
        "model": "random-9m",
        "new_tokens": new_tokens,
        "seed": seed,
        "tokens_per_forward": float(output.tokens_per_forward),
        "mean_window": windows.positions / windows.canvas,
        "mean_error_nats": float(torch.stack(errors).mean()),
    }


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=500)
    parser.add_argument("--split", default="test")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--new-tokens", type=int, default=512, help="new tokens of the random model")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    rows = []
    for cache, fields in CACHES.items():
        for name in ("teacher", "student"):
            rows.append(
                {"cache": cache, **on_problems(checkpoint_path(name), fields, args.problems, args.split, args.seed)}
            )
            print(json.dumps(rows[-1]), flush=True)
        rows.append({"cache": cache, **on_random_model(fields, args.new_tokens, args.seed)})
        print(json.dumps(rows[-1]), flush=True)
    if args.json:
        write_atomically(
            args.json, json.dumps({"rows": rows, "machine": describe_machine()}, indent=1).encode() + b"\n"
        )


if __name__ == "__main__":
    main()
