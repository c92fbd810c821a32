"""`d3llm generate --input`: files of prompts, interrupted and taken up again; and `d3llm infill`."""

import itertools
import json
import signal

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import d3llm.modeling
from d3llm.commands.main import main
from d3llm.evaluation import ResultsFile, encode_prompt, generate_in_batches, read_prompts
from tests.helpers.commands import copy_checkpoint, run_fails
from tests.helpers.forks import Fork, run_script


PROMPTS = [
    {"prompt": "one plus two is", "id": "sum"},
    {"prompt": "three", "answer": "ignored"},
    {"messages": [{"role": "user", "content": "four"}, {"role": "assistant", "content": "five is six"}]},
    {"prompt": "seven eight", "id": 40},
    {"prompt": "nine is nine is nine is nine plus zero"},
    {"prompt": "zero", "id": "últim·o"},
    {"prompt": "two plus two plus two is"},
]
IDS = ["sum", 2, 3, 40, 5, "últim·o", 7]
FLAGS = ["--preset", "d3llm", "--max-new-tokens", "12", "--block-size", "4", "--threshold", "2.0", "--batch-size", "2"]
SAMPLING = ["--temperature", "1", "--seed", "3"]


@pytest.fixture
def files(tmp_path):
    """The input with all prompts, and the output to be."""
    path = tmp_path / "prompts.jsonl"
    path.write_text("\n".join(json.dumps(prompt, ensure_ascii=False) for prompt in PROMPTS), encoding="utf-8")
    return path, tmp_path / "out.jsonl"


def command(checkpoint, files, *flags) -> list[str]:
    arguments = ["generate", "--model", checkpoint, "--input", files[0], "--output", files[1], *FLAGS, *flags]
    return [str(argument) for argument in arguments]


def read(path) -> list[dict]:
    return [json.loads(line) for line in path.read_bytes().decode().splitlines()]


def prompts_started(monkeypatch) -> list[int]:
    """Grows by the number of its rows with each run that begins."""
    rows: list[int] = []
    start_run = d3llm.modeling.LLaDAModelLM.start_run

    def counted(self, prompt, *args, **kwargs):
        rows.append(len(prompt))
        return start_run(self, prompt, *args, **kwargs)

    monkeypatch.setattr(d3llm.modeling.LLaDAModelLM, "start_run", counted)
    return rows


@pytest.fixture(scope="module")
def uninterrupted(tiny_checkpoint, tmp_path_factory) -> bytes:
    folder = tmp_path_factory.mktemp("uninterrupted")
    files = folder / "prompts.jsonl", folder / "out.jsonl"
    files[0].write_text("\n".join(map(json.dumps, PROMPTS)))
    assert main(command(tiny_checkpoint, files, *SAMPLING)) == 0
    return files[1].read_bytes()


@pytest.mark.parametrize("sampling", [[], SAMPLING])
def test_lines_are_those_of_single_prompts(capsys, tiny_checkpoint, files, sampling):
    assert main(command(tiny_checkpoint, files, *sampling)) == 0
    printed = capsys.readouterr()
    assert printed.out == f"7 texts in {files[1]}\n" and printed.err == ""
    lines = read(files[1])
    assert [line["id"] for line in lines] == IDS
    assert sorted(path.name for path in files[1].parent.iterdir()) == [
        "out.jsonl",
        "out.jsonl.settings.json",
        "prompts.jsonl",
    ]
    model, tokenizer = (kind.from_pretrained(tiny_checkpoint) for kind in (AutoModelForCausalLM, AutoTokenizer))
    for prompt, line in zip(PROMPTS, lines, strict=True):
        ids = torch.tensor([encode_prompt(tokenizer, prompt.get("prompt") or prompt["messages"])])
        options = {"temperature": 1.0, "seed": 3} if sampling else {}
        output = model.generate(
            ids,
            preset="d3llm",
            max_new_tokens=12,
            block_size=4,
            threshold=2.0,
            return_dict_in_generate=True,
            **options,
        )
        new = output.sequences[0, ids.shape[1] :].tolist()
        new = new[: new.index(0) + 1] if 0 in new else new
        forwards = int(output.forward_passes[0])
        assert set(line) == {"id", "text", "tokens", "forwards", "row_forwards", "tokens_per_forward"}
        assert line["text"] == tokenizer.decode(new, skip_special_tokens=True)
        assert (line["tokens"], line["forwards"]) == (len(new), forwards)
        assert line["tokens_per_forward"] == pytest.approx(len(new) / forwards, abs=1e-4)


