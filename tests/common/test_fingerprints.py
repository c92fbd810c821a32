"""The fingerprint of files, by which results and checkpoints are told apart."""

from pathlib import Path

import pytest

from d3llm.common.fingerprints import fingerprint_files


SIZE = 8 * 2**20 + 1000  # larger than what is read of one file


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    path.write_bytes(bytes(SIZE))
    return path


@pytest.mark.parametrize("position", [0, SIZE // 2, SIZE - 1], ids=["beginning", "middle", "end"])
def test_a_change_in_large_weights_is_seen_wherever_training_leaves_one(weights, position):
    before = fingerprint_files([weights])
    assert fingerprint_files([weights]) == before
    with weights.open("r+b") as file:
        file.seek(position)
        file.write(b"\1")
    assert fingerprint_files([weights]) != before


def test_names_sizes_and_every_file_count(tmp_path):
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_bytes(b"12")
    second.write_bytes(b"3")
    before = fingerprint_files([first, second])
    assert fingerprint_files([first]) != before
    assert fingerprint_files([second, first]) != before
    first.write_bytes(b"1")
    second.write_bytes(b"23")
    assert fingerprint_files([first, second]) != before
