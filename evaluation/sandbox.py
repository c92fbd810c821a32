"""
The inner part of `code_execution.py`: confines its own process, then runs the program from stdin.

A separate script that imports nothing from d3llm: `python -I sandbox.py RESULT_FD`. The first line of stdin is a JSON
object of settings, the rest is the program. `TOKEN OUTCOME MESSAGE` is written to RESULT_FD. The layers, from outside
in:

1. namespaces (`isolation="namespaces"`, Linux): no network, no sockets, a separate process tree, and read-only files
   except for an empty working folder in memory; folders where others leave sockets and pipes are empty. Or a guard
   (`"guard"`, anywhere): an audit hook with the same rules for Python code.
2. resource limits: CPU time, memory, file size, open files, processes.
3. no privileges: root becomes a user that owns nothing, and the capabilities of the namespaces are dropped.

The token keeps a program from reporting in its own favour by Python's ordinary means. It is in the memory of the
program's process, where a search of that memory would find it.
"""

import contextlib
import ctypes
import errno
import importlib
import json
import os
import resource
import signal
import struct
import sys
from collections.abc import Callable
from typing import Any


CLONE_NEWNS, CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 1 << 17, 1 << 27, 1 << 28, 1 << 29, 1 << 30
MS_NOSUID_NODEV, MS_PRIVATE_RECURSIVE = 0x2 | 0x4, 0x40000 | 0x4000
# Read-only files stop neither a connection to a socket nor writing to a pipe, so these are covered.
SHARED_FOLDERS = ("/run", "/var/run", "/tmp", "/var/tmp", "/dev/shm")
SYS_MOUNT_SETATTR, AT_RECURSIVE, MOUNT_ATTR_RDONLY = 442, 0x8000, 0x1  # the number is the same on all architectures
PR_SET_PDEATHSIG, PR_SET_KEEPCAPS, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 8, 22, 38
SECCOMP_MODE_FILTER, SECCOMP_ALLOW, SECCOMP_EACCES = 2, 0x7FFF0000, 0x50000 | errno.EACCES
# The number of the machine (linux/audit.h), and those of its system calls `socket` and `socketpair`.
SOCKET_CALLS = {"x86_64": (0xC000003E, 41, 53), "aarch64": (0xC00000B7, 198, 199), "riscv64": (0xC00000F3, 198, 199)}
IO_URING_SETUP, X32_CALLS, SOCK_STREAM = 425, 1 << 30, 1  # the first two are other ways to the same calls
BPF_LOAD, BPF_AND, BPF_IF_EQUAL, BPF_IF_AT_LEAST, BPF_RETURN = 0x20, 0x54, 0x15, 0x35, 0x06  # linux/bpf_common.h
CAPABILITY_VERSION_3, CAP_DAC_READ_SEARCH = 0x20080522, 2
FREE_UIDS = range(60514, 61184)  # never assigned to users (systemd, "Users, Groups, UIDs and GIDs")

# Audit events that the guard refuses.
REFUSED_EVENTS = (
    "ctypes.dlopen", "ctypes.dlsym", "os.exec", "os.fork", "os.forkpty", "os.kill", "os.killpg", "os.posix_spawn",
    "os.spawn", "os.startfile", "os.system", "pty.spawn", "resource.prlimit", "signal.pthread_kill", "socket.__new__",
    "socket.connect", "socket.getaddrinfo", "socket.gethostbyaddr", "socket.gethostbyname", "socket.sendmsg",
    "socket.sendto", "sqlite3.connect", "subprocess.Popen", "syslog.openlog", "syslog.syslog",
)  # fmt: skip
# What starts processes, or makes files and signals elsewhere, without an audit event.
REPLACED_FUNCTIONS = ("fork_exec", "mkfifo", "mknod", "pidfd_send_signal", "shm_open")
REPLACED_MODULES = ("_posixshmem", "_posixsubprocess", "_signal", "posix", "os", "signal")
# Of the same kind; audit hooks are not those of another interpreter. The functions of the last four are replaced.
REFUSED_MODULES = (
    "_dbm", "_gdbm", "_interpreters", "_tkinter", "_xxsubinterpreters", "readline", *REPLACED_MODULES[:4],
)  # fmt: skip
# Events whose first arguments are paths that must be in the working folder, and last ones descriptors of folders.
PATHS_AND_FOLDERS_OF_EVENTS = {
    "os.chflags": (1, 0), "os.chmod": (1, 1), "os.chown": (1, 1), "os.link": (2, 2), "os.mkdir": (1, 1),
    "os.remove": (1, 1), "os.removexattr": (1, 0), "os.rename": (2, 2), "os.rmdir": (1, 1), "os.setxattr": (1, 0),
    "os.symlink": (2, 1), "os.truncate": (1, 0), "os.utime": (1, 1),
}  # fmt: skip


def main() -> None:
    settings = json.loads(sys.stdin.buffer.readline())
    program = sys.stdin.buffer.read().decode("utf-8")
    result_fd = int(sys.argv[1])
    sys.argv[:] = ["<program>"]
    # While the program runs, the token and `os.write` are operands that have been evaluated already: unlike variables,
    # they can neither be read in a frame nor replaced.
    os.write(result_fd, b"%b %b" % (settings.pop("token").encode(), outcome_of(program, settings)))
    os._exit(0)  # without waiting for threads


