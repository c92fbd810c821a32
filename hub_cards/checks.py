"""What must not go to the Hub: pickles, secrets, files over its limits, code that a downloader cannot run."""

import ast
import re
import sys
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import yaml


# https://huggingface.co/docs/hub/repositories-recommendations and /docs/hub/storage-limits
LARGEST_FILE = 50 * 10**9  # bytes
MOST_FILES = 100_000
MOST_ENTRIES = 10_000  # in one folder
PICKLE_SUFFIXES = {".bin", ".ckpt", ".joblib", ".pickle", ".pkl", ".pt", ".pth"}
PICKLE_HEADS = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK\x03\x04")  # plain, and torch's archives
SECRET_FILES = {".env", ".netrc", ".npmrc", ".pypirc", "credentials", "id_rsa", "id_ed25519", "token"}
SECRETS = re.compile(
    rb"\bhf_[A-Za-z0-9]{30,}\b|\bsk-[A-Za-z0-9_-]{20,}|\bAKIA[0-9A-Z]{16}\b|\bgh[pousr]_[A-Za-z0-9]{36,}\b"
    rb"|-----BEGIN [A-Z ]*PRIVATE KEY-----"
)
TEXT_SIZE = 10 * 2**20  # larger files are data
# A downloader has torch and transformers, and what transformers requires (tokenizers' code imports `regex`).
INSTALLED = frozenset({"huggingface_hub", "numpy", "regex", "safetensors", "tokenizers", "torch", "transformers"})

Files = Mapping[str, Path | bytes]


def check_files(files: Files) -> None:
    """
    Refuses what no repository may hold.

    Args:
        files (`dict[str, Path | bytes]`): Content by path in the repository.

    Raises:
        `ValueError`: For a pickle, a secret, a file or a number of files over the limits of the Hub.
    """
    folders: dict[PurePosixPath, int] = {}
    for path, content in files.items():
        name = PurePosixPath(path)
        folders[name.parent] = folders.get(name.parent, 0) + 1
        if name.name in SECRET_FILES or name.suffix == ".pem":
            raise ValueError(f"{path} looks like a secret: take it out of the folder.")
        size = len(content) if isinstance(content, bytes) else content.stat().st_size
        if size > LARGEST_FILE:
            raise ValueError(f"{path} has {size / 1e9:.1f} GB, the Hub takes {LARGEST_FILE // 10**9}: save in shards.")
        head = read(content, TEXT_SIZE if size <= TEXT_SIZE else 8)
        if name.suffix in PICKLE_SUFFIXES or head.startswith(PICKLE_HEADS):
            raise ValueError(
                f"{path} is a pickle, which runs code where it is loaded: save weights as safetensors "
                "(`d3llm convert`), or take it out of the folder."
            )
        if size <= TEXT_SIZE and (secret := SECRETS.search(head)):
            shown = secret[0][:6].decode("ascii", "replace")
            raise ValueError(f"{path} holds what looks like a secret ({shown}...): take it out, and revoke it.")
    if len(files) > MOST_FILES or max(folders.values(), default=0) > MOST_ENTRIES:
        raise ValueError(
            f"{len(files)} files, {max(folders.values())} of them in one folder: the Hub takes {MOST_FILES} and "
            f"{MOST_ENTRIES}. Write larger parts."
        )


def check_card(files: Files) -> dict[str, Any]:
    """
    Reads the metadata of a card and refuses one without a licence.

    Args:
        files (`dict[str, Path | bytes]`): Content by path in the repository.

    Returns:
        `dict[str, Any]`: The metadata.

    Raises:
        `ValueError`: For a missing card, damaged metadata or no licence in it.
    """
    if "README.md" not in files:
        raise ValueError("There is no card (README.md).")
    metadata = card_metadata(read(files["README.md"]).decode("utf-8", "replace"))
    if not metadata.get("license"):
        raise ValueError("README.md names no licence: write `license: ...` between `---` lines at its top.")
    return metadata


def card_metadata(text: str) -> dict[str, Any]:
    """
    The metadata at the top of a card; empty when there is none.

    Args:
        text (`str`): The card.

    Raises:
        `ValueError`: If it is damaged.
    """
    match = re.match(r"---\n(.*?)\n---(\n|$)", text.replace("\r\n", "\n"), re.DOTALL)
    try:
        metadata = yaml.safe_load(match[1]) if match else {}
    except yaml.YAMLError as error:
        raise ValueError(f"The metadata of README.md is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(metadata, dict):
        raise ValueError("The metadata of README.md is no mapping of names to values.")
    return metadata


def check_code(files: Files) -> None:
    """
    Refuses Python files that a machine with torch and transformers alone could not import.

    Args:
        files (`dict[str, Path | bytes]`): Content by path in the repository.

    Raises:
        `ValueError`: For code that is no Python, a relative import of what is not there, or of another package.
    """
    for path, content in files.items():
        if not path.endswith(".py"):
            continue
        try:
            tree = ast.parse(read(content))
        except (SyntaxError, ValueError) as error:
            raise ValueError(f"{path} is no Python: {error}") from error
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                imported = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                imported = [node.module or ""]
            elif isinstance(node, ast.ImportFrom):
                beside = PurePosixPath(path).with_name(f"{node.module}.py").as_posix()
                if node.level > 1 or beside not in files:
                    raise ValueError(f"{path}, line {node.lineno}: imports {node.module}, which is not beside it.")
                continue
            else:
                continue
            for name in imported:
                if name.partition(".")[0] not in INSTALLED | sys.stdlib_module_names:
                    raise ValueError(
                        f"{path}, line {node.lineno}: imports {name}; code on the Hub may import torch, transformers "
                        "and the standard library."
                    )


def read(content: Path | bytes, size: int = -1) -> bytes:
    """The first `size` bytes of a file; all of them by default."""
    if isinstance(content, bytes):
        return content if size < 0 else content[:size]
    with content.open("rb") as file:
        return file.read(size)
