"""Files and folders are whole at any moment; the next run removes what a killed one left, and nothing else."""

import fcntl
import json
import os
import shutil
from pathlib import Path

import pytest

from d3llm.common.files import (
    own_folder,
    remove_leftovers,
    remove_leftovers_in,
    whole_file,
    whole_folder,
    write_atomically,
)
from d3llm.evaluation import ResultsFile
from d3llm.hub_cards.convert import convert
from d3llm.modeling import remote_code
from tests.helpers.kills import contents, every_kill
from tests.helpers.trajectory_rows import make_trainer


def write_folder(output: Path) -> None:
    with whole_folder(output) as folder:
        (folder / "a").write_bytes(b"new a")
        (folder / "inside").mkdir()
        (folder / "inside/b").write_bytes(b"new b")


def old_folder(output: Path) -> None:
    output.mkdir()
    (output / "a").write_bytes(b"old a")
    (output / "c").write_bytes(b"old c")


NEW_FOLDER = {"out/a": b"new a", "out/inside/b": b"new b"}
OLD_FOLDER = {"out/a": b"old a", "out/c": b"old c"}


def write_in_pieces(path: Path, content: bytes) -> None:
    with whole_file(path) as temporary, temporary.open("wb") as file:
        file.write(content[:1])
        file.write(content[1:])


@pytest.mark.parametrize("write_file", [write_atomically, write_in_pieces])
def test_a_file_is_the_old_or_the_new_one_after_every_kill(tmp_path, write_file):
    def write(folder: Path) -> None:
        write_file(folder / "out.json", b"new")

    for folder in every_kill(write, tmp_path, lambda folder: (folder / "out.json").write_bytes(b"old")):
        assert (folder / "out.json").read_bytes() in (b"old", b"new")
        write(folder)
        assert contents(folder) == {"out.json": b"new"}


@pytest.mark.parametrize("replaces", [False, True])
def test_a_folder_is_the_old_or_the_new_one_after_every_kill(tmp_path, replaces):
    prepare = old_folder if replaces else lambda output: None
    for folder in every_kill(lambda f: write_folder(f / "out"), tmp_path, lambda f: prepare(f / "out")):
        found = contents(folder)
        remove_leftovers(folder / "out")
        assert contents(folder) in ((OLD_FOLDER, NEW_FOLDER) if replaces else ({}, NEW_FOLDER)), found
        write_folder(folder / "out")
        assert contents(folder) == NEW_FOLDER


def test_code_beside_a_model_is_whole_after_every_kill(tmp_path):
    def write(folder: Path) -> None:
        remote_code.write_files(folder, {"a.py": "a = 2\n", "b.py": "b = 2\n"})

    for folder in every_kill(write, tmp_path, lambda f: remote_code.write_files(f, {"a.py": "a = 1\n"})):
        assert (folder / "a.py").read_text() in ("a = 1\n", "a = 2\n")
        write(folder)
        assert contents(folder) == {"a.py": b"a = 2\n", "b.py": b"b = 2\n"}


def test_results_go_on_after_every_kill(tmp_path):
    keys = [("a", 0), ("b", 0), ("c", 0)]

    def run(folder: Path) -> None:
        with ResultsFile(folder / "out.jsonl", keys, {"seed": 1}) as results:
            for identity in ("b", "c", "a"):
                results.append([{"id": identity, "text": identity}])
            results.finish()

    for folder in every_kill(run, tmp_path):
        run(folder)
        assert contents(folder).keys() == {"out.jsonl", "out.jsonl.settings.json"}
        lines = (folder / "out.jsonl").read_text().splitlines()
        assert [json.loads(line)["id"] for line in lines] == ["a", "b", "c"]


@pytest.mark.slow
def test_a_conversion_is_whole_after_every_kill(tiny_checkpoint, tmp_path):
    def run(folder: Path) -> None:
        convert(tiny_checkpoint, folder / "out", license="mit")

    (tmp_path / "whole").mkdir()
    run(tmp_path / "whole")
    expected = contents(tmp_path / "whole")
    for folder in every_kill(run, tmp_path, step=4):
        if (folder / "out").exists():
            with pytest.raises(OSError, match="nothing is overwritten"):
                run(folder)
        else:
            run(folder)
        assert contents(folder) == expected
        shutil.rmtree(folder)


def test_what_a_living_process_writes_stays(tmp_path):
    """A writer in another process is in the middle of a file and a folder while they are written here, too."""
    ready, go_on = os.pipe(), os.pipe()
    process = os.fork()
    if not process:
        try:
            with whole_folder(tmp_path / "out") as folder:
                (folder / "theirs").write_bytes(b"theirs")
                os.write(ready[1], b"x")
                os.read(go_on[0], 1)
        finally:
            os._exit(0 if (tmp_path / "out/theirs").exists() else 1)
    os.read(ready[0], 1)
    before = {path for path in contents(tmp_path) if "theirs" in path}
    write_folder(tmp_path / "out")
    remove_leftovers_in(tmp_path)
    assert len(before) == 1
    assert before < contents(tmp_path).keys()
    os.write(go_on[1], b"x")
    assert os.waitpid(process, 0)[1] == 0
    assert contents(tmp_path) == {"out/theirs": b"theirs"}


