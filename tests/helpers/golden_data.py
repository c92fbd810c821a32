"""
The recorded behaviour of the published implementations, packed into `tests/golden` and unpacked for a test run.

`python -m tests.helpers.golden_data FOLDER` packs it anew from the complete recordings; `tests/golden/README.md` says
what they are and what is left out so that it stays below 6 MB.
"""

import lzma
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import load_file, save_file


PACKED = Path(__file__).resolve().parent.parent / "golden"
TENSORS = "tensors.parquet"
CHECKPOINTS = ("llada_a", "llada_b", "dream_a", "dream_b", "sdar_a", "lladamoe_a", "llada2_a")
LOGITS = ("b1.", "b2.", "block")  # the forwards that are kept, by the start of their names
LEFT_PADDED = ("llada_a_padded", "dream_a")  # of which one row each is kept


def unpack(target: Path) -> None:
    """Writes the files as they were recorded: JSON and safetensors."""
    for file in PACKED.rglob("*.json.xz"):
        path = target / file.relative_to(PACKED).with_suffix("")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(lzma.decompress(file.read_bytes()))
    files: dict[str, dict[str, np.ndarray]] = {}
    table = pq.read_table(PACKED / TENSORS)
    for index, row in enumerate(table.drop(["floats", "doubles"]).to_pylist()):
        column = "floats" if row["dtype"] == "float32" else "doubles"
        values = table[column][index].values.to_numpy().astype(row["dtype"])
        files.setdefault(row["file"], {})[row["name"]] = values.reshape(row["shape"])
    for name, tensors in files.items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, target / name, metadata={"format": "pt"})


def pack(source: Path) -> None:
    """Packs what is kept of the complete recordings."""
    for path in sorted(source.rglob("*.json")):
        name = path.relative_to(source)
        if name.parts[0] == "ckpt" and name.parts[1] not in CHECKPOINTS:
            continue
        packed = PACKED / f"{name}.xz"
        packed.parent.mkdir(parents=True, exist_ok=True)
        packed.write_bytes(lzma.compress(path.read_bytes(), preset=9 | lzma.PRESET_EXTREME))
    rows = [_row(*kept) for kept in _tensors(source)]
    schema = pa.schema(
        {
            "file": pa.string(),
            "name": pa.string(),
            "dtype": pa.string(),
            "shape": pa.list_(pa.int32()),
            "floats": pa.list_(pa.float32()),
            "doubles": pa.list_(pa.float64()),  # integers too, which are exact below 2**53
        }
    )
    pq.write_table(
        pa.Table.from_pylist(rows, schema=schema),
        PACKED / TENSORS,
        compression="zstd",
        compression_level=22,
        use_dictionary=False,
        column_encoding={"floats.list.element": "BYTE_STREAM_SPLIT"},  # random weights: only exponents compress
    )


def _tensors(source: Path) -> Iterator[tuple[str, str, np.ndarray]]:
    for name in CHECKPOINTS:
        file = f"ckpt/{name}/model.safetensors"
        yield from ((file, key, array) for key, array in load_file(source / file).items())
        file = f"logits/{name}.safetensors"
        yield from ((file, key, array) for key, array in load_file(source / file).items() if key.startswith(LOGITS))
    for name in LEFT_PADDED:
        file = f"logits/{name}.safetensors"
        tensors = {key: a for key, a in load_file(source / file).items() if key.startswith("leftpad.")}
        row = tensors["leftpad.attention_mask"].sum(axis=1).argmin()
        kept = (key for key in tensors if not key.endswith("logits_with_position_ids"))
        yield from ((file, key, tensors[key][row : row + 1]) for key in kept)
    file = "units/units.safetensors"
    yield from ((file, key, array) for key, array in load_file(source / file).items())


def _row(file: str, name: str, array: np.ndarray) -> dict:
    values, exact = array.ravel().tolist(), array.dtype != np.float32
    return {
        "file": file,
        "name": name,
        "dtype": str(array.dtype),
        "shape": list(array.shape),
        "floats": None if exact else values,
        "doubles": values if exact else None,
    }


if __name__ == "__main__":
    pack(Path(sys.argv[1]))