def outcome_of(program: str, settings: dict[str, Any]) -> bytes:
    """Confines this process, then runs the program; returns the outcome and a message."""
    folder = settings["folder"]
    uid = FREE_UIDS[os.getpid() % len(FREE_UIDS)] if os.getuid() == 0 else os.getuid()
    try:
        if settings["isolation"] == "namespaces":
            enter_namespaces(folder, settings["home"], settings["file_size"], uid)
            end_with_parent()  # this process too, because the inner one ends with it, not with our parent
            inner = os.fork()  # the first process of the new tree: when it ends, the kernel ends all others
            if inner:
                os.waitpid(inner, 0)
                os._exit(0)
        elif os.getuid() == 0:
            os.chown(folder, uid, -1)
        limit_resources(settings)
        drop_privileges(uid)
        if settings["isolation"] == "namespaces":
            refuse_sockets()
    except OSError as error:
        return b"unavailable " + str(error).encode()
    if settings["isolation"] == "guard":
        replace_functions()
        sys.addaudithook(guard(os.path.realpath(folder)))
    # the functions are looked up before the program can replace them
    pid, end, process, outcome = os.getpid, os._exit, os.getpid(), run(program)
    if pid() != process:
        end(0)  # a process that the program forked: it ends without a report
    with contextlib.suppress(BaseException):  # the program may have closed or replaced it
        sys.stdout.flush()
    return outcome


def run(program: str) -> bytes:
    """Runs the program; returns the outcome and a message."""
    try:
        exec(compile(program, "<program>", "exec"), {"__name__": "__main__"})
    except MemoryError:
        return b"failed MemoryError"
    except BaseException as error:
        return b"failed %b" % describe(error)
    return b"passed "


def describe(error: BaseException) -> bytes:
    """The start of what is told of an error, short enough to be written to a pipe at once."""
    try:
        return f"{type(error).__name__}: {error}"[:1000].encode("utf-8", "replace")
    except BaseException as second:  # the program's own classes say what their names and texts are
        return b"an exception whose text raises %b" % type.__repr__(type(second)).encode("utf-8", "replace")


def enter_namespaces(folder: str, home: str, file_size: int, uid: int) -> None:
    """Enters new namespaces; raises an `OSError` if the system does not allow it."""
    gid = os.getgid()
    kinds = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC
    call("unshare", kinds if os.getuid() == 0 else kinds | CLONE_NEWUSER)
    if os.getuid() != 0:
        for name, content in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(content)
    call("mount", b"none", b"/", None, MS_PRIVATE_RECURSIVE, None)
    for covered in folders_to_cover((*SHARED_FOLDERS, home, os.path.dirname(folder))):
        if os.path.isdir(covered):  # it may have been in one that is covered by now
            call("mount", b"tmpfs", os.fsencode(covered), b"tmpfs", MS_NOSUID_NODEV, b"mode=755")
    os.makedirs(folder, exist_ok=True)
    read_only = (ctypes.c_uint64 * 4)(MOUNT_ATTR_RDONLY, 0, 0, 0)  # struct mount_attr
    call("syscall", SYS_MOUNT_SETATTR, -1, b"/", AT_RECURSIVE, read_only, ctypes.sizeof(read_only))
    options = f"size={4 * file_size},nr_inodes=4096,mode=700,uid={uid}"
    call("mount", b"tmpfs", os.fsencode(folder), b"tmpfs", MS_NOSUID_NODEV, options.encode())
    os.chdir(folder)


def folders_to_cover(folders: tuple[str, ...]) -> list[str]:
    """Those that hold nothing of Python's own, from outer to inner."""
    own = [os.path.join(os.path.realpath(path), "") for path in (sys.prefix, *sys.path) if os.path.isdir(path)]
    real = {os.path.realpath(folder) for folder in folders}
    return sorted(path for path in real if not any(file.startswith(os.path.join(path, "")) for file in own))


