"""Load on `d3llm serve`: many clients at once, against one after another, and what a kill leaves.

    python -m benchmarks.serving --clients 64 --requests 1000 --json docs/results/serving.json

The server runs in a process of its own on loopback, the clients are threads with the `openai` client. Each answer is
compared with that of `generate()` for the prompt alone. Then the same server takes some of the requests one after
another, is killed in the middle of answers, and is started again on the same port.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import torch

from benchmarks.machine import describe_machine
from d3llm.commands.loading import load_model
from d3llm.commands.serve import checkpoint_of
from d3llm.common.files import write_atomically
from d3llm.evaluation import encode_prompt
from d3llm.quickstart.stories.problem import generate_problems


SEED = 1  # of the problems


@dataclass(frozen=True)
class Answered:
    """What a client got: the text or the name of an error, tokens, and seconds from request to answer."""

    text: str
    tokens: int
    seconds: float
    failed: bool = False


@contextmanager
def served(args: argparse.Namespace, port: int = 0):
    """A server process; yields it and its port."""
    command = [sys.executable, "-m", "d3llm", "serve", "--port", str(port), "--batch-size", str(args.rows)]
    command += ["--queue", str(2 * args.clients), *([] if args.model is None else ["--model", args.model])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline() if process.stdout else ""
            found = re.search(r":(\d+)/v1", line)
            if not found:
                raise OSError(f"the server did not start: {line!r}")
            yield process, int(found[1])
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


CLIENTS = threading.local()


def client_of_thread(port: int) -> openai.OpenAI:
    """The client of this thread, with its own connection; a client takes as long to make as a short answer."""
    if getattr(CLIENTS, "port", None) != port:
        CLIENTS.port = port
        CLIENTS.client = openai.OpenAI(
            base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0, timeout=3600
        )
    return CLIENTS.client


def ask(port: int, model: str, text: str) -> Answered:
    """One request."""
    client = client_of_thread(port)
    began = time.perf_counter()
    try:
        answer = client.chat.completions.create(model=model, messages=[{"role": "user", "content": text}])
    except openai.OpenAIError as error:
        return Answered(type(error).__name__, 0, time.perf_counter() - began, failed=True)
    text, tokens = answer.choices[0].message.content or "", answer.usage.completion_tokens
    return Answered(text, tokens, time.perf_counter() - began)


def alone(folder: Path, questions: list[str]) -> tuple[dict[str, str], int]:
    """The texts of `generate()`, each prompt alone, and how many new tokens there can be."""
    model, tokenizer = load_model(folder, device="cpu")
    texts = {}
    for question in dict.fromkeys(questions):
        prompt = torch.tensor([encode_prompt(tokenizer, [{"role": "user", "content": question}])])
        output = model.generate(prompt, return_dict_in_generate=True)
        tokens = int(output.tokens[0])
        generated = output.sequences[0, prompt.shape[1] :][:tokens]
        texts[question] = tokenizer.decode(generated, skip_special_tokens=True)
    return texts, model.generation_config.max_new_tokens


def load(port: int, name: str, questions: list[str], clients: int) -> tuple[list[Answered], dict[str, Any]]:
    """All questions by so many clients at once, and what it took."""
    began = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        answers = list(pool.map(lambda question: ask(port, name, question), questions))
    seconds = time.perf_counter() - began
    waits = sorted(answer.seconds for answer in answers)
    return answers, {
        "clients": clients,
        "requests": len(questions),
        "seconds": seconds,
        "requests_per_second": len(questions) / seconds,
        "tokens_per_second": sum(answer.tokens for answer in answers) / seconds,
        "median_seconds": waits[len(waits) // 2],
        "p95_seconds": waits[int(0.95 * (len(waits) - 1))],
        "errors": dict(Counter(answer.text for answer in answers if answer.failed)),
    }


def killed_and_restarted(args: argparse.Namespace, name: str, questions: list[str]) -> dict[str, Any]:
    """Kills a server in the middle of answers: its clients get errors, and the next one on the port answers."""
    with served(args) as (process, port), ThreadPoolExecutor(len(questions)) as pool:
        asked = [pool.submit(ask, port, name, question) for question in questions]
        next(as_completed(asked))
        os.kill(process.pid, signal.SIGKILL)
        failed = sum(future.result().failed for future in asked)
    began = time.perf_counter()
    with served(args, port) as (_, again):
        seconds = time.perf_counter() - began
        answers = [ask(again, name, question) for question in questions[:4]]
    return {"failed": failed, "restart_seconds": seconds, "errors_after": sum(answer.failed for answer in answers)}


def run(args: argparse.Namespace) -> dict[str, Any]:
    """All parts of the load test."""
    folder = checkpoint_of(args.model)
    name = folder.name if args.model is None or Path(args.model).is_dir() else args.model
    questions = [problem.question for problem in generate_problems("test", args.requests, seed=SEED)]
    with served(args) as (_, port):
        ask(port, name, questions[0])
        answers, together = load(port, name, questions, args.clients)
        _, one_by_one = load(port, name, questions[: args.one_by_one], 1)
    texts, new_tokens = alone(folder, questions)
    pairs = zip(answers, questions, strict=True)
    differing = sum(not answer.failed and answer.text != texts[question] for answer, question in pairs)
    return {
        "model": name,
        "settings": {
            "prompts": len(questions),
            "new_tokens": new_tokens,
            "seed": SEED,
            "batch_size": args.rows,
            "threads": torch.get_num_threads(),
        },
        "rows": [together, one_by_one],
        "speedup": together["requests_per_second"] / one_by_one["requests_per_second"],
        "answers_that_differ_from_generate": differing,
        "killed": killed_and_restarted(args, name, questions[: args.clients]),
        "machine": describe_machine(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder or Hub id (default: the shipped student)")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--one-by-one", type=int, default=100, help="requests of one client alone")
    parser.add_argument("--rows", type=int, default=16, help="rows decoded at a time")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    result = run(args)
    text = json.dumps(result, indent=2)
    print(text)
    if args.json is not None:
        write_atomically(args.json, f"{text}\n".encode())
    lost = result["answers_that_differ_from_generate"] or result["rows"][0]["errors"]
    sys.exit(1 if lost or result["killed"]["errors_after"] else 0)


if __name__ == "__main__":
    main()
