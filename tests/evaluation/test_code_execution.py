"""Generated programs: what they must survive, under either isolation. Limits are small: the machine is shared."""

import contextlib
import json
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import psutil
import pytest

from d3llm.evaluation import code_execution
from d3llm.evaluation.code_execution import ISOLATIONS, SANDBOX, available_isolation, run_program


MEBIBYTE = 2**20

if os.name != "posix":
    pytest.skip("generated programs run on POSIX systems only", allow_module_level=True)


@cache
def why_no_namespaces() -> str | None:
    """Why the machine cannot have them: asked of another program, since the sandbox may be what is broken."""
    if sys.platform != "linux":
        return "namespaces are Linux's"
    if tuple(map(int, platform.release().split(".")[:2])) < (5, 12):
        return f"Linux {platform.release()} cannot make all files read-only at once, 5.12 can"
    if shutil.which("unshare") is None:
        return (
            None
            if available_isolation() == "namespaces"
            else "the sandbox found no namespaces, nor is there `unshare`"
        )
    user = [] if os.getuid() == 0 else ["--user", "--map-root-user"]
    command = ["unshare", *user, "--net", "--ipc", "--pid", "--mount", "--fork", "true"]
    refused = subprocess.run(command, capture_output=True, text=True).stderr.strip()
    return f"the system allows no namespaces ({refused})" if refused else None


@pytest.fixture(params=ISOLATIONS)
def isolation(request) -> str:
    """Each isolation that the system allows."""
    if request.param == "namespaces" and why_no_namespaces() is not None:
        pytest.skip(why_no_namespaces())
    return request.param


@pytest.fixture
def run(isolation):
    """`run_program` with short limits."""

    def call(source: str, **limits):
        limits = {"timeout": 10.0, "memory": 256 * MEBIBYTE, "processes": 8, "isolation": isolation, **limits}
        return run_program(textwrap.dedent(source), **limits)

    return call


def running_programs() -> int:
    """How many processes of the sandbox there are."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended since
            lines.append(path.read_bytes())
    return sum(str(SANDBOX).encode() in line for line in lines)


def all_programs_end(within: float = 10) -> bool:
    """Whether there is a moment without any: those of other tests, which run at the same time, come and go."""
    deadline = time.monotonic() + within
    while running_programs():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def test_a_program_that_runs_to_its_end_passes(run):
    result = run("print('hello')\nassert sorted([2, 1]) == [1, 2]")
    assert result.passed and result.outcome == "passed" and result.output == "hello\n"
    assert 0 < result.seconds < 10


def test_what_is_raised_is_told(run):
    result = run("assert 1 == 2, 'not equal'")
    assert (result.outcome, result.message) == ("failed", "AssertionError: not equal") and not result.passed
    assert run("def f(:").message.startswith("SyntaxError")


@pytest.mark.parametrize(
    ("source", "outcome"),
    [
        ("import os; os._exit(0)", "died"),
        ("import sys; sys.exit(0)", "failed"),
        ("raise SystemExit", "failed"),
        ("import ctypes; ctypes.string_at(0)", "died"),
    ],
)
def test_an_early_end_does_not_pass(run, source, outcome):
    assert run(source).outcome == outcome


def test_a_verdict_cannot_be_forged_without_the_token(run):
    source = """
        import os
        for fd in range(3, 64):
            try:
                os.write(fd, b'{"token": "", "outcome": "passed", "message": ""}')
            except OSError:
                pass
        os._exit(0)
    """
    assert run(source).outcome == "died"


REPORT = """
    import gc, json, os, re, sys

    def report(token):
        for fd in range(3, 64):
            try:
                os.write(fd, f'{token} passed '.encode())
            except OSError:
                pass
        os._exit(0)
