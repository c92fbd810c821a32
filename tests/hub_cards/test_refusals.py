"""What `d3llm push` refuses, leaves out and warns of, one line for each."""

import base64
import bz2
import gzip
import io
import json
import lzma
import os
import pickle  # noqa: TID251  what is refused
import random
import shutil
import string
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

from d3llm.commands.main import main
from d3llm.hub_cards import ModelFacts, TrajectoryFacts, model_card, trajectory_card
from d3llm.hub_cards.contents import PIECE
from d3llm.hub_cards.facts import MODEL_FACTS
from d3llm.hub_cards.pickles import danger
from d3llm.hub_cards.push_checks import card_metadata, check_files
from d3llm.hub_cards.repositories import metric_repository, model_repository, trajectory_repository
from d3llm.hub_cards.secrets import find_secret
from d3llm.quickstart import checkpoint_path


CARD = "---\nlicense: apache-2.0\ntags:\n- d3llm\n---\n# A model\n"


def letters(count: int, alphabet: str = string.ascii_letters + string.digits) -> str:
    return "".join(random.Random(count).choices(alphabet, k=count))


HEX = "0123456789abcdef"
# put together here, so that nobody takes this file for a leak
TOKEN = "hf" + "_" + letters(34)
SECRETS = {
    "Hugging Face": TOKEN,
    "AWS id": "AKIA" + letters(16, string.ascii_uppercase),
    "AWS secret, quoted": f'aws_secret_access_key = "{letters(40)}"',
    "AWS secret, plain": f"AWS_SECRET_ACCESS_KEY={letters(40)}",
    "Google": "key=AIza" + letters(35),
    "Google OAuth": "GOCSPX-" + letters(28),
    "Google service account": '{"private_key": "-----BEGIN ' + 'PRIVATE KEY-----\\nMII"}',
    "Slack": "xox" + "b-123456789012-123456789012-" + letters(24),
    "wandb in the environment": "WANDB_API_KEY=" + letters(40, HEX),
    "wandb in JSON": '"wandb_api_key": "' + letters(40, HEX) + '"',
    "wandb in netrc": "machine api.wandb.ai\n  login user\n  password " + letters(40, HEX) + "\n",
    "GitLab": "glpat-" + letters(20),
    "GitHub": "ghp_" + letters(36),
    "GitHub, fine-grained": "github_pat_" + letters(22) + "_" + letters(59),
    "PyPI": "pypi-AgEIcHlwaS5vcmc" + letters(80),
    "OpenAI": "sk-" + letters(20) + "T3BlbkFJ" + letters(20),
    "Anthropic": "sk-ant-api03-" + letters(80),
    "Azure": "AccountKey=" + letters(86) + "==",
    "Stripe": "sk_live_" + letters(24),
    "a password in an address": "https://ada:" + letters(12) + "@example.com/",
    "SSH": "-----BEGIN " + "OPENSSH PRIVATE KEY-----\nb3Bl",
    "an encrypted key": "-----BEGIN " + "ENCRYPTED PRIVATE KEY-----\nb3Bl",
}


