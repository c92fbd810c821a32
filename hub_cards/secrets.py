"""Finds tokens, keys and passwords by the rules of detect-secrets, and by further rules for services that it lacks."""

import base64
import re
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

from .contents import Content, pieces


# Rules that also match digests, addresses and plain words; and those of IBM's clouds, which are slow.
WITHOUT = {
    "ArtifactoryDetector",
    "CloudantDetector",
    "IPPublicDetector",
    "IbmCloudIamDetector",
    "IbmCosHmacDetector",
    "SoftlayerDetector",
}
# Each pattern starts with literal letters, which is fast to search for. The lookbehind for what must not precede them
# comes after them.
FURTHER = {
    "Hugging Face token": (r"hf_(?<!\w...)[A-Za-z0-9]{30,}\b", r"api_org_(?<!\w.{8})[A-Za-z0-9]{30,}\b"),
    "OpenAI or Anthropic key": (r"sk-(?<!\w...)[A-Za-z0-9_-]{20,}",),
    "Google key": (r"AIza(?<!\w....)[A-Za-z0-9_-]{35}(?![A-Za-z0-9_-])", r"GOCSPX-(?<!\w.{7})[A-Za-z0-9_-]{28}"),
    "GitHub token": (r"github_pat_(?<!\w.{11})[A-Za-z0-9_]{40,}",),
    "AWS secret key": (
        r"aws_secret_access_key[\"']?\s*[=:]\s*[A-Za-z0-9/+]{40}\b",
        r"AWS_SECRET_ACCESS_KEY[\"']?\s*[=:]\s*[A-Za-z0-9/+]{40}\b",
    ),
    "Weights & Biases key": (
        r"wandb[\w.]{0,20}key[\"'\s:=]{1,5}[0-9a-f]{40}\b",
        r"WANDB_API_KEY[\"'\s:=]{1,5}[0-9a-f]{40}\b",
        r"wandb_v\d_[A-Za-z0-9_]{40,}",
        r"api\.wandb\.ai\s[\s\S]{0,80}?\bpassword\s+[0-9a-f]{40}\b",
    ),
    "Private Key": (r"-----BEGIN [A-Z ]*PRIVATE KEY-----",),
}
LONGEST = 4096  # largest size, in bytes, of a secret that is split between two pieces of a file
BASE64 = re.compile(rb"[A-Za-z0-9+/_-]{40,}")
URL_SAFE = bytes.maketrans(b"-_", b"+/")
ASCII = bytes(range(128)) + b" " * 128


def find_secret(content: Content) -> tuple[str, str] | None:
    """
    Searches a file of any size for a secret, including UTF-16, base64 and compressed content.

    Args:
        content (`Path` or `bytes`): The file.

    Returns:
        `tuple[str, str]` or `None`: The kind of the secret and its first characters.

    Raises:
        `ValueError`: For a compressed file that is damaged or cannot be decompressed here.
    """
    return find_secret_in(pieces(content))


def find_secret_in(parts: Iterable[bytes]) -> tuple[str, str] | None:
    """
    Searches parts of one content, in order.

    Args:
        parts (`Iterable[bytes]`): The content.

    Returns:
        `tuple[str, str]` or `None`: The kind of the secret and its first characters.
    """
    before = b""
    for piece in parts:
        window = before + piece
        for text in _readings(window):
            for kind, found in _secrets(text):
                return kind, found[:6]
        before = window[-LONGEST:]
    return None


def _readings(window: bytes) -> Iterator[str]:
    """A piece of a file as text, and its base64 content decoded."""
    plain = _ascii(window)
    yield plain.decode("ascii")
    decoded = []
    for run in BASE64.finditer(plain):
        starts = range(4) if run.start() == 0 else range(1)  # its first digit may be in the previous piece
        for start in starts:
            digits = run[0][start:].translate(URL_SAFE)
            digits = digits[: len(digits) - (len(digits) % 4 == 1)]
            decoded.append(base64.b64decode(digits + b"=" * (-len(digits) % 4)))
    if decoded:
        yield _ascii(b"\n".join(decoded)).decode("ascii")


def _ascii(content: bytes) -> bytes:
    """The ASCII characters of a content, including UTF-16 and UTF-32; other bytes become spaces."""
    return content.translate(ASCII, delete=b"\0")


def _secrets(text: str) -> Iterator[tuple[str, str]]:
    for detector in _detectors():
        for found in detector.analyze_string(text):
            yield detector.secret_type, found
    for kind, rule in _further():
        for match in rule.finditer(text):
            yield kind, match[0]


@cache
def _further() -> list[tuple[str, re.Pattern]]:
    return [(kind, re.compile(rule)) for kind, rules in FURTHER.items() for rule in rules]


@cache
def _detectors() -> list[Any]:
    """The rules that recognise a service by the form of its keys. None asks the service whether a key is valid."""
    # Imported here, because cards and conversions do not need it.
    from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class
    from detect_secrets.plugins.base import RegexBasedDetector

    kinds: Iterable[type[Any]] = get_mapping_from_secret_type_to_class().values()
    kept = [kind for kind in kinds if issubclass(kind, RegexBasedDetector) and kind.__name__ not in WITHOUT]
    return [kind() for kind in sorted(kept, key=lambda kind: kind.__name__)]