def test_a_finished_run_is_left_alone(capsys, monkeypatch, tiny_checkpoint, files):
    main(command(tiny_checkpoint, files))
    before, started = files[1].read_bytes(), prompts_started(monkeypatch)
    capsys.readouterr()
    assert main(command(tiny_checkpoint, files)) == 0
    assert capsys.readouterr().out == f"7 texts in {files[1]}, 7 of 7 prompts were already done\n"
    assert (files[1].read_bytes(), started) == (before, [])
    assert main(command(tiny_checkpoint, files, "--overwrite")) == 0
    assert (files[1].read_bytes(), sum(started)) == (before, 7)


def test_a_killed_process_is_taken_up_again(tiny_checkpoint, files, uninterrupted):
    """SIGKILL at the second writing, with half a line of it written."""
    code = (
        "import os, signal, sys\n"
        "from d3llm.commands.main import main\n"
        "from d3llm.evaluation import ResultsFile\n"
        "append = ResultsFile.append\n"
        "def second_is_cut(self, records):\n"
        "    if self.lines:\n"
        '        self._file.write(b\'{"id": "su\'); self._file.flush()\n'
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    append(self, records)\n"
        "ResultsFile.append = second_is_cut\n"
        "main(sys.argv[1:])\n"
    )
    killed = Fork(run_script, code, command(tiny_checkpoint, files, *SAMPLING)).wait()
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    written = files[1].read_bytes()
    whole = written.split(b"\n")[:-1]
    assert whole and not written.endswith(b"\n")
    assert set(whole) < set(uninterrupted.split(b"\n"))
    assert main(command(tiny_checkpoint, files, *SAMPLING)) == 0
    assert files[1].read_bytes() == uninterrupted


def test_a_cut_anywhere_is_taken_up_again(monkeypatch, tiny_checkpoint, files, uninterrupted):
    """The file as it grew, cut at every tenth byte and around every end of a line."""
    grown = b""
    append = ResultsFile.append

    def spy(self, records):
        nonlocal grown
        append(self, records)
        grown = files[1].read_bytes()

    with monkeypatch.context() as patch:
        patch.setattr(ResultsFile, "append", spy)
        assert main(command(tiny_checkpoint, files, *SAMPLING)) == 0
    settings = json.loads((files[1].parent / "out.jsonl.settings.json").read_text())
    keys = [(name, 0) for name in IDS]
    records = read(files[1])
    ends = list(itertools.accumulate(len(line) for line in grown.splitlines(keepends=True)))
    assert ends[-1] == len(grown) and grown != uninterrupted == files[1].read_bytes()
    for cut in {*range(0, len(grown), 10), *(end + by for end in ends for by in (-2, -1, 0))}:
        files[1].write_bytes(grown[:cut])
        with ResultsFile(files[1], keys, settings) as results:
            whole = sum(end - 1 <= cut for end in ends)  # a line without its newline is whole as well
            assert len(results.lines) == whole
            assert files[1].read_bytes() == b"".join(grown.splitlines(keepends=True)[:whole])
            results.append(records[:3])
            results.append(records)
            results.finish()
        assert files[1].read_bytes() == uninterrupted


@pytest.mark.parametrize("lines", [1, 3, 6])
def test_only_missing_prompts_are_decoded(monkeypatch, tiny_checkpoint, files, uninterrupted, lines):
    started = prompts_started(monkeypatch)
    main(command(tiny_checkpoint, files, *SAMPLING))
    assert sum(started) == 7
    files[1].write_bytes(b"".join(uninterrupted.splitlines(keepends=True)[-lines:]))
    started.clear()
    assert main(command(tiny_checkpoint, files, *SAMPLING)) == 0
    assert sum(started) == 7 - lines and files[1].read_bytes() == uninterrupted


def test_another_batch_size_goes_on(tiny_checkpoint, files, uninterrupted):
    main(command(tiny_checkpoint, files, *SAMPLING))
    files[1].write_bytes(b"".join(files[1].read_bytes().splitlines(keepends=True)[2:5]))
    assert main(command(tiny_checkpoint, files, *SAMPLING, "--batch-size", "3")) == 0
    assert files[1].read_bytes() == uninterrupted


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--threshold", "1.0"], "threshold was 2.0, is 1.0"),
        (["--preset", "llada"], 'preset was "d3llm", is "llada"'),
        (["--seed", "1"], "seed was null, is 1"),
        (["--no-chat"], "prompts was"),
    ],
)
def test_other_settings_are_refused(capsys, tiny_checkpoint, files, flags, named):
    if "--no-chat" in flags:
        files[0].write_text('{"prompt": "one"}')
    main(command(tiny_checkpoint, files))
    before = files[1].read_bytes()
    capsys.readouterr()
    message = run_fails(capsys, *command(tiny_checkpoint, files, *flags))
    assert named in message and "--output" in message and "--overwrite" in message
    assert files[1].read_bytes() == before
    assert main(command(tiny_checkpoint, files, *flags, "--overwrite")) == 0


