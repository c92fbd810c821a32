"""Keeps off the Hub: pickles, secrets, files over its limits, and code that a downloader cannot run."""

import ast
import fnmatch
import re
import sys
from pathlib import PurePosixPath
from typing import Any

import yaml

from .contents import Content, Files, read, size_of
from .pickles import PICKLE, danger
from .secrets import find_secret, find_secret_in
from .weights import texts_in_data


# https://huggingface.co/docs/hub/repositories-recommendations and /docs/hub/storage-limits
LARGEST_FILE = 50 * 10**9  # bytes
MOST_FILES = 100_000
MOST_ENTRIES = 10_000  # in one folder
PICKLE_SUFFIXES = {".bin", ".ckpt", ".dill", ".joblib", ".pickle", ".pkl", ".pt", ".pth"}
# In lower case, as is what they are compared with.
SECRET_FILES = (
    ".env",
    ".env.*",
    ".envrc",
    ".git-credentials",
    ".htpasswd",
    ".netrc",
    ".npmrc",
    ".pgpass",
    ".pypirc",
    "_netrc",
    "client_secret*",
    "credentials",
    "credentials.*",
    "hf_token*",
    "id_dsa*",
    "id_ecdsa*",
    "id_ed25519*",
    "id_rsa*",
    "kubeconfig",
    "secrets.*",
    "stored_tokens",
    "token",
    "token.json",
    "token.txt",
    "*.jks",
    "*.kdbx",
    "*.keystore",
    "*.p12",
    "*.pem",
    "*.pfx",
    "*.ppk",
)
EXAMPLES = {".env.example", ".env.sample", ".env.template"}
OPEN_SUFFIXES = {".md", ".pub", ".py"}  # pages, public keys and code about secrets; their content is searched
SECRET_FOLDERS = {".aws", ".azure", ".docker", ".gnupg", ".kube", ".ssh"}
# Only their texts are searched: in binary numbers, a search for secrets finds false matches.
DATA_SUFFIXES = {".safetensors", ".parquet"}
YAML: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the Python one takes minutes for deeply nested brackets
# Calls that run code which is not visible in the file.
SUSPICIOUS = {"__import__", "compile", "eval", "exec"}
SUSPICIOUS_MODULES = {"ctypes", "importlib", "os.popen", "os.system", "pty", "runpy", "socket", "subprocess"}
# A downloader has torch, transformers and the requirements of transformers (code of tokenizers imports `regex`).
INSTALLED = frozenset({"huggingface_hub", "numpy", "regex", "safetensors", "tokenizers", "torch", "transformers"})


def check_files(files: Files) -> None:
    """
    Refuses files that no repository may hold.

    Args:
        files (`dict[str, Path | bytes]`): Content by path in the repository.

    Raises:
        `ValueError`: For a pickle or a file that may hold one, a secret, truncated weights or tables, a file that is
            too large for the Hub, or too many files.
    """
    folders: dict[PurePosixPath, int] = {}
    for path, content in files.items():
        name = PurePosixPath(path)
        folders[name.parent] = folders.get(name.parent, 0) + 1
        if _is_secret(name):
            raise ValueError(f"{path} looks like a secret: remove it from the folder.")
        size = size_of(content)
        if size > LARGEST_FILE:
            raise ValueError(
                f"{path} has {size / 1e9:.1f} GB, the Hub accepts {LARGEST_FILE // 10**9}: save it in shards."
            )
        if name.suffix in DATA_SUFFIXES:
            _refuse_secret(path, find_secret_in(texts_in_data(path, content)))
        else:
            _check_content(path, content)
    if len(files) > MOST_FILES or max(folders.values(), default=0) > MOST_ENTRIES:
        raise ValueError(
            f"{len(files)} files, {max(folders.values())} of them in one folder: the Hub accepts {MOST_FILES} and "
            f"{MOST_ENTRIES}. Write larger parts."
        )


def _is_secret(name: PurePosixPath) -> bool:
    name = PurePosixPath(name.as_posix().lower())
    named = any(fnmatch.fnmatchcase(name.name, pattern) for pattern in SECRET_FILES)
    is_open = name.name in EXAMPLES or name.suffix in OPEN_SUFFIXES
    return (named and not is_open) or not SECRET_FOLDERS.isdisjoint(name.parts)


