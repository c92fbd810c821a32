"""A small extraction, and what it wrote."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from d3llm.trajectories.extract import ExtractionConfig, extract_trajectories


EOS, MASK = 0, 1
NEW_TOKENS = 24


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def extract(tiny, dataset: Path, output: Path, **options):
    options = {"chunk_size": 4, "batch_size": 3, **options}
    if options.get("order", "teacher") == "teacher":
        options["decoding"] = {"max_new_tokens": NEW_TOKENS, "block_size": 8, **options.get("decoding", {})}
    return extract_trajectories(*tiny, ExtractionConfig(str(dataset), output, "tiny", **options))


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return pa.concat_tables([pq.read_table(file) for file in sorted(folder.glob("data/*.parquet"))]).to_pylist()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