def test_another_model_is_refused(capsys, tiny_checkpoint, files, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = copy_checkpoint(tiny_checkpoint, tmp_path)
    main(command(tiny_checkpoint, files))
    capsys.readouterr()
    assert "model was" in run_fails(capsys, *command(folder, files))
    main(command(folder, files, "--overwrite"))
    weights = load_file(folder / "model.safetensors")
    save_file({name: value + 1e-3 for name, value in weights.items()}, folder / "model.safetensors", {"format": "pt"})
    capsys.readouterr()
    assert "weights was" in run_fails(capsys, *command(folder, files))


def test_other_prompts_are_refused(capsys, tiny_checkpoint, files):
    main(command(tiny_checkpoint, files))
    files[0].write_text(files[0].read_text().replace("eight", "nine"))
    capsys.readouterr()
    assert "prompts was" in run_fails(capsys, *command(tiny_checkpoint, files))


@pytest.mark.parametrize("content", ["three lines\nof a\ndiary\n", '{"id": 2, "text": "of another run"}\n'])
@pytest.mark.parametrize("settings", [None, "{", "[1]"])
def test_a_file_that_is_not_ours_is_refused(capsys, tiny_checkpoint, files, content, settings):
    files[1].write_text(content)
    if settings is not None:
        (files[1].parent / "out.jsonl.settings.json").write_text(settings)
    assert str(files[1]) in run_fails(capsys, *command(tiny_checkpoint, files))
    assert files[1].read_text() == content


def test_a_damaged_line_is_named(capsys, tiny_checkpoint, files):
    main(command(tiny_checkpoint, files))
    damaged = files[1].read_bytes().replace(b'"id": 2', b'"id": 99', 1)
    files[1].write_bytes(damaged)
    capsys.readouterr()
    assert "line 2" in run_fails(capsys, *command(tiny_checkpoint, files))
    assert files[1].read_bytes() == damaged


@pytest.mark.parametrize(
    ("line", "named"),
    [
        (b"not JSON", "not JSON"),
        (b'{"prompt": "one"', "not JSON"),
        (b"[1, 2]", "object"),
        (b'{"prompt": "\xff"}', "UTF-8"),
        (b'{"prompt": "\\ud800"}', "UTF-8"),
        (b"[" * 100_000, "nested"),
        (b'{"text": "one"}', "`prompt` or `messages`"),
        (b'{"prompt": "one", "messages": []}', "`prompt` or `messages`"),
        (b'{"prompt": 3}', "`prompt`"),
        (b'{"prompt": " "}', "empty"),
        (b'{"messages": []}', "`messages`"),
        (b'{"messages": [{"role": "user"}]}', "`messages`"),
        (b'{"prompt": "one", "id": 1.5}', "`id`"),
        (b'{"prompt": "one", "id": true}', "`id`"),
        (b'{"prompt": "one", "id": 1}', "already used by line 1"),
    ],
)
def test_a_bad_line_is_named_and_the_others_go_on(tmp_path, line, named):
    path = tmp_path / "prompts.jsonl"
    path.write_bytes(b'{"prompt": "one"}\n\n' + line + b'\n{"prompt": "two"}\n')
    lines, faults = read_prompts(path)
    assert [(each.id, each.prompt) for each in lines] == [(1, "one"), (4, "two")]
    assert len(faults) == 1
    assert faults[0].startswith("line 3: ") and named in faults[0]


def test_a_file_with_a_bad_line_is_decoded_but_for_it(capsys, tiny_checkpoint, files):
    files[0].write_text('{"prompt": "one"}\nnot JSON\n{"prompt": "two"}\n')
    assert main(command(tiny_checkpoint, files)) == 2
    warning, error = capsys.readouterr().err.splitlines()
    assert warning.startswith(f"d3llm: warning: {files[0]}, line 2: it is not JSON")
    assert error.startswith(f"d3llm: error: {files[0]} has 1 lines that are not prompts")
    assert [line["id"] for line in read(files[1])] == [1, 3]


def test_a_file_of_bad_lines_is_refused(capsys, tiny_checkpoint, files):
    files[0].write_text("not JSON\n")
    assert "holds no prompts (line 1: it is not JSON" in run_fails(capsys, *command(tiny_checkpoint, files))
    assert not files[1].exists()


def test_a_prompt_that_is_too_long_is_named(capsys, tiny_checkpoint, files):
    with files[0].open("a") as file:
        file.write("\n" + json.dumps({"prompt": "one " * 125}))
    assert f"{files[0]}, line 8" in run_fails(capsys, *command(tiny_checkpoint, files))
    assert not files[1].exists()


def test_the_longest_prompt_leaves_the_room(capsys, tiny_checkpoint, files):
    arguments = command(tiny_checkpoint, files, "--early-stop", "false")
    del arguments[arguments.index("--max-new-tokens") : arguments.index("--max-new-tokens") + 2]
    assert main(arguments) == 0
    assert "max_new_tokens is 118: the longest prompt (line 5) leaves no more room" in capsys.readouterr().err
    settings = json.loads((files[1].parent / "out.jsonl.settings.json").read_text())
    assert settings["max_new_tokens"] == 118


def test_return_sequences_have_a_line_each(monkeypatch, tiny_checkpoint, files):
    flags = [*SAMPLING, "--num-return-sequences", "3"]
    assert main(command(tiny_checkpoint, files, *flags)) == 0
    whole = files[1].read_bytes()
    lines = read(files[1])
    assert [(line["id"], line["sequence"]) for line in lines] == [(name, n) for name in IDS for n in range(3)]
    assert len({line["text"] for line in lines[:3]}) > 1
    files[1].write_bytes(whole[: len(whole) // 2])
    started = prompts_started(monkeypatch)
    assert main(command(tiny_checkpoint, files, *flags)) == 0
    assert files[1].read_bytes() == whole and 0 < sum(started) < 7


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--prompt", "one", "--input", "prompts.jsonl", "--output", "out.jsonl"], "--input"),
        (["--prompt", "one", "--output", "out.jsonl"], "--output"),
        (["--prompt", "one", "--batch-size", "3"], "--batch-size"),
        (["--prompt", "one", "--overwrite"], "--overwrite"),
        (["--input", "prompts.jsonl"], "--output"),
        (["--input", "nowhere.jsonl", "--output", "out.jsonl"], "nowhere.jsonl"),
        (["--input", "empty.jsonl", "--output", "out.jsonl"], "no prompts"),
        (["--input", "prompts.jsonl", "--output", "prompts.jsonl", "--overwrite"], "same file"),
        (["--input", "prompts.jsonl", "--output", "nowhere/out.jsonl"], "nowhere"),
        (["--input", "prompts.jsonl", "--output", "."], "not a file"),
        (["--input", "prompts.jsonl", "--output", "out.jsonl", "--batch-size", "0"], "--batch-size"),
        (["--input", "prompts.jsonl", "--output", "out.jsonl", "--threshold", "-1"], "threshold"),
        (["--input", "prompts.jsonl", "--output", "out.jsonl", "--preset", "warp"], "warp"),
    ],
)
def test_wrong_arguments_take_one_line(capsys, monkeypatch, tiny_checkpoint, files, arguments, named):
    monkeypatch.chdir(files[0].parent)
    before = files[0].read_bytes()
    (files[0].parent / "empty.jsonl").write_text("\n \n")
    assert named in run_fails(capsys, "generate", "--model", tiny_checkpoint, *arguments)
    assert files[0].read_bytes() == before and not files[1].exists()


def test_two_processes_do_not_share_an_output(capsys, tiny_checkpoint, files):
    pytest.importorskip("fcntl")
    main(command(tiny_checkpoint, files))
    settings = json.loads((files[1].parent / "out.jsonl.settings.json").read_text())
    with ResultsFile(files[1], [(name, 0) for name in IDS], settings):
        capsys.readouterr()
        assert "Another process" in run_fails(capsys, *command(tiny_checkpoint, files))
    assert main(command(tiny_checkpoint, files)) == 0


def test_a_full_disk_is_named_with_the_way_out(tmp_path):
    resource = pytest.importorskip("resource")
    path, before = tmp_path / "out.jsonl", resource.getrlimit(resource.RLIMIT_FSIZE)
    keys = [("a", 0), ("b", 0)]
    message = r"Cannot write .*out\.jsonl: .* Finished results stay"
    with ResultsFile(path, keys, {}) as results:
        results.append([{"id": "a"}])
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 5, before[1]))
        try:
            with pytest.raises(OSError, match=message):
                results.append([{"id": "b", "text": "long enough"}])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    with ResultsFile(path, keys, {}) as results:
        assert list(results.lines) == keys[:1]