def _check_content(path: str, content: Content) -> None:
    """Refuses a file that runs code when it is loaded, or holds a secret."""
    try:
        what = PICKLE if PurePosixPath(path).suffix.lower() in PICKLE_SUFFIXES else danger(content)
        secret = None if what else find_secret(content)
    except ValueError as error:
        raise ValueError(f"{path} cannot be checked, {error}: remove it from the folder.") from error
    if what:
        raise ValueError(
            f"{path} {what}: save weights as safetensors (`d3llm convert`), data as text or Parquet, or remove it "
            "from the folder."
        )
    _refuse_secret(path, secret)


def _refuse_secret(path: str, secret: tuple[str, str] | None) -> None:
    if secret:
        kind, start = secret
        raise ValueError(f"{path} holds what looks like a secret ({start}..., {kind}): remove it, and revoke it.")


def check_card(files: Files) -> dict[str, Any]:
    """
    Reads the metadata of a card and refuses one without a licence.

    Args:
        files (`dict[str, Path | bytes]`): Content by path in the repository.

    Returns:
        `dict[str, Any]`: The metadata.

    Raises:
        `ValueError`: For a missing card, and for metadata that are damaged or name no licence.
    """
    if "README.md" not in files:
        raise ValueError("There is no card (README.md).")
    metadata = card_metadata(read(files["README.md"]).decode("utf-8", "replace"))
    if not metadata.get("license"):
        raise ValueError("README.md names no licence: write `license: ...` between `---` lines at its top.")
    return metadata


def card_metadata(text: str) -> dict[str, Any]:
    """
    The metadata at the top of a card; empty if there is none.

    Args:
        text (`str`): The card.

    Raises:
        `ValueError`: If it is damaged.
    """
    match = re.match(r"---\n(.*?)\n---(\n|$)", text.removeprefix("\ufeff").replace("\r\n", "\n"), re.DOTALL)
    try:
        if match and any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(match[1], Loader=YAML)):
            raise ValueError(
                "The metadata of README.md has aliases (*name), which may expand without limit: write them out."
            )
        metadata = yaml.load(match[1], Loader=YAML) if match else {}
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"The metadata of README.md is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(metadata, dict):
        raise ValueError("The metadata of README.md is not a mapping of names to values.")
    return metadata


def check_code(files: Files) -> None:
    """
    Refuses Python files that a machine with torch and transformers alone could not import.

    Args:
        files (`dict[str, Path | bytes]`): Content by path in the repository.

    Raises:
        `ValueError`: For code that is not Python, a relative import of a missing file, or another package.
    """
    for path, content in files.items():
        if not path.endswith(".py"):
            continue
        try:
            tree = ast.parse(read(content))
        except (SyntaxError, ValueError) as error:
            raise ValueError(f"{path} is not Python: {error}") from error
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                imported = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                imported = [node.module or ""]
            elif isinstance(node, ast.ImportFrom):
                target = PurePosixPath(path).with_name(f"{node.module}.py").as_posix()
                if node.level > 1 or target not in files:
                    raise ValueError(
                        f"{path}, line {node.lineno}: imports {node.module}, which is not in the same folder."
                    )
                continue
            else:
                continue
            for name in imported:
                if name.partition(".")[0] not in INSTALLED | sys.stdlib_module_names:
                    raise ValueError(
                        f"{path}, line {node.lineno}: imports {name}; code on the Hub may import torch, transformers "
                        "and the standard library."
                    )


def suspicious_calls(files: Files) -> list[str]:
    """
    Calls in Python files that run code which is not visible there, such as `exec`. Whoever loads the model runs it.

    Args:
        files (`dict[str, Path | bytes]`): Content by path in the repository, after [`check_code`].

    Returns:
        `list[str]`: One line for each call.
    """
    found = []
    for path, content in files.items():
        if not path.endswith(".py"):
            continue
        for node in ast.walk(ast.parse(read(content))):
            if not isinstance(node, ast.Call):
                continue
            name = ast.unparse(node.func)
            parts = name.split(".")
            if name in SUSPICIOUS or not SUSPICIOUS_MODULES.isdisjoint((parts[0], ".".join(parts[:2]))):
                found.append(f"{path}, line {node.lineno}: calls {name}, which runs when the model is loaded")
    return found
