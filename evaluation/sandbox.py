"""
The inner part of `code_execution.py`: confines its own process, then runs the program from stdin.

A separate script that imports nothing from d3llm: `python -I sandbox.py RESULT_FD`. The first line of stdin is a JSON
object of settings, the rest is the program. The outcome is written to RESULT_FD as JSON. The layers, from outside in:

1. namespaces (`isolation="namespaces"`, Linux): no network, a separate process tree, and read-only files except for an
   empty working folder in memory; or a guard (`"guard"`, anywhere): an audit hook with the same rules for Python code.
2. resource limits: CPU time, memory, file size, open files, processes.
3. no privileges: root becomes a user that owns nothing, and the capabilities of the namespaces are dropped.
"""

import contextlib
import ctypes
import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from typing import Any


CLONE_NEWNS, CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 1 << 17, 1 << 27, 1 << 28, 1 << 29, 1 << 30
MS_NOSUID_NODEV, MS_PRIVATE_RECURSIVE = 0x2 | 0x4, 0x40000 | 0x4000
SYS_MOUNT_SETATTR, AT_RECURSIVE, MOUNT_ATTR_RDONLY = 442, 0x8000, 0x1  # the number is the same on all architectures
PR_SET_PDEATHSIG, PR_SET_KEEPCAPS, PR_SET_NO_NEW_PRIVS = 1, 8, 38
CAPABILITY_VERSION_3, CAP_DAC_READ_SEARCH = 0x20080522, 2
FREE_UIDS = range(60514, 61184)  # never assigned to users (systemd, "Users, Groups, UIDs and GIDs")

# Audit events that the guard refuses.
REFUSED_EVENTS = (
    "ctypes.dlopen", "ctypes.dlsym", "os.exec", "os.fork", "os.forkpty", "os.kill", "os.killpg", "os.posix_spawn",
    "os.spawn", "os.startfile", "os.system", "pty.spawn", "signal.pthread_kill", "socket.__new__", "subprocess.Popen",
)  # fmt: skip
# Their first arguments are paths that must be in the working folder, their last ones may be descriptors of folders.
PATHS_AND_FOLDERS_OF_EVENTS = {
    "os.chflags": (1, 0), "os.chmod": (1, 1), "os.chown": (1, 1), "os.link": (2, 2), "os.mkdir": (1, 1),
    "os.remove": (1, 1), "os.removexattr": (1, 0), "os.rename": (2, 2), "os.rmdir": (1, 1), "os.setxattr": (1, 0),
    "os.symlink": (2, 1), "os.truncate": (1, 0), "os.utime": (1, 1),
}  # fmt: skip


def main() -> None:
    settings = json.loads(sys.stdin.buffer.readline())
    program = sys.stdin.buffer.read().decode("utf-8")
    folder, result_fd = settings["folder"], int(sys.argv[1])
    uid = FREE_UIDS[os.getpid() % len(FREE_UIDS)] if os.getuid() == 0 else os.getuid()
    try:
        if settings["isolation"] == "namespaces":
            enter_namespaces(folder, settings["file_size"], uid)
            end_with_parent()  # this process too, because the inner one ends with it, not with our parent
            inner = os.fork()  # the first process of the new tree: when it ends, the kernel ends all others
            if inner:
                os.waitpid(inner, 0)
                return
        elif os.getuid() == 0:
            os.chown(folder, uid, -1)
        limit_resources(settings)
        drop_privileges(uid)
    except OSError as error:
        report(result_fd, settings, "unavailable", str(error))
        return
    if settings["isolation"] == "guard":
        sys.addaudithook(guard(os.path.realpath(folder)))
    run(program, settings, result_fd)


def run(program: str, settings: dict[str, Any], result_fd: int) -> None:
    """Runs the program and reports the outcome. Processes that it forked end without a report."""
    process = os.getpid()
    outcome, message = "failed", ""
    try:
        exec(compile(program, "<program>", "exec"), {"__name__": "__main__"})
        outcome = "passed"
    except SystemExit as error:
        message = f"SystemExit: {error}"
    except MemoryError:
        message = "MemoryError"
    except BaseException as error:
        message = f"{type(error).__name__}: {error}"[:1000]
    if os.getpid() == process:
        with contextlib.suppress(Exception):  # the program may have closed it
            sys.stdout.flush()
        report(result_fd, settings, outcome, message)
    os._exit(0)  # without waiting for threads


def report(result_fd: int, settings: dict[str, Any], outcome: str, message: str) -> None:
    os.write(result_fd, json.dumps({"token": settings["token"], "outcome": outcome, "message": message}).encode())


def enter_namespaces(folder: str, file_size: int, uid: int) -> None:
    """Enters new namespaces; raises an `OSError` if the system does not allow it."""
    gid = os.getgid()
    kinds = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC
    call("unshare", kinds if os.getuid() == 0 else kinds | CLONE_NEWUSER)
    if os.getuid() != 0:
        for name, content in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(content)
    call("mount", b"none", b"/", None, MS_PRIVATE_RECURSIVE, None)
    read_only = (ctypes.c_uint64 * 4)(MOUNT_ATTR_RDONLY, 0, 0, 0)  # struct mount_attr
    call("syscall", SYS_MOUNT_SETATTR, -1, b"/", AT_RECURSIVE, read_only, ctypes.sizeof(read_only))
    options = f"size={4 * file_size},nr_inodes=4096,mode=700,uid={uid}"
    call("mount", b"tmpfs", os.fsencode(folder), b"tmpfs", MS_NOSUID_NODEV, options.encode())
    os.chdir(folder)


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


def guard(folder: str) -> Callable[[str, tuple[Any, ...]], None]:
    """An audit hook that refuses processes, network, and changes of files outside the folder."""
    inside = folder + os.sep
    writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in REFUSED_EVENTS:
            raise PermissionError(f"{event} is not allowed here")
        if event == "open":
            path, mode, flags = arguments
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
