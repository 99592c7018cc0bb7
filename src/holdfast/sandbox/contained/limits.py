"""The walls around one contained process that every system has: limits, a user of its own, an audit hook.

Each wall stands by itself, so that what one platform lacks another still holds. Linux has all of them, and the kernel's
own (`call_filter.py`, `landlock.py`, `room.py`); elsewhere the limits and the audit hook remain.
"""

from __future__ import annotations

import _ctypes
import gc
import math
import os
import resource
import struct
import sys

from call_filter import WRITING, build_filter_program, filter_calls
from libc import KEEP_CAPABILITIES, LIBC, LINUX, call_prctl

__all__ = [
    "build_filter_program",
    "drop_capabilities",
    "drop_root",
    "filter_calls",
    "forget_native",
    "install_audit_hook",
    "open_to_all",
    "set_limits",
]

READ_ANY = 2  # CAP_DAC_READ_SEARCH


def set_limits(seconds: float, memory_mb: int, processes: int | None) -> None:
    """Hard limits on CPU seconds, address space, written bytes (none), open files, core dumps and processes."""
    cpu = math.ceil(seconds) + 1
    limits = {resource.RLIMIT_FSIZE: 0, resource.RLIMIT_NOFILE: 64, resource.RLIMIT_CORE: 0}
    if LINUX:
        limits[resource.RLIMIT_AS] = memory_mb << 20
    if processes is not None:
        limits[resource.RLIMIT_NPROC] = processes
    for what, most in limits.items():
        hard = resource.getrlimit(what)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (most, most))
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    if hard == resource.RLIM_INFINITY or hard > cpu:  # SIGXCPU first, so that SIGKILL means somebody else's
        resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu + 1))


def drop_root(user: int, reads_all: bool) -> bool:
    """As root: become `user`, who owns nothing. True if that happened.

    Args:
        user: An id nobody has; "nobody" is taken where ids are scarce (containers).
        reads_all: Keep the one capability to read every file: for the user's own functions, never for foreign code.
    """
    if os.geteuid() != 0:
        return False
    if reads_all:
        call_prctl(KEEP_CAPABILITIES, 1)
    for number in (user, 65534):
        try:
            os.setgroups([])
            os.setgid(number)
            os.setuid(number)
        except OSError:
            continue
        set_capabilities(1 << READ_ANY if reads_all else 0)
        return True
    return False


def drop_capabilities() -> None:
    """Give up what this process may do beyond an ordinary one, in its own user namespace too."""
    if LIBC is not None and not set_capabilities(0):
        raise OSError("capabilities cannot be given up")


def set_capabilities(bits: int) -> bool:
    """Make `bits` the effective and permitted capabilities; none can be inherited."""
    if LIBC is None:
        return False
    header = struct.pack("Ii", 0x20080522, 0)
    return LIBC.capset(header, struct.pack("6I", bits, bits, 0, 0, 0, 0)) == 0


def open_to_all(path: str) -> bool:
    """Whether everybody may read `path` and enter every directory above it."""
    path = os.path.realpath(path)
    if not os.path.exists(path):
        return True
    bits = 0o005 if os.path.isdir(path) else 0o004
    while os.stat(path).st_mode & bits == bits:
        if path == os.path.dirname(path):
            return True
        path, bits = os.path.dirname(path), 0o001
    return False


OUTWARD = """
    os.fork os.forkpty os.exec os.posix_spawn os.spawn os.system os.startfile pty.spawn subprocess.Popen os.kill
    os.killpg signal.pthread_kill os.remove os.rename os.rmdir os.mkdir os.chmod os.chown os.chflags os.link os.symlink
    os.truncate os.utime os.setxattr os.removexattr sqlite3.connect resource.setrlimit resource.prlimit
    sys.addaudithook cpython.PyInterpreterState_New
"""
INWARD = """
    gc.get_objects gc.get_referrers gc.get_referents sys._current_frames sys._current_exceptions sys.settrace
    sys.setprofile sys.monitoring.register_callback os.chdir
"""
# Audit events: those that reach out of the process; those that look around in it.
NATIVE = """
    ctypes _ctypes _testcapi _testinternalcapi _testlimitedcapi _xxsubinterpreters _interpreters _interpchannels
    readline pwd grp spwd nis syslog _gdbm _dbm _tkinter _curses
"""
"""Modules with which a program gets around the hook (memory, other interpreters) or reads files without being seen."""
OURS = (
    "limits", "libc", "call_filter", "landlock", "room", "caller", "exchange", "values", "standins", "program_side",
    "test_side",
)  # fmt: skip
"""The sandbox's own modules, whose names are free for those of a program."""


CACHED = [names for names in gc.get_objects() if type(names) is dict and names.get("CFuncPtr") is _ctypes.CFuncPtr]
"""Where `_ctypes` keeps its names: the module's, and the copy of them in the interpreter."""


def forget_native() -> None:
    """Empty `_ctypes`: Python would give it again without asking the hook. What holds its names keeps them.

    Once, in the interpreter that forks the programs: in each of them it would cost a copy of every page touched.
    """
    for names in CACHED:
        names.clear()


def forget_modules() -> None:
    """Take the sandbox's own modules, and what leads to the C library, out of where an import would find them."""
    for name in ("ctypes", "ctypes._endian", "_ctypes", *OURS):
        sys.modules.pop(name, None)


def install_audit_hook(read: tuple[str, ...] | None, strict: bool, has_filter: bool) -> None:
    """Refuse, from now on and for good, what Python itself reports as reaching out.

    Args:
        read: Path prefixes that may be read; `None`: all.
        strict: Also refuse looking around inside the process.
        has_filter: Whether the kernel's filter stands too; without it, modules that get around the hook are refused.
    """
    refused_events = frozenset((OUTWARD + INWARD if strict else OUTWARD).split())
    modules = set() if has_filter else {"_posixsubprocess", "_ctypes"}
    if strict:
        modules |= set(NATIVE.split())
        forget_modules()

    # Everything is a default argument: the program can neither rebind it nor reach it through a frame.
    def audit_event(
        event,
        args,
        events=refused_events,
        modules=frozenset(modules),
        read=read,
        strict=strict,
        writing=WRITING,
        harmless="socket.__new__" if has_filter else "",
        refusal=PermissionError,
        missing=ImportError,
        text=str,
        kind=type,
        raw=bytes,
        whole=int,
    ):
        if event == "open":
            path, flags = args[0], args[2]
            if flags & writing:
                raise refusal("the sandbox does not allow writing files")
            if read is not None and kind(path) is not whole:
                name = path.decode() if kind(path) is raw else path
                if kind(name) is not text or ".." in name or (name[:1] == "/" and not name.startswith(read)):
                    raise refusal("the sandbox does not allow reading this file")
        elif event == "import":
            name, path = args[0], args[1]
            if kind(name) is not text or name.rpartition(".")[2] in modules or name in modules:
                raise missing("the sandbox does not have this module")
            # an extension may be loaded under another name than its file has
            if path is not None and (kind(path) is not text or path.rpartition("/")[2].partition(".")[0] in modules):
                raise missing("the sandbox does not have this module")
        elif event in events or event.startswith("shutil.") or (strict and event.startswith("ctypes.")):
            raise refusal("the sandbox does not allow " + event)
        elif event.startswith("socket.") and event != harmless:
            raise refusal("the sandbox has no network")

    sys.addaudithook(audit_event)