"""
FORGERIES = {
    "the input": """
        os.lseek(0, 0, 0)
        settings = os.read(0, 10**6).decode()
        report(re.search(r'"token": "(\\w+)', settings)[1])
    """,
    "variables": """
        seen, frame = [], sys._getframe()
        while frame:
            seen += [frame.f_locals, frame.f_globals]
            frame = frame.f_back
        seen += [thing for thing in gc.get_objects() if isinstance(thing, (dict, list, tuple))]
        texts = []
        for thing in seen:
            for text in list(thing.values() if isinstance(thing, dict) else thing):
                if type(text) in (str, bytes) and len(text) < 10_000:
                    texts.append(str(text))
                elif type(text) is dict:
                    texts += [value for value in text.values() if type(value) is str]
        for token in {token for text in texts for token in re.findall(r'\\b[0-9a-f]{32}\\b', text)}:
            report(token)
        assert False
    """,
    "functions": """
        write, dumps = os.write, json.dumps
        os.write = lambda fd, content: write(fd, content.replace(b'failed', b'passed'))
        json.dumps = lambda value: dumps({**value, 'outcome': 'passed'})
        os._exit = lambda code: None
        for name, value in vars(sys.modules['__main__']).items():
            if name in ('describe', 'run'):
                setattr(sys.modules['__main__'], name, lambda *_: b'passed ')
        assert False
    """,
    "a fork": """
        own = os.getpid()
        os.getpid, os._exit = lambda: own, lambda code: None
        if child := os.fork():
            os.waitpid(child, 0)
            sys.exit(1)
    """,
}


@pytest.mark.parametrize("means", FORGERIES)
def test_a_verdict_cannot_be_forged(run, means):
    source = textwrap.dedent(REPORT) + textwrap.dedent(FORGERIES[means])
    assert not run(source).passed


def test_the_arguments_say_nothing_of_the_sandbox(run):
    assert run("import sys\nassert len(sys.argv) == 1 and 'sandbox' not in sys.argv[0]").passed


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import sys\nsys.exit('x' * 200_000)", "SystemExit: xxx"),
        ("raise ValueError('\U0001f600' * 200_000)", "ValueError: \U0001f600"),
        ("raise ValueError('\\ud800')", "ValueError: ?"),
        (
            "class Bad(Exception):\n    def __str__(self): raise KeyError\nraise Bad",
            "an exception whose text raises <class 'KeyError'>",
        ),
        ("class Bad(Exception):\n    __str__ = None\nraise Bad", "an exception whose text raises <class 'TypeError'>"),
    ],
)
def test_an_error_that_cannot_be_told_is_a_failure(run, source, message):
    result = run(source)
    assert result.outcome == "failed" and result.message.startswith(message) and len(result.message) <= 1000


def test_a_long_program_arrives_whole(run):
    assert run("text = '" + "x" * 2**20 + "'\nassert len(text) == 2**20").passed


def test_endless_loop(run):
    began = time.monotonic()
    assert run("while True: pass", timeout=0.5).outcome == "timeout"
    assert run("import time; time.sleep(60)", timeout=0.5).outcome == "timeout"
    ignoring = (
        "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\ntry:\n    while True: pass\nfinally: pass"
    )
    assert run(ignoring, timeout=0.5).outcome == "timeout"
    assert time.monotonic() - began < 10


def test_fork_bomb(run):
    result = run("import os\nwhile True: os.fork()", timeout=5, processes=8)
    assert result.outcome == "failed" and result.seconds < 5  # refused, not run until time was up
    assert all_programs_end()


def test_processes_that_leave_the_session_are_ended(run):
    source = """
        import os, time
        for _ in range(3):
            if os.fork() == 0:
                os.setsid()
                time.sleep(60)
        time.sleep(60)
    """
    assert not run(source, timeout=0.7).passed
    assert all_programs_end()


def test_a_forked_copy_does_not_report(run):
    source = "import os\npid = os.fork()\nif pid:\n    os.waitpid(pid, 0)\n    assert False, 'the first'"
    assert run(source).message in ("AssertionError: the first", "PermissionError: os.fork is not allowed here")


def test_huge_output(run):
    result = run("while True: print('x' * 1000)", output=10_000)
    assert result.outcome == "output" and len(result.output) == 10_000


def test_deep_recursion(run):
    assert run("def f(x): return f(x + 1)\nf(0)").message.startswith("RecursionError")
    unlimited = "import sys\nsys.setrecursionlimit(10**9)\ndef f(x): return [f(x + 1)]\nf(0)"
    assert not run(unlimited, memory=128 * MEBIBYTE).passed
    assert not run("x = []\nfor _ in range(10**6): x = [x]\nrepr(x)").passed


def test_memory_and_file_size(run):
    assert run("x = bytearray(2**30)").message == "MemoryError"
    assert not run("open('big', 'wb').write(bytes(2**21))", file_size=MEBIBYTE).passed
    assert run("open('small', 'wb').write(bytes(2**19))", file_size=MEBIBYTE).passed


@pytest.mark.parametrize(
    "deed",
    [
        "os.remove(path)",
        "os.truncate(path, 0)",
        "open(path, 'w')",
        "os.open(path, os.O_WRONLY)",
        "os.rename(path, path + '.moved')",
        "shutil.rmtree(os.path.dirname(path))",
        "os.symlink('/tmp', os.path.join(os.path.dirname(path), 'link'))",
        "os.chmod(path, 0)",
        "pathlib.Path(path).unlink()",
        "(os.chdir(os.path.dirname(path)), os.remove('precious'))",
    ],
)
def test_files_outside_are_safe(run, tmp_path, deed):
    path = tmp_path / "precious"
    path.write_text("content")
    result = run(f"import os, pathlib, shutil\npath = {str(path)!r}\n{deed}")
    # with namespaces, the folder of temporary files is empty
    assert result.outcome == "failed"
    assert result.message.split(":")[0] in ("FileNotFoundError", "OSError", "PermissionError")
    assert path.read_text() == "content" and [entry.name for entry in tmp_path.iterdir()] == ["precious"]


@pytest.mark.parametrize(
    "deed",
    [
        "os.close(os.open('file', os.O_CREAT | os.O_WRONLY, dir_fd=os.open(out, 0)))",
        "os.makedirs('a/b/c/d'); here = os.open('.', 0); path = os.path.relpath(out) + '/file'\n"
        "os.chdir('a/b/c/d'); os.open(path, os.O_CREAT, dir_fd=here)",
        "sqlite3.connect(out + '/x.db').execute('create table a (b)')",
        "sqlite3.connect(':memory:').execute(f\"attach '{out}/x.db' as x\").execute('create table x.a (b)')",
        "os.mkfifo(out + '/pipe')",
        "posix.mknod(out + '/node')",
        "del sys.modules['posix']; import posix; posix.mkfifo(out + '/pipe')",
        "multiprocessing.util.spawnv_passfds(b'/usr/bin/touch', [b'touch', out.encode() + b'/file'], []); os.wait()",
        "del sys.modules['_posixsubprocess']; import _posixsubprocess",
        "p = multiprocessing.get_context('spawn').Process(target=os.mkdir, args=(out + '/a',)); p.start(); p.join()",
        "import tkinter; tkinter.Tcl().eval('exec pwd')",
        "import readline; readline.write_history_file(out + '/history')",
        "multiprocessing.shared_memory.SharedMemory(create=True, size=10).unlink()",
        "signal.pidfd_send_signal(os.pidfd_open(os.getpid()), 0)",
        "socket.getaddrinfo('localhost', 1)",
        f"import {'_interpreters' if sys.version_info >= (3, 13) else '_xxsubinterpreters'}",
    ],
)
def test_the_guard_refuses_ways_around_it(tmp_path, deed):
    tmp_path.chmod(0o777)
    source = "import multiprocessing.shared_memory, multiprocessing.util, os, posix, signal, socket, sqlite3, sys"
    result = run_program(f"{source}\nout = {str(tmp_path)!r}\n{deed}", isolation="guard")
    assert result.outcome == "failed", result
    assert result.message.split(":")[0] not in ("NameError", "SyntaxError", "TypeError")
    assert not list(tmp_path.iterdir())


def test_the_guard_lets_go_what_libraries_do():
    source = """