@pytest.fixture
def folder(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    shutil.copytree(tiny_checkpoint, folder)
    (folder / "README.md").write_text(CARD)
    return folder


def refused(folder: Path, capsys) -> str:
    """The line that `d3llm push` refuses a folder with."""
    assert main(["push", "model", "--dry-run", str(folder), "ada/m"]) == 2
    error = capsys.readouterr().err
    (line,) = [line for line in error.splitlines() if not line.startswith("skipped: ")]
    return line


# Secrets


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_is_refused(name):
    with pytest.raises(ValueError, match=r"^notes.txt holds what looks like a secret \(.{3,6}\.\.\., .*revoke it"):
        check_files({"notes.txt": f"some words\n{SECRETS[name]}\nand more\n".encode()})


@pytest.mark.parametrize(
    "name",
    [".env", ".env.local", ".env.production", ".envrc", ".git-credentials", ".netrc", "code/.npmrc", "id_ecdsa"]
    + ["id_rsa", "server.pem", "store.p12", ".aws/config", ".docker/config.json", ".ssh/known_hosts", "token"]
    + [".ENV", "ID_RSA", "id_rsa.old", "my.PEM", "credentials.json", "hf_token", "hf_token.txt", ".SSH/config"],
)
def test_a_file_of_secrets_is_refused_by_its_name(name):
    with pytest.raises(ValueError, match="looks like a secret: remove it"):
        check_files({name: b"harmless"})


@pytest.mark.parametrize(
    "name",
    [".env.example", "tokenizer.json", "special_tokens_map.json", "added_tokens.json", "secrets.py", "id_rsa.pub"]
    + ["tokens.txt", "credentials.md", "environment.yml"],
)
def test_a_file_that_is_only_about_secrets_goes(name):
    check_files({name: b"TOKEN=\n"})


@pytest.mark.parametrize(
    "written",
    [
        lambda token: token.encode("utf-16"),
        lambda token: token.encode("utf-16-be"),
        lambda token: token.encode("utf-32"),
        lambda token: b"auth: " + base64.b64encode(b"user:" + token.encode()),
        lambda token: b"auth: " + base64.urlsafe_b64encode(b"??" + token.encode()),
        lambda token: (
            b"data: " + base64.b64encode(random.Random(0).randbytes(2 * PIECE) + b" " + token.encode() + b" ")
        ),
        lambda token: gzip.compress(b"x" * 10_000 + b" " + token.encode()),
        lambda token: bz2.compress(token.encode()),
        lambda token: lzma.compress(token.encode()),
        lambda token: lzma.compress(token.encode(), format=lzma.FORMAT_ALONE),
        lambda token: zlib.compress(b"x" * 3 * PIECE + b" " + token.encode(), 1),
        lambda token: zlib.compress(token.encode(), 3),
        lambda token: zlib.compress(token.encode()),
        lambda token: zlib.compress(random.Random(0).randbytes(2 * PIECE) + b" " + token.encode(), 9),
        lambda token: random.Random(0).randbytes(1000) + b"\0" + token.encode() + b"\0",
    ],
    ids=["utf-16", "utf-16-be", "utf-32", "base64", "base64url", "long base64", "gzip", "bzip2", "xz", "lzma"]
    + ["long zlib", "zlib 3", "zlib 6", "zlib 9", "binary"],
)
def test_a_secret_is_found_however_it_is_written(written):
    assert find_secret(written(TOKEN)) == ("Hugging Face token", TOKEN[:6])


@pytest.mark.parametrize("place", [PIECE - 10, PIECE, 2 * PIECE - 36, 3 * PIECE + 1])
def test_a_secret_between_two_pieces_is_found(place):
    assert find_secret(b"." * place + b" " + TOKEN.encode() + b" " + b"." * PIECE)


@pytest.mark.parametrize("weights", [False, True], ids=["name", "metadata"])
def test_a_secret_beside_weights_is_found(tmp_path, weights):
    path = tmp_path / "model.safetensors"
    names, metadata = ("weight", {"made by": f"me, {TOKEN}"}) if weights else (TOKEN, None)
    save_file({names: torch.zeros(2)}, path, metadata=metadata)
    with pytest.raises(ValueError, match=r"^model.safetensors holds what looks like a secret \(hf_"):
        check_files({path.name: path})


@pytest.mark.parametrize(
    "table",
    [
        pa.table({"number": [1] * 1000, "text": ["words"] * 999 + [TOKEN]}),
        pa.table({"text": pa.array(["words", TOKEN]).dictionary_encode()}),
        pa.table({"turns": [[{"role": "user", "content": "words"}, {"role": "user", "content": f"use {TOKEN}"}]]}),
        pa.table({"facts": pa.array([[("a", TOKEN)]], pa.map_(pa.string(), pa.string()))}),
        pa.table({"file": [b"\xff\0" + TOKEN.encode()]}),
        pa.table({"text": pa.array([TOKEN], pa.large_string())}),
        pa.table({"number": [1]}).replace_schema_metadata({"from": TOKEN}),
        pa.table({TOKEN: [1]}),
    ],
    ids=["text", "dictionary", "nested", "map", "bytes", "large", "metadata", "name"],
)
@pytest.mark.parametrize("on_disk", [False, True])
def test_a_secret_in_a_table_is_found(tmp_path, table, on_disk):
    pq.write_table(table, tmp_path / "a.parquet", compression="zstd")
    content = tmp_path / "a.parquet" if on_disk else (tmp_path / "a.parquet").read_bytes()
    with pytest.raises(ValueError, match=r"^a.parquet holds what looks like a secret \(hf_"):
        check_files({"a.parquet": content})


def test_tables_and_weights_without_secrets_go(tmp_path):
    folder = checkpoint_path("student").parent / "trajectories"
    files = {path.name: path for path in folder.rglob("*.parquet")}
    assert files
    numbers = np.random.default_rng(0).integers(0, 2**62, 100_000)
    pq.write_table(pa.table({"numbers": numbers, "text": [None] * 100_000}), tmp_path / "numbers.parquet")
    pq.write_table(pa.table({"numbers": numbers}), tmp_path / "only.parquet")
    check_files({**files, "numbers.parquet": tmp_path / "numbers.parquet", "only.parquet": tmp_path / "only.parquet"})


@pytest.mark.parametrize(
    ("magic", "kind"),
    [("28b52ffd", "zstd"), ("04224d18", "lz4"), ("02214c18", "lz4"), ("377abcaf271c", "7z"), ("526172211a07", "rar")],
)
def test_a_file_that_cannot_be_read_is_refused(magic, kind):
    with pytest.raises(ValueError, match=f"^s.jsonl cannot be checked, it is compressed with {kind}: remove it"):
        check_files({"s.jsonl": bytes.fromhex(magic) + b"anything"})


def test_a_log_of_12_mb_is_searched(tmp_path):
    log = tmp_path / "train.log"
    with log.open("w") as file:
        for step in range(150_000):
            file.write(
                f"2025-11-28 05:33:12 INFO step {step} loss 0.693147 grad_norm 1.0213 lr 2.0e-05 /data/run-17\n"
            )
        file.write(f"login with {TOKEN}\n")
    assert log.stat().st_size > 12 * 2**20
    with pytest.raises(ValueError, match=r"train.log holds what looks like a secret"):
        check_files({"train.log": log})


def test_what_is_searched_takes_little_memory(tmp_path):
    (tmp_path / "a.gz").write_bytes(gzip.compress(bytes(100 * 2**20)))
    find_secret(b"words " + TOKEN.encode())  # reads the rules
    tracemalloc.start()
    try:
        check_files({"a.gz": tmp_path / "a.gz"})
        assert tracemalloc.get_traced_memory()[1] < 20 * PIECE
    finally:
        tracemalloc.stop()


def test_what_is_no_secret_goes():
    digits = random.Random(0)
    picture = base64.b64encode(digits.randbytes(300_000)).decode()
    harmless = {
        "tokenizer.json": json.dumps({"model": {"vocab": {letters(1 + i % 15) + str(i): i for i in range(20_000)}}}),
        "hashes.txt": "\n".join(letters(count, HEX) for count in (32, 40, 64, 128)),
        "notebook.ipynb": json.dumps({"cells": [{"outputs": [{"data": {"image/png": picture}}]}]}),
        "plan.json": json.dumps({"weights": letters(16, HEX), "dataset": letters(64, HEX), "key": letters(44)}),
        "notes.md": "tokens per second, password: none, api_key=YOUR_KEY, secret, a task-specific-and-very-long-word",
        "requirements.txt": f"torch==2.13.0 --hash=sha256:{letters(64, HEX)}\n",
        "card.md": "https://huggingface.co/GSAI-ML/LLaDA-8B-Instruct and http://localhost:8000/a@b",
        "log.txt": "step 1700000000:12 loss 0.5\n10.0.0.1 - commit " + letters(40, HEX),
    }
    check_files({path: text.encode() for path, text in harmless.items()})


def test_the_shipped_models_hold_no_secret_and_no_pickle():
    for name in ("teacher", "student"):
        folder = checkpoint_path(name)
        check_files({path.name: path for path in folder.iterdir() if path.is_file()})


# Pickles and what may hold some


class Payload:
    def __reduce__(self):
        return (print, ("loaded",))


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def archive(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def torch_file(**options) -> bytes:
    file = io.BytesIO()
    torch.save({"a": torch.zeros(2)}, file, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        *((f"p{p}.txt", pickle.dumps({"a": [1, "b"]}, protocol=p), "is a pickle") for p in range(6)),
        *((f"call{p}.dat", pickle.dumps(Payload(), protocol=p) + b"more", "is a pickle") for p in range(6)),
        ("list.dat", pickle.dumps(list(range(200_000)), protocol=0), "is a pickle"),  # longer than what is looked at
        ("a.gz", gzip.compress(pickle.dumps([1], protocol=0)), "is a pickle"),
        ("a.xz", lzma.compress(pickle.dumps(Payload())), "is a pickle"),
        *((f"z{level}.gz", zlib.compress(pickle.dumps(Payload()), level), "is a pickle") for level in (1, 3, 6, 9)),
        ("a.lzma", lzma.compress(pickle.dumps(Payload()), format=lzma.FORMAT_ALONE), "is a pickle"),
        ("half.z", zlib.compress(b"x" * 100)[:-4], "cannot be checked, it is a damaged compressed file"),
        ("more.z", zlib.compress(b"x" * 100) + b"y", "cannot be checked, it is a damaged compressed file"),
        ("weights.PT", b"anything", "is a pickle"),
        ("a.npy", npy(np.array([{"a": 1}], dtype=object)), "is an array of objects"),
        ("b.npy", npy(np.zeros(2, dtype=[("a", "f4"), ("b", "O")])), "is an array of objects"),
        ("a.npz", archive(**{"a.npy": npy(np.array([None]))}), "is an archive"),
        ("a.data", torch_file(), "is an archive"),
        ("b.data", torch_file(_use_new_zipfile_serialization=False), "is a pickle"),
        ("weights.h5", b"\x89HDF\r\n\x1a\n" + bytes(100), "is HDF5"),
        ("weights.bin", b"anything", "is a pickle"),
        ("half.gz", gzip.compress(b"x" * 100)[:-9], "cannot be checked, it is a damaged compressed file"),
    ],
    ids=lambda value: value if isinstance(value, str) and "." in value else "",
)
def test_a_pickle_is_refused_whatever_its_suffix(name, content, what):
    with pytest.raises(ValueError, match=f"^{name} {what}.*remove it from the folder"):
        check_files({name: content})


@pytest.mark.parametrize(
    "text",
    ["", ".", "0.5\n", "N.B. this", "I am a text.", "cache\nbuild\n.venv\n", "(see below).", "l.", "}{", "a.b"]
    + ["x^2 + 2", "x^", "x^é" * 100]
    + ["K.", "V" + "x" * 2**20, "I1\nnumbers\n", "# Title\n", '{"a": 1}', "loss,step\n1,2\n", "Nobody.\n" * 200_000],
)
def test_text_that_begins_like_a_pickle_goes(text):
    check_files({"notes.txt": text.encode()})


def test_arrays_of_numbers_go():
    assert danger(npy(np.zeros((2, 3), dtype="f4"))) is None


# What lies in a folder


def make_pipe(folder: Path):
    os.mkfifo(folder / "pipe")


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda f: (f / "passwd").symlink_to("/etc/passwd"), "passwd is a link out of the folder"),
        (lambda f: (f / "etc").symlink_to("/etc"), "etc is a link out of the folder"),
        (lambda f: (f / "up").symlink_to("../outside.txt"), "up is a link out of the folder"),
        (lambda f: (f / "gone").symlink_to("nothing"), "gone is a broken link"),
        (lambda f: (f / "self").symlink_to("self"), "self is a broken link"),
        (lambda f: (f / "again").symlink_to("."), "again is a link to a folder"),
        (make_pipe, "pipe is neither a file nor a folder"),
        (lambda f: ((f / "config.json").unlink(), os.mkfifo(f / "config.json")), "config.json is neither a file nor"),
        (lambda f: (f / "null").symlink_to("/dev/null"), "null is a link out of the folder"),
        (lambda f: (f / "a\nb.txt").write_text("x"), r"a\\nb.txt' is a name that the Hub does not accept"),
        (lambda f: (f / "..a.txt").write_text("x"), "'..a.txt' is a name"),
        (lambda f: (f / "a\\b.txt").write_text("x"), "is a name that the Hub does not accept"),
        (lambda f: (f / os.fsdecode(b"\xff.txt")).write_text("x"), "is a name that the Hub does not accept"),
    ],
)
def test_what_is_no_file_of_the_folder_is_refused(folder, capsys, spoil, complaint):
    (folder.parent / "outside.txt").write_text("x")
    spoil(folder)
    error = refused(folder, capsys)
    assert complaint.replace("\\\\", "\\") in error or complaint in error


