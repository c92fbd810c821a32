"""A loopback Hub: the part of the Hugging Face Hub's protocol that a push and a download use, in memory.

It keeps what it is sent only if the real one would: hashes and sizes must match, tokens need write access, a commit
must build upon the head it names, and cards must have readable metadata. Faults can be injected into any request.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml


WRITE_TOKEN, READ_TOKEN = "hf_write", "hf_read"
USER = "ada"
LARGE = re.compile(r"\.(safetensors|parquet|png|bin)$")
REGULAR_LIMIT = 10 * 2**20
KINDS = ("models", "datasets", "spaces")
API = re.compile(r"/api/(models|datasets|spaces)/([^/]+/[^/]+)(?:/(.*))?")
LFS = re.compile(r"/(?:(datasets|spaces)/)?([^/]+/[^/]+)\.git/info/lfs/objects/batch")
RESOLVE = re.compile(r"/(?:(datasets|spaces)/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


@dataclass(frozen=True)
class Commit:
    """A state of a repository: `files` are contents by path, `large` the paths of those that came by LFS."""

    oid: str
    files: dict[str, bytes]
    large: frozenset[str] = frozenset()
    title: str = ""


@dataclass
class Repository:
    private: bool
    commits: list[Commit]
    sdk: str | None = None

    @property
    def head(self) -> Commit:
        return self.commits[-1]

    def at(self, revision: str) -> Commit:
        if revision == "main":
            return self.head
        found = [commit for commit in self.commits if commit.oid == revision]
        if not found:
            raise RefusalError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return found[0]


@dataclass
class Fault:
    """
    What goes wrong with the next `times` requests that match.

    Attributes:
        method (`str`), path (`str`): Of the request; `path` is a regular expression.
        status (`int`): Answer of the server; 0 cuts the connection in the middle of the request's body, -1 after the
            request was carried out and before the answer.
        headers (`dict[str, str]`): Of the answer.
        times (`int`): How often; counted down.
    """

    method: str
    path: str
    status: int
    headers: dict[str, str] = field(default_factory=dict)
    times: int = 1


class RefusalError(Exception):
    def __init__(self, status: int, message: str, code: str | None = None):
        super().__init__(message)
        self.status, self.code = status, code


class LoopbackHub:
    """State of the server. `requests` holds (method, path) of everything that was asked."""

    def __init__(self):
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str]] = []
        self.lock = threading.RLock()
        self.url = ""

    def repository(self, repo_id: str, kind: str = "models") -> Repository:
        return self.repositories[kind, repo_id]

    def environment(self, cache: Any) -> dict[str, str]:
        """Environment variables for a process that is to talk to this Hub."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(cache),
            "HF_TOKEN": WRITE_TOKEN,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        }