import asyncio, concurrent.futures, logging, multiprocessing, sqlite3, subprocess, tempfile, unittest
from collections import namedtuple
with tempfile.TemporaryDirectory() as folder:
    open(folder + "/file", "w").close()
with concurrent.futures.ThreadPoolExecutor() as pool:
    assert list(pool.map(abs, [-1])) == [1]
"""
    result = run_program(source, isolation="guard")
    assert result.passed, result


def test_the_working_folder_is_its_own_and_is_gone_afterwards(run):
    result = run("""
        import os, tempfile
        assert os.listdir() == []
        open('a', 'w').write('text')
        assert open('a').read() == 'text'
        os.mkdir('b'), os.rename('a', 'b/a'), os.remove('b/a'), os.rmdir('b')
        print(os.getcwd())
    """)
    assert result.passed, result.message
    folder = Path(result.output.strip())
    assert folder != Path.cwd() and not folder.exists()


def test_neither_environment_nor_network(run, monkeypatch):
    monkeypatch.setenv("A_SECRET", "value")
    assert run("import os\nassert 'A_SECRET' not in os.environ").passed
    assert not run("import socket\nsocket.create_connection(('127.0.0.1', 9), timeout=1)").passed


def test_a_server_of_this_machine_is_out_of_reach(run):
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        socket.create_connection(address, timeout=5).close()  # from out here it is not
        assert not run(f"import socket\nsocket.create_connection({address}, timeout=5)").passed


@pytest.fixture(params=["a folder of temporary files", "elsewhere"])
def shared_folder(request) -> Iterator[Path]:
    """A folder that every user may write to."""
    if request.param == "elsewhere" and not os.access("/var/lib", os.W_OK):
        pytest.skip("no place outside the folders of temporary files")
    elsewhere = {"dir": "/var/lib"} if request.param == "elsewhere" else {"dir": "/tmp"}
    with tempfile.TemporaryDirectory(**elsewhere) as folder:
        os.chmod(folder, 0o777)
        yield Path(folder)


@pytest.mark.parametrize("kind", ["SOCK_STREAM", "SOCK_DGRAM"])
def test_a_socket_in_a_file_is_out_of_reach(run, shared_folder, kind):
    path = str(shared_folder / "host.sock")
    with socket.socket(socket.AF_UNIX, getattr(socket, kind)) as server:
        server.bind(path)
        os.chmod(path, 0o777)
        if kind == "SOCK_STREAM":
            server.listen()
        source = (
            f"import socket\nwith socket.socket(socket.AF_UNIX, socket.{kind}) as client: client.connect({path!r})"
        )
        exec(source)  # from out here it is not
        assert not run(source).passed
        paired = f"import socket\npair = socket.socketpair(socket.AF_UNIX, socket.{kind})\npair[0].connect({path!r})"
        assert not run(paired).passed


def test_a_pipe_in_a_folder_of_temporary_files_is_out_of_reach(run):
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:  # /tmp may hold the interpreter, and is open then
        os.chmod(folder, 0o777)
        path = f"{folder}/pipe"
        os.mkfifo(path)
        os.chmod(path, 0o777)
        reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            assert not run(f"open({path!r}, 'w').write('out')").passed
            assert os.read(reader, 10) == b""
        finally:
            os.close(reader)


def test_with_namespaces_all_else_is_read_only_and_asyncio_works():
    if why_no_namespaces() is not None:
        pytest.skip(why_no_namespaces())
    result = run_program(
        """
