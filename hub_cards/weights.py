"""Checks weights and tables before a push: complete, covered by the index, and finite."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from .contents import Content, Files, read


INDEX = "model.safetensors.index.json"
WEIGHTS = "model.safetensors"
ROWS = 256  # of a table, in memory at a time


def check_weights(folder: Path, files: Files) -> None:
    """
    Refuses weights that are truncated, missing, or not covered by the index.

    Args:
        folder (`Path`): The model's folder, for errors.
        files (`dict[str, Path | bytes]`): Content by path in the repository.

    Raises:
        `ValueError`: For such weights.
    """
    wanted = _wanted(files)
    for path in wanted or [WEIGHTS]:
        if path not in files:
            raise ValueError(f"{folder} is incomplete: it has no {path}.")
    for path in (path for path in files if path.endswith(".safetensors")):
        with _opened(path, files[path]) as tensors:
            names = set(tensors.keys())
        if "/" in path:
            continue
        if path not in (wanted or [WEIGHTS]):
            raise ValueError(
                f"{path} is not part of the model: {INDEX if wanted else WEIGHTS} does not use it. Remove it."
            )
        for name in sorted(names ^ wanted.get(path, names)):
            what = "is not in the index" if name in names else "is not in the file"
            raise ValueError(f"{INDEX} does not fit {path}: {name} {what}. Save the model again.")


def _wanted(files: Files) -> dict[str, set[str]]:
    """The names of the weights in each shard, according to the index; empty if there is no index."""
    if INDEX not in files:
        return {}
    weight_map = read_json_object(files, INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(v, str) for v in weight_map.values()):
        raise ValueError(f"{INDEX} is damaged: its weight_map does not map weights to files. Save the model again.")
    wanted: dict[str, set[str]] = {}
    for name, path in weight_map.items():
        wanted.setdefault(path, set()).add(name)
    return wanted


def weights_without_numbers(files: Files) -> list[str]:
    """
    Weights that hold NaN or infinity.

    Args:
        files (`dict[str, Path | bytes]`): Content by path in the repository, with complete weights.

    Returns:
        `list[str]`: One line for each file with such weights. Only one weight is in memory at a time.
    """
    found = []
    for path in (path for path in files if path.endswith(".safetensors")):
        with _opened(path, files[path]) as tensors:
            bad = [name for name in tensors.keys() if not _is_finite(tensors.get_tensor(name))]  # noqa: SIM118
        if bad:
            found.append(f"{path}: {bad[0]} holds NaN or infinity ({len(bad)} such weights)")
    return found


def _is_finite(tensor: Any) -> bool:
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    if tensor.element_size() == 1:
        tensor = tensor.float()  # torch does not compare 8-bit numbers
    return all(bound.isfinite().item() for bound in tensor.aminmax())  # both are NaN if any number is


def texts_in_data(path: str, content: Content) -> Iterator[bytes]:
    """
    The texts in a file of weights (metadata, names) or in a table (metadata, columns of text or bytes).

    Args:
        path (`str`): Its path in the repository: `*.safetensors` or `*.parquet`.
        content (`Path` or `bytes`): The file.

    Raises:
        `ValueError`: For a damaged file.
    """
    if path.endswith(".safetensors"):
        with _opened(path, content) as tensors:
            yield _joined([tensors.metadata() or {}, *tensors.keys()])
        return
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(pa.BufferReader(content) if isinstance(content, bytes) else content) as table:
            yield _joined([table.metadata.metadata or {}, *table.schema.names])
            leaves = [table.schema.column(index) for index in range(len(table.schema.names))]
            texts = [leaf.path for leaf in leaves if leaf.physical_type == "BYTE_ARRAY"]
            if texts:
                for batch in table.iter_batches(batch_size=ROWS, columns=texts):
                    yield _joined(batch.to_pylist())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({str(error).splitlines()[0]}): create it again.") from error


def _joined(values: Any) -> bytes:
    return b"\n".join(_texts(values)) + b"\n"


def _texts(value: Any) -> Iterator[bytes]:
    """The texts in a value of any depth."""
    if isinstance(value, bytes):
        yield value
    elif isinstance(value, str):
        yield value.encode("utf-8", "replace")
    elif isinstance(value, dict):
        yield from _texts([*value, *value.values()])
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _texts(item)


def read_json_object(files: Files, path: str) -> dict[str, Any]:
    """
    Reads a JSON object from a repository.

    Args:
        files (`dict[str, Path | bytes]`): Content by path in the repository.
        path (`str`): The file.

    Raises:
        `ValueError`: If it is something else.
    """
    try:
        values = json.loads(read(files[path]))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} does not hold a JSON object.")
    return values


@contextmanager
def _opened(path: str, content: Content) -> Iterator[Any]:
    if isinstance(content, bytes):
        raise ValueError(f"{path} is not a file: a push does not create weights.")
    try:
        with safe_open(content, framework="pt") as tensors:
            yield tensors
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is damaged ({error}): save the model again.") from error