def test_a_pipe_does_not_hang_where_there_is_no_card(folder, capsys):
    for name in ("README.md", "config.json"):
        (folder / name).unlink()
    os.mkfifo(folder / "config.json")
    assert "neither a file nor a folder" in refused(folder, capsys)


def test_a_link_within_the_folder_goes_as_a_file(folder):
    (folder / "COPYING").symlink_to("README.md")
    assert "COPYING" in model_repository(folder, "ada/m").files


LEFTOVERS = [
    ".model.safetensors.tmp",
    ".tmpZBP5Mm",
    ".README.md.12ab.tmp",
    "nohup.out",
    "core",
    "core.1234",
    ".bash_history",
    ".python_history",
    "events.out.tfevents.1700000000.host.1.0",
    "deep/events.out.tfevents.1",
    "slurm-123.out",
    ".ipynb_checkpoints/a-checkpoint.ipynb",
    "code/.ipynb_checkpoints/a.py",
    "code/__pycache__/a.pyc",
    ".git/config",
    "wandb/run-1/files/output.log",
    "optimizer.pt",
    "checkpoint-5/model.safetensors",
    ".swp~",
    "notes.swp",
]


def test_leftovers_are_left_out_and_named(folder, capsys):
    sent = {path.name for path in folder.iterdir()}
    for name in LEFTOVERS:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"/home/ada {TOKEN}")
    assert main(["push", "model", "--dry-run", str(folder), "ada/m"]) == 0
    printed = capsys.readouterr().err.splitlines()
    assert sorted(line.removeprefix("skipped: ") for line in printed if "skipped" in line) == sorted(LEFTOVERS)
    assert set(model_repository(folder, "ada/m").files) == sent


