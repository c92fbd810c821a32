"""Pushes a repository to the Hub in a single commit, completely or not at all."""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HTTPError, LocalTokenNotFoundError, RepositoryNotFoundError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.repocard import metadata_load
from tenacity import (
    RetryCallState,
    Retrying,
    before_sleep_log,
    retry_if_exception,
    stop_after_attempt,
    wait_exponential,
)

from .cards import is_hub_id
from .repositories import Repository


logger = logging.getLogger(__name__)

ATTEMPTS = 6
BACK_OFF = wait_exponential(multiplier=1, max=60)  # seconds
BUSY = {408, 425, 429, 500, 502, 503, 504}
MADE_BY_THE_HUB = {".gitattributes"}
Result = TypeVar("Result")


class PushError(OSError):
    """The Hub refused a push, or could not be reached."""


@dataclass(frozen=True)
class Pushed:
    """
    The outcome of a push.

    Attributes:
        url (`str`): Page of the repository.
        commit (`str`): The resulting commit.
        changed (`int`): Number of files that were written or deleted; 0 if the Hub already had all of them.
    """

    url: str
    commit: str
    changed: int


def push(
    repository: Repository,
    repo_id: str,
    *,
    private: bool | None = None,
    replace: bool = False,
    message: str | None = None,
    api: HfApi | None = None,
) -> Pushed:
    """
    Makes a repository on the Hub equal to `repository`.

    Large files are uploaded first; after an interrupted push, the next one does not send them again. Then a single
    commit, on top of the head that was found at the start, adds all files. Finally the content that the Hub reports is
    compared with `repository`.

    Args:
        repository ([`~d3llm.hub_cards.repositories.Repository`]): The wanted content.
        repo_id (`str`): `owner/name`. The repository is created if it does not exist.
        private (`bool`, *optional*): Whether a new repository is private; by default as `repository` says.
        replace (`bool`, *optional*, defaults to `False`): Whether to replace other content: files that `repository`
            does not have are deleted in the same commit.
        message (`str`, *optional*): Title of the commit.
        api (`HfApi`, *optional*): The Hub and the token to use.

    Returns:
        [`Pushed`]: The outcome.

    Raises:
        [`PushError`]: Without a token or write access, for a repository with other content, if somebody else commits
            in the meantime, and if the Hub cannot be reached. The repository is then unchanged, or new and empty.
    """
    api = api or HfApi()
    if not is_hub_id(repo_id):
        raise PushError(f"{repo_id!r} is not the name of a repository: write owner/name.")
    where: dict[str, Any] = {"repo_id": repo_id, "repo_type": repository.kind}
    private = repository.private if private is None else private
    with _translate_errors(repo_id):
        _retry(api.whoami)
        head, present = _retry(_state, api, where)
        superfluous = sorted(present.keys() - repository.files.keys() - MADE_BY_THE_HUB)
        if present.keys() - MADE_BY_THE_HUB and not replace:
            _check_same(api, where, repo_id, superfluous)
        if head is None:
            sdk = "gradio" if repository.kind == "space" else None
            _retry(api.create_repo, **where, private=private, space_sdk=sdk, exist_ok=True)
            head, present = _retry(_state, api, where)
        changed = _missing(present, repository)

        def commit() -> None:
            operations: list[Any] = [CommitOperationAdd(path, _source(repository.files[path])) for path in changed]
            operations += [CommitOperationDelete(path) for path in superfluous]
            title = message or f"Upload {repository.kind} with d3llm"
            try:
                api.create_commit(operations=operations, commit_message=title, parent_commit=head, **where)
            except HTTPError as error:
                # A retry after a lost answer finds that its own commit is already there.
                if _status(error) != 412 or _missing(_state(api, where)[1], repository):
                    raise

        if changed or superfluous:
            _retry(commit)
    with _translate_errors(repo_id, "Pushed, but not checked"):
        head, present = _retry(_state, api, where)
    if missing := _missing(present, repository):
        raise PushError(f"{repo_id} lacks {', '.join(missing[:3])} ({len(missing)} files): push again.")
    prefix = "" if repository.kind == "model" else f"{repository.kind}s/"
    return Pushed(f"{api.endpoint}/{prefix}{repo_id}", head or "", len(changed) + len(superfluous))