def test_the_library_takes_texts_chats_and_ids(tiny_checkpoint):
    model, tokenizer = (kind.from_pretrained(tiny_checkpoint) for kind in (AutoModelForCausalLM, AutoTokenizer))
    prompts = ["one is", [{"role": "user", "content": "one is"}], encode_prompt(tokenizer, "one is")]
    options = {"batch_size": 2, "preset": "llada", "max_new_tokens": 5}
    rows = [row for batch in generate_in_batches(model, tokenizer, prompts, **options) for row in batch.rows]
    assert sorted(row.index for row in rows) == [0, 1, 2] and len({row.text for row in rows}) == 1
    for wrong in ([], [""], ["one", []]):
        with pytest.raises(ValueError, match="empty"):
            next(generate_in_batches(model, tokenizer, wrong))
    assert list(generate_in_batches(model, tokenizer, prompts, done={0, 1, 2})) == []


def test_a_terminal_gets_a_progress_bar(capsys, monkeypatch, tiny_checkpoint, files):
    monkeypatch.setenv("FORCE_COLOR", "1")  # what rich takes for a terminal
    assert main(command(tiny_checkpoint, files)) == 0
    printed = capsys.readouterr()
    assert "7/7" in printed.err and "\x1b" not in printed.out


def infill(checkpoint, text, *flags) -> list[str]:
    return ["infill", "--model", str(checkpoint), "--text", text, *flags]