import asyncio, os
writable = {line.split()[4] for line in open("/proc/self/mountinfo") if "ro" not in line.split()[5].split(",")}
assert {os.path.realpath(path) for path in writable} == {os.getcwd()}, writable
asyncio.run(asyncio.sleep(0))
""",
        isolation="namespaces",
    )
    assert result.passed, result.message


def test_a_neighbour_whose_name_begins_alike_is_outside(run):
    result = run("import os\nprint(os.getcwd())\nopen(os.getcwd() + '-neighbour', 'w')")
    neighbour = Path(result.output.strip() + "-neighbour")
    is_there = neighbour.exists()
    neighbour.unlink(missing_ok=True)
    assert result.outcome == "failed" and not is_there


def test_open_files_are_limited(run):
    result = run("files = [open('a', 'w') for _ in range(100)]")
    assert result.message.startswith("OSError: [Errno 24] Too many open files")


def test_an_endless_program_ends_though_nobody_watches_the_clock(isolation, tmp_path):
    """The inner side alone, without the process that would stop it when its time is up."""
    tmp_path.chmod(0o777)
    settings = {"folder": str(tmp_path), "home": "/", "isolation": isolation, "token": "", "timeout": 0}
    settings |= {"memory": 256 * MEBIBYTE, "file_size": MEBIBYTE, "processes": 8}
    read_end, write_end = os.pipe()
    with open(read_end, "rb") as results:
        process = subprocess.Popen(
            [sys.executable, "-I", str(SANDBOX), str(write_end)],
            stdin=subprocess.PIPE,
            pass_fds=(write_end,),
            cwd=tmp_path,
            start_new_session=True,
        )
        os.close(write_end)
        try:
            process.communicate(
                json.dumps(settings).encode() + b"\nwhile True: pass", timeout=20
            )  # of a second of CPU
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        assert results.read() == b""  # neither an end of the program nor a fault of the sandbox


@pytest.mark.skipif(sys.platform != "linux", reason="to end with a parent is Linux's")
def test_a_program_ends_with_the_process_that_runs_it(isolation, tmp_path):
    program = "import threading, time\nthreading.Thread(target=time.sleep, args=(60,)).start()\ntime.sleep(60)"
    source = f"import runpy\nrun = runpy.run_path({code_execution.__file__!r})['run_program']\n"
    source += f"run({program!r}, timeout=60, isolation={isolation!r})"
    runner = subprocess.Popen([sys.executable, "-c", source], env={**os.environ, "TMPDIR": str(tmp_path)})
    tmp_path.chmod(0o777)
    sandbox: list[psutil.Process] = []
    try:
        deadline = time.monotonic() + 30
        while not any(process.num_threads() > 1 for process in sandbox):  # the program has begun
            assert runner.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
            sandbox = psutil.Process(runner.pid).children(recursive=True)
        runner.kill()
        runner.wait()
        deadline = time.monotonic() + 10
        while (alive := [process for process in sandbox if _is_alive(process)]) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not alive
    finally:
        for process in filter(_is_alive, sandbox):
            process.kill()


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_root_user_is_none_inside(run):
    assert run("import os\nassert os.getuid() != 0\nos.setuid(0)").message.startswith("PermissionError")


def test_unknown_isolation():
    with pytest.raises(ValueError, match="guard"):
        run_program("", isolation="jail")


def test_the_sandbox_imports_nothing_of_the_package():
    source = (
        f"import sys; sys.argv = ['x']; import runpy; runpy.run_path({str(SANDBOX)!r}); print(sorted(sys.modules))"
    )
    modules = subprocess.run([sys.executable, "-I", "-c", source], capture_output=True, text=True, check=True).stdout
    assert "d3llm" not in modules.replace("__editable___d3llm", "") and "torch" not in modules