def test_links_among_what_is_left_out_are_left_out(folder):
    (folder / "wandb").mkdir()
    (folder / "wandb/latest-run").symlink_to("/tmp")
    assert model_repository(folder, "ada/m").left_out == ("wandb/latest-run",)


# Weights, tokenizer, code, card


def truncate(folder: Path):
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-1000])


def index(folder: Path, change: Callable[[dict[str, str]], object]):
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    weight_map = dict.fromkeys(
        load_file(folder / "model-00001-of-00001.safetensors"), "model-00001-of-00001.safetensors"
    )
    changed = change(weight_map)
    values = {"weight_map": weight_map if changed is None else changed}
    (folder / "model.safetensors.index.json").write_text(json.dumps(values))


def drop(weight_map: dict[str, str]):
    weight_map.pop("model.transformer.wte.weight")


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (truncate, "model.safetensors is damaged"),
        (lambda f: (f / "model.safetensors").write_bytes(b"\x08"), "model.safetensors is damaged"),
        (lambda f: index(f, list), "model.safetensors.index.json is damaged: its weight_map"),
        (lambda f: index(f, lambda m: {}), "model.safetensors.index.json is damaged: its weight_map"),
        (lambda f: index(f, lambda m: dict.fromkeys(m, 3)), "index.json is damaged: its weight_map"),
        (lambda f: index(f, drop), "model.transformer.wte.weight is not in the index"),
        (lambda f: index(f, lambda m: {**m, "more": "model-00001-of-00001.safetensors"}), "more is not in the file"),
        (lambda f: index(f, lambda m: {**m, "more": "b.safetensors"}), "is incomplete: it has no b.safetensors"),
        (lambda f: shutil.copy(f / "model.safetensors", f / "old.safetensors"), "old.safetensors is not part of the"),
        (lambda f: (f / "tokenizer.json").unlink(), "its tokenizer has no vocabulary"),
        (lambda f: (f / "data.parquet").write_bytes(b"PAR1 half"), "data.parquet is damaged"),
        (lambda f: (f / "config.json").write_text('{"auto_map": [1]}'), "does not contain its code"),
        (lambda f: (f / "README.md").write_text(bomb()), "has aliases"),
        (lambda f: (f / "README.md").write_text("---\na: " + "[" * 5000 + "\n---\n"), "is not YAML"),
    ],
)
def test_a_model_that_is_not_whole_is_refused(folder, capsys, spoil, complaint):
    spoil(folder)
    assert complaint in refused(folder, capsys)


