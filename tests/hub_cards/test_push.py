"""`d3llm push` against a loopback Hub: a push ends complete, or says what is missing."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
import torch
from datasets import load_dataset
from huggingface_hub import HfApi
from safetensors.torch import save_file
from transformers.utils import logging

from d3llm.commands.main import main
from d3llm.hub_cards import TrajectoryFacts, facts_json
from d3llm.hub_cards import push as push_module
from d3llm.hub_cards.facts import TRAJECTORY_FACTS
from d3llm.hub_cards.push import PushError, push
from d3llm.hub_cards.repositories import Repository, model_repository
from d3llm.quickstart import checkpoint_path
from d3llm.quickstart.stories.checker import is_right
from d3llm.quickstart.stories.problem import generate_problems
from tests.helpers.hub import READ_TOKEN, WRITE_TOKEN, Fault, LoopbackHub
from tests.helpers.paths import ROOT
from tests.helpers.results import write_result


CARD = b"---\nlicense: apache-2.0\ntags:\n- d3llm\n---\n# A model\n"


def api(hub: LoopbackHub, token: str | None = WRITE_TOKEN) -> HfApi:
    return HfApi(endpoint=hub.url, token=token)


@pytest.fixture
def repository() -> Repository:
    files = {"README.md": CARD, "model.safetensors": b"weights" * 1000, "config.json": b"{}", "code/a.py": b"a = 1\n"}
    return Repository("model", files)


@pytest.fixture
def model_folder(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    shutil.copytree(tiny_checkpoint, folder)
    (folder / "README.md").write_bytes(CARD)
    return folder


def test_a_push_is_one_commit_with_all_files(hub, repository):
    pushed = push(repository, "ada/m", api=api(hub))
    remote = hub.repository("ada/m")
    assert pushed.changed == 4
    assert pushed.commit == remote.head.oid
    assert pushed.url == f"{hub.url}/ada/m"
    assert len(remote.commits) == 2  # the Hub's own, and this
    assert {path: remote.head.files[path] for path in repository.files} == repository.files
    assert not remote.private


def test_pushing_again_changes_nothing_and_a_change_sends_only_itself(hub, repository):
    push(repository, "ada/m", api=api(hub))
    assert push(repository, "ada/m", api=api(hub)).changed == 0
    assert len(hub.repository("ada/m").commits) == 2
    repository.files["config.json"] = b'{"a": 1}'
    hub.requests.clear()
    assert push(repository, "ada/m", api=api(hub)).changed == 1
    assert not [path for method, path in hub.requests if method == "PUT"]
    assert hub.repository("ada/m").head.files["config.json"] == b'{"a": 1}'


@pytest.mark.parametrize(
    "fault",
    [
        Fault("GET", "whoami", 503),
        Fault("GET", "/api/models/ada/m", 502, times=2),
        Fault("POST", "/api/repos/create", 429, {"Retry-After": "7"}),
        Fault("POST", "preupload", 500),
        Fault("POST", "objects/batch", 503, times=2),
        Fault("PUT", "/lfs/", 0),
        Fault("PUT", "/lfs/", 503, times=3),
        Fault("POST", "/commit/", 503, times=2),
        Fault("POST", "/commit/", 429, {"Retry-After": "7"}),
        Fault("POST", "/commit/", 0),
        Fault("POST", "/commit/", -1),
        Fault("GET", "/tree/", 503),
    ],
    ids=lambda fault: f"{fault.path.strip('/')}-{fault.status}",
)
def test_a_passing_fault_does_not_stop_a_push(hub, repository, fault):
    hub.faults.append(fault)
    push(repository, "ada/m", api=api(hub))
    assert fault.times == 0
    remote = hub.repository("ada/m")
    assert {path: remote.head.files[path] for path in repository.files} == repository.files
    assert len(remote.commits) == 2
    if "Retry-After" in fault.headers:
        assert max(hub.waits) >= 7
    else:
        assert hub.waits


def test_a_push_that_is_cut_for_good_leaves_nothing_and_the_next_one_goes_on(hub, repository):
    repository.files["second.safetensors"] = b"other" * 1000
    hub.faults.append(Fault("POST", "/commit/", 503, times=1000))
    with pytest.raises(PushError, match=r"Nothing was changed in ada/m: the Hub cannot be reached.*push again"):
        push(repository, "ada/m", api=api(hub))
    assert set(hub.repository("ada/m").head.files) == {".gitattributes"}
    hub.faults.clear()
    hub.requests.clear()
    push(repository, "ada/m", api=api(hub))
    assert not [path for method, path in hub.requests if method == "PUT"]  # the large files had arrived
    assert repository.files.keys() <= hub.repository("ada/m").head.files.keys()


def test_somebody_else_commits_meanwhile(hub, repository, monkeypatch):
    push(repository, "ada/m", api=api(hub))
    repository.files["config.json"] = b'{"mine": 1}'
    create = HfApi.create_commit

    def slowly(self, **kwargs):
        monkeypatch.setattr(HfApi, "create_commit", create)
        self.upload_file(path_or_fileobj=b'{"theirs": 1}', path_in_repo="config.json", repo_id="ada/m")
        return create(self, **kwargs)

    monkeypatch.setattr(HfApi, "create_commit", slowly)
    with pytest.raises(PushError, match="somebody else has committed in the meantime"):
        push(repository, "ada/m", api=api(hub))
    assert hub.repository("ada/m").head.files["config.json"] == b'{"theirs": 1}'


def test_a_file_that_got_lost_is_named(hub, repository, monkeypatch):
    state = push_module._state
    seen = []

    def without_config(*args):
        head, present = state(*args)
        seen.append(head)
        return head, {path: entry for path, entry in present.items() if path != "config.json"}

    monkeypatch.setattr(push_module, "_state", without_config)
    with pytest.raises(PushError, match=r"ada/m lacks config.json \(1 files\): push again"):
        push(repository, "ada/m", api=api(hub))
    assert len(seen) == 3


@pytest.mark.parametrize(
    ("token", "complaint"),
    [(READ_TOKEN, "may not write there"), ("hf_wrong", "does not accept the token"), (None, "There is no token")],
)
def test_tokens_that_do_not_do(hub, repository, token, complaint):
    with pytest.raises(PushError, match=complaint):
        push(repository, "ada/m", api=api(hub, token))
    assert not hub.repositories


def test_a_namespace_of_others(hub, repository):
    with pytest.raises(PushError, match="may not write there"):
        push(repository, "grace/m", api=api(hub))


def test_other_content_is_only_replaced_when_asked_to(hub, repository):
    theirs = Repository("model", {"README.md": b"---\nlicense: mit\n---\n", "notes.txt": b"mine"})
    push(theirs, "ada/m", api=api(hub))
    with pytest.raises(PushError, match=r"files that the push does not have, such as notes.txt.*--replace"):
        push(repository, "ada/m", api=api(hub))
    assert hub.repository("ada/m").head.files["notes.txt"] == b"mine"
    push(repository, "ada/m", replace=True, api=api(hub))
    assert hub.repository("ada/m").head.files.keys() == {*repository.files, ".gitattributes"}


def test_a_replacement_whose_answer_got_lost_is_found_by_the_next_attempt(hub, repository):
    push(Repository("model", {"README.md": CARD, "notes.txt": b"mine"}), "ada/m", api=api(hub))
    hub.faults.append(Fault("POST", "/commit/", -1))
    push(repository, "ada/m", replace=True, api=api(hub))
    assert hub.repository("ada/m").head.files.keys() == {*repository.files, ".gitattributes"}
    assert len(hub.repository("ada/m").commits) == 3


def test_another_model_under_the_same_names_is_other_content(hub, repository):
    push(Repository("model", {**repository.files, "README.md": b"---\nlicense: mit\n---\n"}), "ada/m", api=api(hub))
    with pytest.raises(PushError, match="no tag `d3llm`"):
        push(repository, "ada/m", api=api(hub))


def test_a_card_that_the_hub_refuses(hub, repository):
    repository.files["README.md"] = b"---\nlicense: [1]\n---\n"
    with pytest.raises((PushError, ValueError), match="license"):
        push(repository, "ada/m", api=api(hub))
    assert set(hub.repository("ada/m").head.files) == {".gitattributes"}


# The command line


def test_a_model_goes_with_everything_it_needs(hub, model_folder, capsys):
    (model_folder / "optimizer.pt").write_bytes(b"\x80\x04")
    (model_folder / "checkpoint-1").mkdir()
    (model_folder / "checkpoint-1/model.safetensors").write_bytes(b"old")
    assert main(["push", "model", str(model_folder), "ada/m"]) == 0
    printed = capsys.readouterr()
    assert f"{hub.url}/ada/m" in printed.out
    assert "skipped: optimizer.pt" in printed.err
    files = hub.repository("ada/m").head.files
    assert {"modeling_llada.py", "model.safetensors", "tokenizer.json", "README.md"} <= files.keys()
    assert not any(path.startswith(("checkpoint", "optimizer")) for path in files)


@pytest.mark.slow
def test_the_shipped_student_solves_problems_where_it_is_downloaded(hub, tmp_path):
    folder, problems = tmp_path / "student", generate_problems("test", 8, 1)
    assert main(["convert", str(checkpoint_path("student")), str(folder)]) == 0
    assert main(["push", "model", str(folder), "ada/student"]) == 0
    (tmp_path / "questions.json").write_text(json.dumps([problem.question for problem in problems]))
    script = [sys.executable, str(ROOT / "tests/helpers/hub_solve.py"), "ada/student"]
    environment = {**os.environ, **hub.environment(tmp_path / "downloads")}
    done = subprocess.run(
        [*script, str(tmp_path / "questions.json"), str(tmp_path / "answers.json")],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    answers = json.loads((tmp_path / "answers.json").read_text())
    right = sum(is_right(problem, text) for text, problem in zip(answers["texts"], problems, strict=True))
    assert right >= 6
    assert sum(answers["forwards"]) < 8 * 25  # one token per forward would take about 70 each


def test_curves_are_drawn_on_the_card(hub, model_folder, tmp_path):
    (model_folder / "README.md").unlink()
    results = tmp_path / "results"
    results.mkdir()
    write_result(results / "one.json", model_folder)
    write_result(results / "two.json", model_folder, correct=4, tokens_per_forward=1.0)
    command = ["push", "model", str(model_folder), "ada/m", "--license", "mit", "--results", str(results)]
    assert main(command) == 0
    files = hub.repository("ada/m").head.files
    assert files["accuracy_parallelism.png"].startswith(b"\x89PNG")
    assert b"(accuracy_parallelism.png)" in files["README.md"]
    assert main(command) == 0
    assert len(hub.repository("ada/m").commits) == 2  # drawn again, it is the same


def test_a_dry_run_checks_and_sends_nothing(hub, model_folder, capsys):
    logging.set_verbosity_warning()
    assert main(["push", "model", "--dry-run", str(model_folder), "ada/m"]) == 0
    assert "modeling_llada.py" in capsys.readouterr().out
    assert not hub.requests and logging.get_verbosity() == logging.ERROR  # what libraries say is not of the push
    (model_folder / "config.json").unlink()
    assert main(["push", "model", "--dry-run", str(model_folder), "ada/m"]) == 2


@pytest.mark.parametrize("command", [["custom-generate"], ["space", "--model", "a/b"], ["metric"]])
def test_a_dry_run_refuses_a_name_that_the_push_would_refuse(capsys, command):
    assert main(["push", command[0], "--dry-run", *command[1:], "ada"]) == 2
    assert "'ada' is not the name of a repository: write owner/name" in capsys.readouterr().err


def test_a_commit_that_cannot_be_checked_is_told_from_none(hub, repository, monkeypatch):
    push(repository, "ada/m", api=api(hub))
    repository.files["config.json"] = b'{"a": 1}'
    create = HfApi.create_commit

    def then_fail(self, **kwargs):
        create(self, **kwargs)
        hub.faults.append(Fault("GET", "/api/models/ada/m", 502, times=1000))

    monkeypatch.setattr(HfApi, "create_commit", then_fail)
    with pytest.raises(PushError, match=r"^Pushed, but not checked in ada/m: the Hub cannot be reached"):
        push(repository, "ada/m", api=api(hub))
    assert hub.repository("ada/m").head.files["config.json"] == b'{"a": 1}'


def break_weights(folder: Path):
    (folder / "model.safetensors").unlink()


def break_code(folder: Path):
    (folder / "canvas.py").write_text("import flash_attn\n")


def break_card(folder: Path):
    (folder / "README.md").write_text("# no licence\n")


def break_auto_map(folder: Path):
    config = json.loads((folder / "config.json").read_text())
    del config["auto_map"]
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (break_weights, "is incomplete: it has no model.safetensors"),
        (break_code, "canvas.py, line 1: imports flash_attn"),
        (break_card, "names no licence"),
        (break_auto_map, "does not contain its code"),
        (lambda f: (f / "canvas.py").unlink(), "imports canvas, which is not in the same folder"),
        (lambda f: (f / "weights.bin").write_bytes(b"x"), "weights.bin is a pickle"),
        (lambda f: (f / "data.dat").write_bytes(b"\x80\x04abc"), "data.dat is a pickle"),
        (lambda f: (f / ".env").write_text("A=1"), ".env looks like a secret"),
        (lambda f: (f / "notes.md").write_text("hf_" + "a" * 34), r"notes.md holds what looks like a secret \(hf_aaa"),
        (lambda f: (f / "adapter_config.json").write_text("{}"), "holds an adapter"),
        (lambda f: (f / "config.json").write_text("{"), "config.json is not JSON"),
        (lambda f: (f / "README.md").write_text("---\na: [\n---\n"), "not YAML"),
        (shutil.rmtree, "There is no folder"),
    ],
)
def test_what_must_not_go_is_named_in_one_line(hub, model_folder, capsys, spoil, complaint):
    spoil(model_folder)
    assert main(["push", "model", str(model_folder), "ada/m"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(complaint, error), error
    assert not hub.repositories


def test_a_card_written_on_windows_has_its_licence(model_folder):
    card = CARD.replace(b"\n", b"\r\n")
    (model_folder / "README.md").write_bytes(card)
    assert (model_folder / "README.md") == model_repository(model_folder, "ada/m").files["README.md"]
    (model_folder / "README.md").write_bytes(card.replace(b"license: apache-2.0\r\n", b""))
    with pytest.raises(ValueError, match="names no licence"):
        model_repository(model_folder, "ada/m")


def test_files_over_the_limits_are_refused(model_folder, monkeypatch):
    monkeypatch.setattr("d3llm.hub_cards.push_checks.LARGEST_FILE", 10_000)
    with pytest.raises(ValueError, match=r"has 0.0 GB, the Hub accepts .*save it in shards"):
        model_repository(model_folder, "ada/m")
    monkeypatch.setattr("d3llm.hub_cards.push_checks.LARGEST_FILE", 10**9)
    monkeypatch.setattr("d3llm.hub_cards.push_checks.MOST_ENTRIES", 5)
    with pytest.raises(ValueError, match="Write larger parts"):
        model_repository(model_folder, "ada/m")


def test_shards_must_all_be_there(model_folder):
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (model_folder / "model.safetensors").rename(model_folder / "model-00001-of-00002.safetensors")
    (model_folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="it has no model-00002-of-00002"):
        model_repository(model_folder, "ada/m")


@pytest.fixture
def trajectories(tmp_path: Path) -> Path:
    from datasets import Dataset

    from d3llm.trajectories.row import TRAJECTORY_FEATURES

    row = {
        "id": "a/train/0",
        "prompt_ids": [3, 4],
        "response_ids": [5, 0],
        "commit_steps": [1, 2],
        "num_forwards": 2,
        "correct": True,
        "source": "decoded",
        "teacher": "ada/teacher",
        "decode_config": "{}",
    }
    folder = tmp_path / "trajectories"
    (folder / "data").mkdir(parents=True)
    Dataset.from_list([row], features=TRAJECTORY_FEATURES).to_parquet(folder / "data/train-00000.parquet")
    facts = TrajectoryFacts("T", "mit", "ada/teacher", "decoded", 1, 2, 2, 2, 0, 1, 1, 1, {"preset": "llada"})
    (folder / TRAJECTORY_FACTS).write_text(facts_json(facts))
    return folder


def test_trajectories_are_private_and_load_from_the_hub(hub, trajectories, capsys, tmp_path):
    assert main(["push", "trajectories", str(trajectories), "ada/t"]) == 0
    remote = hub.repository("ada/t", "datasets")
    assert remote.private
    assert 'load_dataset("ada/t"' in remote.head.files["README.md"].decode()
    folder = HfApi(endpoint=hub.url, token=WRITE_TOKEN).snapshot_download("ada/t", repo_type="dataset")
    (row,) = load_dataset(folder, split="train", cache_dir=str(tmp_path / "datasets"))
    assert row["commit_steps"] == [1, 2]
    assert main(["push", "trajectories", "--public", str(trajectories), "ada/open"]) == 0
    assert not hub.repository("ada/open", "datasets").private


def test_unfinished_trajectories_stay(hub, trajectories, capsys):
    (trajectories / TRAJECTORY_FACTS).unlink()
    (trajectories / "plan.json").write_text("{}")
    assert main(["push", "trajectories", str(trajectories), "ada/t"]) == 2
    assert "unfinished" in capsys.readouterr().err


def test_the_spaces(hub, capsys, tmp_path):
    assert main(["push", "space", "--model", "ada/m", "ada/demo"]) == 0
    demo = hub.repository("ada/demo", "spaces")
    assert demo.sdk == "gradio"
    assert json.loads(demo.head.files["settings.json"]) == {"models": {"ada/m": "ada/m"}}
    assert {"canvas_space/interface.py", "canvas_space/frames.py"} <= demo.head.files.keys()
    assert main(["push", "metric", "ada/aup"]) == 0
    assert {"aup.py", "app.py", "requirements.txt"} <= hub.repository("ada/aup", "spaces").head.files.keys()
    assert main(["push", "metric", "ada/other"]) == 2
    assert "has no other.py" in capsys.readouterr().err
    assert main(["push", "space", "--model", str(tmp_path), "ada/demo"]) == 2


def test_the_loopback_hub_refuses_what_the_real_one_refuses(hub, tmp_path):
    client = api(hub)
    client.create_repo("ada/m")
    with pytest.raises(huggingface_hub.errors.HfHubHTTPError, match="409"):
        client.create_repo("ada/m")
    assert client.file_exists("ada/m", ".gitattributes")
    assert not client.file_exists("ada/m", "README.md")
    with pytest.raises(huggingface_hub.errors.RevisionNotFoundError):
        client.repo_info("ada/m", revision="f" * 40)
    save_file({"a": torch.zeros(2)}, tmp_path / "a.safetensors")
    client.upload_file(path_or_fileobj=tmp_path / "a.safetensors", path_in_repo="a.safetensors", repo_id="ada/m")
    stored = hub.repository("ada/m").head
    assert stored.large == {"a.safetensors"}
    downloaded = client.hf_hub_download("ada/m", "a.safetensors", cache_dir=tmp_path)
    assert Path(downloaded).read_bytes() == (tmp_path / "a.safetensors").read_bytes()
    session = huggingface_hub.utils.get_session()
    headers = {"Authorization": f"Bearer {WRITE_TOKEN}"}
    assert session.put(f"{hub.url}/lfs/{'0' * 64}", content=b"x", headers=headers).status_code == 400
    for line in (
        {"key": "lfsFile", "value": {"path": "b.safetensors", "oid": "0" * 64, "size": 1, "algo": "sha256"}},
        {"key": "file", "value": {"path": "../b", "content": "", "encoding": "base64"}},
        {"key": "file", "value": {"path": "b.safetensors", "content": "", "encoding": "base64"}},
    ):
        body = json.dumps({"key": "header", "value": {"summary": "x"}}) + "\n" + json.dumps(line)
        response = session.post(f"{hub.url}/api/models/ada/m/commit/main", content=body, headers=headers)
        assert response.status_code == 400
    assert hub.repository("ada/m").head == stored