def _state(api: HfApi, where: dict[str, Any]) -> tuple[str | None, dict[str, RepoFile]]:
    """Head and files of a repository; `None` and no files if it does not exist."""
    try:
        head = api.repo_info(**where).sha
    except RepositoryNotFoundError:
        return None, {}
    tree = api.list_repo_tree(recursive=True, revision=head, **where)
    return head, {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}


def _check_same(api: HfApi, where: dict[str, Any], repo_id: str, superfluous: list[str]) -> None:
    """Refuses a repository that holds something else."""
    if superfluous:
        found = f"files that the push does not have, such as {superfluous[0]}"
    else:
        if api.file_exists(filename="README.md", **where):
            card = api.hf_hub_download(repo_id, "README.md", repo_type=where["repo_type"])
            if "d3llm" in ((metadata_load(card) or {}).get("tags") or []):
                return
        found = "other content: its card has no tag `d3llm`"
    raise PushError(f"{repo_id} holds {found}. Choose another name, or --replace it (its history stays).")


def _missing(present: dict[str, RepoFile], repository: Repository) -> list[str]:
    """Files that are missing on the Hub, or differ there."""
    return [path for path, content in repository.files.items() if not _is_there(present.get(path), content)]


def _is_there(entry: RepoFile | None, content: Path | bytes) -> bool:
    """Whether a file on the Hub has this content."""
    size = len(content) if isinstance(content, bytes) else content.stat().st_size
    if entry is None or entry.size != size:
        return False
    if entry.lfs is not None:
        return entry.lfs.sha256 == _digest(content, hashlib.sha256())
    return entry.blob_id == _digest(content, hashlib.sha1(b"blob %d\0" % size))  # the hash of git


def _digest(content: Path | bytes, digest: Any) -> str:
    if isinstance(content, bytes):
        digest.update(content)
    else:
        with content.open("rb") as file:
            while chunk := file.read(2**20):
                digest.update(chunk)
    return digest.hexdigest()


def _source(content: Path | bytes) -> str | bytes:
    return content if isinstance(content, bytes) else os.fspath(content)


def _retry(call: Callable[..., Result], *args: Any, **kwargs: Any) -> Result:
    """Retries a call while the Hub is busy or unreachable, with growing pauses or those that it asks for."""

    def wait(state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        asked = getattr(getattr(error, "response", None), "headers", {}).get("Retry-After", "")
        return float(asked) if asked.isdigit() else BACK_OFF(state)

    retrying = Retrying(
        retry=retry_if_exception(_is_passing),
        stop=stop_after_attempt(ATTEMPTS),
        wait=wait,
        before_sleep=before_sleep_log(logger, logging.WARNING),
        reraise=True,
    )
    return retrying(call, *args, **kwargs)


def _is_passing(error: BaseException) -> bool:
    root = _root(error)
    if isinstance(root, json.JSONDecodeError):  # an HTML page instead of an answer
        return True
    return isinstance(root, HTTPError) and (_status(root) in BUSY or _status(root) is None)


def _root(error: BaseException) -> BaseException:
    """The underlying error; a failed upload of a large file only has it as its cause."""
    return error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error


def _status(error: BaseException) -> int | None:
    """The HTTP status of the Hub's answer; `None` if there was no answer."""
    return getattr(getattr(error, "response", None), "status_code", None)


@contextmanager
def _translate_errors(repo_id: str, outcome: str = "Nothing was changed") -> Iterator[None]:
    """Turns errors of the Hub into a `PushError` that says what has become of the repository, and the remedy."""
    try:
        yield
    except LocalTokenNotFoundError as error:
        raise PushError("There is no token for the Hub: run `hf auth login`, or set HF_TOKEN.") from error
    except (HTTPError, RuntimeError, json.JSONDecodeError) as wrapped:
        cause = _root(wrapped)
        reasons = {
            401: "the Hub does not accept the token: run `hf auth login`, or set HF_TOKEN",
            403: "the token may not write there: create one with write access, or choose another name",
            412: "somebody else has committed in the meantime: look at that commit and push again",
        }
        reason = reasons.get(_status(cause) or 0, f"{type(cause).__name__}: {cause}".strip().splitlines()[0])
        if _is_passing(cause):
            reason = f"the Hub cannot be reached ({reason}): push again; files that have arrived are not sent again"
        raise PushError(f"{outcome} in {repo_id}: {reason}.") from wrapped