def bomb() -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10)]
    return "---\nlicense: mit\n" + "\n".join(lines) + "\n---\n"


def test_shards_with_their_index_go(folder):
    index(folder, lambda weight_map: None)
    assert "model-00001-of-00001.safetensors" in model_repository(folder, "ada/m").files


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn])
def test_weights_that_are_no_numbers_are_a_warning(folder, capsys, dtype):
    weights = load_file(folder / "model.safetensors")
    name = sorted(weights)[0]
    weights[name].view(-1)[3] = float("nan")
    save_file({key: value.to(dtype) for key, value in weights.items()}, folder / "model.safetensors")
    assert main(["push", "model", "--dry-run", str(folder), "ada/m"]) == 0
    assert f"warning: model.safetensors: {name} holds NaN or infinity (1 such weights)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("code", "warned"),
    [
        ("import os\nexec(os.environ.get('X', ''))\n", "line 2: calls exec"),
        ("value = __import__('os').getcwd()\n", "line 1: calls __import__"),
        ("import os\n\ndef f():\n    os.system('ls')\n", "line 4: calls os.system"),
        ("import subprocess\nsubprocess.run(['ls'])\n", "line 2: calls subprocess.run"),
        ("import importlib\nimportlib.import_module('os')\n", "line 2: calls importlib.import_module"),
        ("import re\nrule = re.compile('a')\nmodel = rule.match('a')\n", None),
    ],
)
def test_code_that_runs_what_nobody_sees_is_a_warning(folder, code, warned):
    (folder / "extra.py").write_text(code)
    warnings = model_repository(folder, "ada/m").warnings
    assert len(warnings) == (warned is not None)  # none of the model's own code
    assert all(f"extra.py, {warned}" in warning for warning in warnings)