def test_a_leftover_goes_though_its_process_id_lives_again(tmp_path):
    (tmp_path / f".out.json.{os.getpid()}.tmp").write_bytes(b"half")
    (tmp_path / ".out.json.more.12ab.tmp").write_bytes(b"of another output")
    write_atomically(tmp_path / "out.json", b"new")
    assert contents(tmp_path) == {"out.json": b"new", ".out.json.more.12ab.tmp": b"of another output"}
    remove_leftovers_in(tmp_path)
    assert contents(tmp_path) == {"out.json": b"new"}


def test_without_locks_everything_stays(tmp_path, monkeypatch):
    (tmp_path / ".out.json.12ab.tmp").write_bytes(b"perhaps alive")

    def no_locks(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    write_atomically(tmp_path / "out.json", b"new")
    assert contents(tmp_path) == {"out.json": b"new", ".out.json.12ab.tmp": b"perhaps alive"}


def test_many_writers_of_one_file(tmp_path):
    """Each takes away what it finds unlocked; nobody loses the file that it is about to rename."""
    processes = []
    for number in range(4):
        process = os.fork()
        if not process:
            try:
                for _ in range(50):
                    write_atomically(tmp_path / "out", bytes([number]) * 5000)
            except BaseException:
                os._exit(1)
            os._exit(0)
        processes.append(process)
    assert [os.waitpid(process, 0)[1] for process in processes] == [0] * 4
    (path,) = tmp_path.iterdir()
    assert path.read_bytes() in [bytes([number]) * 5000 for number in range(4)]


def test_a_folder_keeps_the_rights_that_the_umask_gives(tmp_path):
    before = os.umask(0o027)
    try:
        write_folder(tmp_path / "out")
        write_atomically(tmp_path / "file", b"")
    finally:
        os.umask(before)
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in ("out", "file")] == [0o750, 0o640]


@pytest.mark.parametrize("write_file", [write_atomically, write_in_pieces])
def test_a_link_to_a_file_stays_and_so_does_the_mode(tmp_path, write_file):
    (tmp_path / "real").mkdir()
    file, link = tmp_path / "real/file", tmp_path / "link"
    link.symlink_to("real/file")
    write_file(link, b"first")  # of a link that leads nowhere yet
    file.chmod(0o600)
    (tmp_path / "real/.file.12ab.tmp").write_bytes(b"half")
    write_file(link, b"new")
    assert link.is_symlink() and contents(tmp_path) == {"real/file": b"new", "link": b"new"}
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_link_to_a_folder_stays_and_so_does_the_mode(tmp_path):
    old_folder(tmp_path / "out")
    (tmp_path / "out").chmod(0o700)
    (tmp_path / "link").symlink_to("out")
    write_folder(tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "out").stat().st_mode & 0o777 == 0o700
    (tmp_path / "link").unlink()
    assert contents(tmp_path) == NEW_FOLDER


def test_a_link_that_an_earlier_version_left_goes(tmp_path):
    old_folder(tmp_path / "out")
    (tmp_path / ".link.12ab.tmp").write_bytes(b"")
    (tmp_path / ".link.12ab.old").symlink_to("out")
    (tmp_path / "link").mkdir()
    remove_leftovers(tmp_path / "link")
    assert os.listdir(tmp_path / "link") == [] and sorted(os.listdir(tmp_path)) == ["link", "out"]
    assert sorted(os.listdir(tmp_path / "out")) == ["a", "c"]


def test_files_of_the_hubs_cache_are_those_of_other_revisions_too(tmp_path):
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs/12ab").write_bytes(b"old")
    for name in ("a", "b"):
        (tmp_path / name).symlink_to("blobs/12ab")
    write_atomically(tmp_path / "a", b"new")
    assert contents(tmp_path) == {"a": b"new", "b": b"old", "blobs/12ab": b"old"}


def test_what_is_left_in_a_folder_goes_when_nobody_else_writes_there(tmp_path):
    (tmp_path / "checkpoint-1").mkdir()
    names = ["checkpoint-1/.tmpZBP5Mm", ".canvas.py.0123456789abcdef.tmp"]  # weights of safetensors, code of a model
    for name in names:
        (tmp_path / name).write_bytes(b"half")
    (tmp_path / ".tmpl").write_bytes(b"of the user")
    with own_folder(tmp_path):
        assert contents(tmp_path).keys() == {".tmpl", ".lock", "checkpoint-1/"}
        for name in names:
            (tmp_path / name).write_bytes(b"in work")
        process = os.fork()
        if not process:
            with pytest.raises(OSError, match="Another process is writing"), own_folder(tmp_path):
                pass
            os._exit(0 if all((tmp_path / name).exists() for name in names) else 1)
        assert os.waitpid(process, 0)[1] == 0
    assert contents(tmp_path).keys() == {".tmpl", *names}


def test_a_training_removes_what_a_killed_one_left(tiny_checkpoint, tmp_path):
    trainer = make_trainer(tiny_checkpoint, tmp_path, max_steps=1)
    (tmp_path / ".tmpZBP5Mm").write_bytes(b"half")
    (tmp_path / ".lock").write_bytes(b"")
    trainer.train()
    assert not list(tmp_path.rglob(".*"))