def test_infill_keeps_the_text_around_the_gap(capsys, tiny_checkpoint):
    assert main(infill(tiny_checkpoint, "one [MASK] two [MASK:3] is", "--preset", "llada")) == 0
    printed = capsys.readouterr()
    words = printed.out.split()
    assert printed.err == "" and "<mask>" not in words
    model, tokenizer = (kind.from_pretrained(tiny_checkpoint) for kind in (AutoModelForCausalLM, AutoTokenizer))
    ids = tokenizer("one <mask> two <mask><mask><mask> is", return_tensors="pt")["input_ids"]
    assert printed.out.strip() == tokenizer.decode(model.infill(ids, preset="llada")[0], skip_special_tokens=True)


def test_infill_takes_a_number_of_forwards(capsys, tiny_checkpoint):
    text, flags = "one [MASK:3] two [MASK:2] is", ("--preset", "llada", "--steps", "2")
    assert main(infill(tiny_checkpoint, text, *flags)) == 0
    model, tokenizer = (kind.from_pretrained(tiny_checkpoint) for kind in (AutoModelForCausalLM, AutoTokenizer))
    ids = tokenizer("one" + "<mask>" * 3 + " two" + "<mask>" * 2 + " is", return_tensors="pt")["input_ids"]
    filled = model.infill(ids, preset="llada", steps=2)
    assert capsys.readouterr().out.strip() == tokenizer.decode(filled[0], skip_special_tokens=True)


@pytest.mark.parametrize(
    ("text", "flags", "named"),
    [
        ("one two", [], "no gap"),
        ("one \udcff [MASK]", [], "--text holds half of a surrogate pair"),
        ("one [MASK:0] two", [], "[MASK:0]"),
        ("one [MASK:three] two", [], "[MASK:three]"),
        ("one [MASK two", [], "[MASK"),
        ("one [MASK:99999999999999]", [], "[MASK:"),
        ("one [MASK:200]", [], "128"),
        ("one [MASK]", ["--threshold", "-1"], "threshold"),
        ("one [MASK]", ["--max-new-tokens", "4"], "max_new_tokens"),
        ("one [MASK:2]", ["--mask-token-id", "6"], "mask token"),
        ("one [MASK]", ["--mask-token-id", "999"], "mask token"),
        ("one [MASK]", ["--window-edge", "published"], "window_edge"),
        ("one [MASK]", ["--seed", str(2**64)], "at most 18446744073709551615"),
    ],
)
def test_infill_of_nonsense_takes_one_line(capsys, tiny_checkpoint, text, flags, named):
    assert named in run_fails(capsys, *infill(tiny_checkpoint, text, *flags))