def test_a_table_that_is_truncated_is_refused(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/train-00000.parquet").write_bytes(b"PAR1" + bytes(50))
    (tmp_path / "README.md").write_text(CARD)
    with pytest.raises(ValueError, match=r"data/train-00000.parquet is damaged"):
        trajectory_repository(tmp_path, "ada/t")


def test_the_metric_goes():
    assert not metric_repository(None, "ada/aup").warnings


@pytest.mark.parametrize(
    "name", ["m\n---\nlicense: other\n---\n# Mine", "<script>alert(1)</script>", "a | b", "x\x1b[2J"]
)
def test_a_name_is_text_on_a_card(name):
    facts = ModelFacts(
        name, "mit", "LLaDAModelLM", 10, teacher=name, hyperparameters={"stop": name}, training_tasks=[name]
    )
    rows = TrajectoryFacts(name, "mit", name, "decoded", 1, 2, 2, 2, 0, 1, 1, 1, {"preset": name})
    for card in (model_card(facts), trajectory_card(rows)):
        assert card_metadata(card)["license"] == "mit"
        assert "<script" not in card.partition("\n---\n")[2]
        assert "# Mine" not in card.splitlines()
        assert "\x1b" not in card
        assert not any(line.count("|") != 3 for line in card.splitlines() if line.startswith(("| stop", "| preset")))


def test_facts_of_a_folder_cannot_add_to_the_metadata(folder):
    facts = {"name": "m\n---\nlicense: other\n", "license": "mit", "architecture": "L", "parameters": 1}
    (folder / MODEL_FACTS).write_text(json.dumps(facts))
    card = model_repository(folder, "ada/m").files["README.md"].decode()
    assert card_metadata(card)["license"] == "mit"
    assert "license: other" not in card.splitlines()


def test_a_card_may_begin_with_a_byte_order_mark():
    assert card_metadata("\ufeff---\r\nlicense: mit\r\n---\r\ntext\r\n") == {"license": "mit"}