@contextmanager
def loopback_hub() -> Iterator[LoopbackHub]:
    hub = LoopbackHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def blob_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def check_card(content: str, kind: str) -> list[str]:
    """What the Hub finds wrong with the metadata of a card."""
    match = re.match(r"---\n(.*?)\n---\n", content, re.DOTALL)
    try:
        metadata = yaml.safe_load(match[1]) if match else {}
    except yaml.YAMLError as error:
        return [f"YAML: {error}"]
    if not isinstance(metadata, dict):
        return ['"metadata" must be an object']
    errors = []
    if not isinstance(metadata.get("license", ""), str):
        errors.append('"license" must be a string')
    if not re.fullmatch(r"[\w.-]+/[\w.-]+|", str(metadata.get("base_model", ""))) and kind == "models":
        errors.append(f'"base_model" with value {metadata["base_model"]!r} is not valid')
    for model in metadata.get("model-index") or []:
        if not isinstance(model.get("name"), str) or not isinstance(model.get("results"), list):
            errors.append('"model-index[0]" needs "name" and "results"')
        for result in model.get("results", []):
            if not {"task", "metrics"} <= result.keys() or any("value" not in m for m in result["metrics"]):
                errors.append('"model-index[0].results" need "task" and "metrics" with "value"')
    if kind == "spaces" and metadata.get("sdk") not in ("gradio", "static", "docker"):
        errors.append('"sdk" must be one of gradio, static, docker')
    return errors


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: LoopbackHub

    def log_message(self, *args):
        pass

    def _serve(self):
        parts = urlsplit(self.path)
        path, self.query = unquote(parts.path), parse_qs(parts.query)
        with self.hub.lock:
            self.hub.requests.append((self.command, path))
            fault = next(
                (f for f in self.hub.faults if f.times and f.method == self.command and re.search(f.path, path)), None
            )
            if fault is not None:
                fault.times -= 1
        if fault is not None and fault.status == 0:
            self.rfile.read(int(self.headers.get("Content-Length", 0)) // 2)
            return self._cut()
        body = self._body()
        if fault is not None and fault.status > 0:
            return self._answer(fault.status, {"error": "injected"}, fault.headers)
        try:
            with self.hub.lock:
                status, answer, headers = self._route(path, body)
        except RefusalError as refusal:
            headers = {"X-Error-Message": str(refusal)}
            if refusal.code:
                headers["X-Error-Code"] = refusal.code
            status, answer = refusal.status, {"error": str(refusal), "errors": [{"message": str(refusal)}]}
        if fault is not None:
            return self._cut()
        return self._answer(status, answer, headers)

    do_GET = do_HEAD = do_POST = do_PUT = _serve  # noqa: N815  the names that http.server asks for

    def _cut(self):
        self.close_connection = True
        self.connection.shutdown(2)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline().strip() or b"0", 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _answer(self, status: int, answer: Any, headers: dict[str, str]):
        content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    # What the Hub offers: each returns (status, answer, headers).

    def _route(self, path: str, body: bytes) -> tuple[int, Any, dict[str, str]]:
        if path == "/api/whoami-v2":
            self._access("read")
            return 200, {"type": "user", "name": USER, "orgs": []}, {}
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if path == "/api/validate-yaml":
            card = json.loads(body)
            errors = check_card(card["content"], card["repoType"] + "s")
            answer = {"errors": [{"message": error} for error in errors], "warnings": []}
            return (400 if errors else 200), answer, {}
        if match := LFS.fullmatch(path):
            self._repository(match[1] or "models", match[2], "write")
            return self._batch(json.loads(body))
        if path.startswith("/lfs/"):
            return self._store(path.removeprefix("/lfs/"), body)
        if match := RESOLVE.fullmatch(path):
            return self._resolve(self._repository(match[1] or "models", match[2], "read").at(match[3]), match[4])
        if match := API.fullmatch(path):
            kind, repo_id, action = match[1], match[2], match[3] or ""
            name, _, rest = action.partition("/")
            if name in ("preupload", "commit"):
                repository = self._repository(kind, repo_id, "write")
                return getattr(self, f"_{name}")(repository, kind, repo_id, rest, body)
            repository = self._repository(kind, repo_id, "read")
            if name == "refs":
                branch = {"name": "main", "ref": "refs/heads/main", "targetCommit": repository.head.oid}
                return 200, {"branches": [branch], "tags": [], "converts": []}, {}
            if name == "tree":
                revision, _, folder = rest.partition("/")
                return self._tree(repository.at(revision), folder)
            if name == "paths-info":
                return self._paths_info(repository.at(rest), body)
            return self._info(repository, repo_id, repository.at(rest or "main"))
        raise RefusalError(404, f"no such page: {path}")

    def _access(self, wanted: str):
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token not in (WRITE_TOKEN, READ_TOKEN):
            raise RefusalError(401, "Invalid username or password.")
        if wanted == "write" and token != WRITE_TOKEN:
            raise RefusalError(403, "Forbidden: you must use a write token to upload to a repository.")

    def _repository(self, kind: str, repo_id: str, wanted: str) -> Repository:
        repository = self.hub.repositories.get((kind, repo_id))
        if repository is not None and (repository.private or wanted == "write"):
            self._access(wanted)
        if repository is None:
            raise RefusalError(404, "Repository not found", "RepoNotFound")
        return repository

    def _create(self, wanted: dict[str, Any]):
        self._access("write")
        owner = wanted.get("organization") or USER
        if owner != USER:
            raise RefusalError(403, f"You don't have the rights to create a repo under the namespace {owner!r}")
        kind, repo_id = wanted.get("type", "model") + "s", f"{owner}/{wanted['name']}"
        url = f"{self.hub.url}/{'' if kind == 'models' else kind + '/'}{repo_id}"
        if (kind, repo_id) in self.hub.repositories:
            return 409, {"error": "You already created this repo", "url": url}, {}
        first = Commit("0" * 39 + "1", {".gitattributes": b"*.safetensors filter=lfs\n"}, title="initial commit")
        private = wanted.get("visibility") == "private" or bool(wanted.get("private"))
        self.hub.repositories[kind, repo_id] = Repository(private, [first], wanted.get("sdk"))
        return 200, {"url": url, "name": repo_id, "id": repo_id}, {}

    def _preupload(self, repository: Repository, kind: str, repo_id: str, revision: str, body: bytes):
        head, files = repository.at(revision), []
        for file in json.loads(body)["files"]:
            path = file["path"]
            mode = "lfs" if LARGE.search(path) or file["size"] > REGULAR_LIMIT else "regular"
            present = head.files.get(path)
            oid = present and (
                hashlib.sha256(present).hexdigest() if path in head.large else blob_id(present)
            )  # what the client compares its own with
            files.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return 200, {"files": files}, {}

    def _batch(self, wanted: dict[str, Any]):
        objects: list[dict[str, Any]] = []
        for item in wanted["objects"]:
            known = {"oid": item["oid"], "size": item["size"]}
            if item["oid"] not in self.hub.objects:
                known["actions"] = {"upload": {"href": f"{self.hub.url}/lfs/{item['oid']}", "header": {}}}
            objects.append(known)
        return 200, {"transfer": "basic", "objects": objects}, {}

    def _store(self, oid: str, body: bytes):
        if hashlib.sha256(body).hexdigest() != oid:
            raise RefusalError(400, "The provided content does not match its sha256")
        self.hub.objects[oid] = body
        return 200, {}, {}

    def _commit(self, repository: Repository, kind: str, repo_id: str, revision: str, body: bytes):
        head = repository.at(revision)
        files, large, title = dict(head.files), set(head.large), ""
        for line in body.splitlines():
            entry = json.loads(line)
            key, value = entry["key"], entry["value"]
            path = value.get("path", "")
            if path.startswith(("/", ".git/")) or ".." in path.split("/"):
                raise RefusalError(400, f"Invalid path: {path}")
            if key == "header":
                title = value["summary"]
                if value.get("parentCommit", head.oid) != head.oid:
                    raise RefusalError(412, "A commit has happened since. Please refresh and try again.")
            elif key == "file":
                content = base64.b64decode(value["content"])
                if len(content) > REGULAR_LIMIT or LARGE.search(path):
                    raise RefusalError(400, f"{path} must be uploaded with LFS")
                if path == "README.md" and (errors := check_card(content.decode(), kind)):
                    raise RefusalError(400, f"Invalid metadata in README.md: {errors[0]}")
                files[path] = content
                large.discard(path)
            elif key == "lfsFile":
                if value["oid"] not in self.hub.objects or len(self.hub.objects[value["oid"]]) != value["size"]:
                    raise RefusalError(400, f"LFS object {value['oid']} of {path} does not exist")
                files[path] = self.hub.objects[value["oid"]]
                large.add(path)
            elif key == "deletedFile":
                if path not in files:
                    raise RefusalError(404, f"{path} does not exist", "EntryNotFound")
                del files[path]
            else:
                raise RefusalError(400, f"unknown operation {key}")
        oid = hashlib.sha1(body + head.oid.encode()).hexdigest()
        repository.commits.append(Commit(oid, files, frozenset(large & files.keys()), title))
        return 200, {"commitUrl": f"{self.hub.url}/{repo_id}/commit/{oid}", "commitOid": oid}, {}

    def _entry(self, commit: Commit, path: str) -> dict[str, Any]:
        content = commit.files[path]
        entry: dict[str, Any] = {"type": "file", "path": path, "size": len(content), "oid": blob_id(content)}
        if path in commit.large:
            digest = hashlib.sha256(content).hexdigest()
            entry["lfs"] = {"oid": digest, "size": len(content), "pointerSize": 130}
        return entry

    def _tree(self, commit: Commit, folder: str):
        prefix = f"{folder}/" if folder else ""
        inside = [path for path in sorted(commit.files) if path.startswith(prefix)]
        if folder and not inside:
            raise RefusalError(404, f"{folder} does not exist", "EntryNotFound")
        if self.query.get("recursive", ["false"])[0].lower() == "true":
            return 200, [self._entry(commit, path) for path in inside], {}
        heads = {path.removeprefix(prefix).partition("/")[::2] for path in inside}
        folders = sorted({name for name, rest in heads if rest})
        entries = [{"type": "directory", "path": prefix + name, "size": 0, "oid": "0" * 40} for name in folders]
        files = [self._entry(commit, path) for path in inside if "/" not in path.removeprefix(prefix)]
        return 200, entries + files, {}

    def _paths_info(self, commit: Commit, body: bytes):
        try:
            paths = json.loads(body)["paths"]
        except ValueError:
            paths = parse_qs(body.decode())["paths"]
        return 200, [self._entry(commit, path) for path in paths if path in commit.files], {}

    def _info(self, repository: Repository, repo_id: str, commit: Commit):
        answer = {
            "_id": repo_id,
            "id": repo_id,
            "modelId": repo_id,
            "sha": commit.oid,
            "private": repository.private,
            "tags": [],
            "downloads": 0,
            "likes": 0,
            "siblings": [{"rfilename": path} for path in sorted(commit.files)],
        }
        return 200, answer, {}

    def _resolve(self, commit: Commit, path: str):
        if path not in commit.files:
            raise RefusalError(404, "Entry not found", "EntryNotFound")
        content = commit.files[path]
        etag = hashlib.sha256(content).hexdigest() if path in commit.large else blob_id(content)
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": commit.oid, "Accept-Ranges": "bytes"}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not wanted:
            return 200, content, headers
        start, end = int(wanted[1]), min(int(wanted[2] or len(content) - 1), len(content) - 1)
        headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
        return 206, content[start : end + 1], headers
