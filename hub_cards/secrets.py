"""Finds tokens, keys and passwords by the rules of detect-secrets, and by some for services that it has none for."""

import base64
import re
from collections.abc import Iterator
from functools import cache
from typing import Any

from .contents import Content, pieces


# Rules for what digests, addresses and plain words look like, too; and those of IBM's clouds, which are slow.
WITHOUT = {
    "ArtifactoryDetector",
    "CloudantDetector",
    "IPPublicDetector",
    "IbmCloudIamDetector",
    "IbmCosHmacDetector",
    "SoftlayerDetector",
}
FURTHER = {
    "Hugging Face token": r"\b(?:hf|api_org)_[A-Za-z0-9]{30,}\b",
    "OpenAI or Anthropic key": r"\bsk-[A-Za-z0-9_-]{20,}",
    "Google key": r"\bAIza[A-Za-z0-9_-]{35}(?![A-Za-z0-9_-])|\bGOCSPX-[A-Za-z0-9_-]{28}",
    "GitHub token": r"\bgithub_pat_[A-Za-z0-9_]{40,}",
    "AWS secret key": r"(?i:aws_?secret_?access_?key)[\"']?\s*[=:]\s*[\"']?[A-Za-z0-9/+]{40}\b",
    "Weights & Biases key": r"(?i:wandb[\w.]{0,20}key)[\"'\s:=]{1,5}[0-9a-f]{40}\b|\bwandb_v\d_[A-Za-z0-9_]{40,}"
    r"|\bapi\.wandb\.ai\s[\s\S]{0,80}?\bpassword\s+[0-9a-f]{40}\b",
    "Private Key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
}
LONGEST = 4096  # bytes that a secret may take, and stand in two pieces of a file
BASE64 = re.compile(rb"[A-Za-z0-9+/_-]{40,}")
URL_SAFE = bytes.maketrans(b"-_", b"+/")


def find_secret(content: Content) -> tuple[str, str] | None:
    """
    Looks for a secret in a file of any size, also in UTF-16, in base64 and in what is compressed.

    Args:
        content (`Path` or `bytes`): The file.

    Returns:
        `tuple[str, str]` or `None`: What it is, and its first characters.

    Raises:
        `ValueError`: For a compressed file that is damaged.
    """
    before = b""
    for piece in pieces(content):
        window = before + piece
        for text in _readings(window):
            for kind, found in _secrets(text):
                return kind, found[:6]
        before = window[-LONGEST:]
    return None


def _readings(window: bytes) -> Iterator[str]:
    """A piece of a file as text, and what stands in base64 in it."""
    plain = window.replace(b"\0", b"")  # UTF-16 and UTF-32 of what matters here
    yield plain.decode("latin-1")
    decoded = []
    for run in BASE64.finditer(plain):
        starts = range(4) if run.start() == 0 else range(1)  # its first digit may be in the piece before
        for start in starts:
            digits = run[0][start:].translate(URL_SAFE)
            digits = digits[: len(digits) - (len(digits) % 4 == 1)]
            decoded.append(base64.b64decode(digits + b"=" * (-len(digits) % 4)))
    if decoded:
        yield b"\n".join(decoded).replace(b"\0", b"").decode("latin-1")


def _secrets(text: str) -> Iterator[tuple[str, str]]:
    for detector in _detectors():
        for found in detector.analyze_string(text):
            yield detector.secret_type, found
    for kind, rule in _further():
        for match in rule.finditer(text):
            yield kind, match[0]


@cache
def _further() -> list[tuple[str, re.Pattern]]:
    return [(kind, re.compile(rule)) for kind, rule in FURTHER.items()]


@cache
def _detectors() -> list[Any]:
    """The rules that know a service by the form of its keys; none asks the service whether a key is good."""
    # here, since cards are written and models converted without it
    from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class
    from detect_secrets.plugins.base import RegexBasedDetector

    kinds = get_mapping_from_secret_type_to_class().values()
    kept = [kind for kind in kinds if issubclass(kind, RegexBasedDetector) and kind.__name__ not in WITHOUT]
    return [kind() for kind in sorted(kept, key=lambda kind: kind.__name__)]