def limit_resources(settings: dict[str, Any]) -> None:
    limits = {
        "RLIMIT_AS": settings["memory"],
        "RLIMIT_CPU": int(settings["timeout"]) + 1,
        "RLIMIT_CORE": 0,
        "RLIMIT_FSIZE": settings["file_size"],
        "RLIMIT_NOFILE": 64,
    }
    if (
        settings["isolation"] == "namespaces" or os.getuid() == 0
    ):  # otherwise it would count the user's other processes
        limits["RLIMIT_NPROC"] = settings["processes"]
    for name, value in limits.items():
        hard = resource.getrlimit(getattr(resource, name))[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        try:
            resource.setrlimit(getattr(resource, name), (value, value))
        except (ValueError, OSError):
            if sys.platform == "linux":
                raise
            # macOS cannot limit the address space


def drop_privileges(uid: int) -> None:
    if sys.platform != "linux":
        if os.getuid() == 0:
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
        return
    if os.getuid() == 0:
        call("prctl", PR_SET_KEEPCAPS, 1, 0, 0, 0)
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        set_capabilities(permitted=1 << CAP_DAC_READ_SEARCH, effective=0)
        try:
            open(os.__file__).close()
            set_capabilities(permitted=0, effective=0)
        except PermissionError:  # the interpreter is in a folder of root: allow reading everywhere, but no writing
            set_capabilities(permitted=1 << CAP_DAC_READ_SEARCH, effective=1 << CAP_DAC_READ_SEARCH)
    else:
        set_capabilities(permitted=0, effective=0)
    call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    end_with_parent()  # last, because changing the user resets it


def refuse_sockets() -> None:
    """
    Refuses to make sockets: a namespace of the network covers neither those in files nor those of a virtual machine's
    host. Pairs of connected sockets are allowed: asyncio needs them.
    """
    if os.uname().machine not in SOCKET_CALLS:
        raise OSError(errno.ENOSYS, f"no rules for sockets on {os.uname().machine}")
    machine, create, pair = SOCKET_CALLS[os.uname().machine]
    # (instruction, value, how many instructions to skip if true, and if false); offsets are those of `seccomp_data`
    rules = [
        (BPF_LOAD, 4, 0, 0),  # the machine
        (BPF_IF_EQUAL, machine, 0, 8),
        (BPF_LOAD, 0, 0, 0),  # the system call
        (BPF_IF_AT_LEAST, X32_CALLS, 6, 0),
        (BPF_IF_EQUAL, IO_URING_SETUP, 5, 0),
        (BPF_IF_EQUAL, create, 4, 0),
        (BPF_IF_EQUAL, pair, 0, 4),
        (BPF_LOAD, 24, 0, 0),  # its second argument; datagrams of a pair may be sent elsewhere
        (BPF_AND, 0xF, 0, 0),
        (BPF_IF_EQUAL, SOCK_STREAM, 1, 0),
        (BPF_RETURN, SECCOMP_EACCES, 0, 0),
        (BPF_RETURN, SECCOMP_ALLOW, 0, 0),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", op, yes, no, k) for op, k, yes, no in rules))
    program = ctypes.create_string_buffer(struct.pack("HP", len(rules), ctypes.addressof(code)))  # struct sock_fprog
    call("prctl", PR_SET_SECCOMP, SECCOMP_MODE_FILTER, program, 0, 0)


def end_with_parent() -> None:
    call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def set_capabilities(permitted: int, effective: int) -> None:
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    data = (ctypes.c_uint32 * 6)(effective, permitted, 0, 0, 0, 0)
    call("capset", header, data)


def call(name: str, *arguments: Any) -> None:
    """Calls a function of the C library; raises an `OSError` if it fails."""
    function = getattr(ctypes.CDLL(None, use_errno=True), name)
    if function(*(ctypes.c_long(value) if isinstance(value, int) else value for value in arguments)) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")


def replace_functions() -> None:
    """Replaces the functions of Python that an audit hook does not hear of, for the guard."""
    for module in REPLACED_MODULES:
        with contextlib.suppress(ImportError):
            loaded = importlib.import_module(module)
            for name in REPLACED_FUNCTIONS:
                if hasattr(loaded, name):
                    setattr(loaded, name, refuse)
    os.supports_dir_fd.clear()  # so that shutil and tempfile do without


def refuse(*arguments: Any, **options: Any) -> None:
    raise PermissionError("this function is not allowed here")


def guard(folder: str) -> Callable[[str, tuple[Any, ...]], None]:
    """
    An audit hook that refuses processes, network, and changes of files outside the folder.

    It is no wall. It hears of what Python's own functions do, not of what `ctypes`, an extension module or a function
    of C does on its own; it does not limit threads, and does not hide files.
    """
    inside = folder + os.sep
    writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in REFUSED_EVENTS:
            raise PermissionError(f"{event} is not allowed here")
        if event == "import" and arguments[0] in REFUSED_MODULES:
            raise ImportError(f"{arguments[0]} is not allowed here")
        if event == "open":
            path, mode, flags = arguments
            if mode is None and os.path.isdir(path):  # `os.open`; its event does not tell a `dir_fd`
                raise PermissionError(f"{event} of the folder {path!r} is not allowed here")
            if not (flags & writing or (mode and set(mode) & set("wax+"))):
                return
            paths = [path]
        elif event in PATHS_AND_FOLDERS_OF_EVENTS:
            paths_of_event, folders = PATHS_AND_FOLDERS_OF_EVENTS[event]
            paths = list(arguments[:paths_of_event])
            if any(descriptor >= 0 for descriptor in arguments[len(arguments) - folders :]):
                raise PermissionError(f"{event} with a `dir_fd` is not allowed here")
        else:
            return
        for path in paths:
            if isinstance(path, int) or os.fsdecode(path) == os.devnull:
                continue
            path = os.path.realpath(os.fsdecode(path))
            if path != folder and not path.startswith(inside):
                raise PermissionError(f"{event} of {path!r} is not allowed here")

    return hook


if __name__ == "__main__":
    main()
