"""The walls around one contained process: resource limits, an unprivileged user, a system-call filter, an audit hook.

Each wall stands by itself, so that what one platform lacks another still holds. Linux has all of them; elsewhere the
limits and the audit hook remain.
"""

from __future__ import annotations

import ctypes
import math
import os
import resource
import signal
import struct
import sys

LINUX = sys.platform == "linux"
LIBC = ctypes.CDLL(None, use_errno=True) if LINUX else None

NEW_NETWORK, NEW_USER = 0x40000000, 0x10000000
DEATH_SIGNAL, KEEP_CAPABILITIES, SECCOMP, NO_NEW_PRIVILEGES = 1, 8, 22, 38  # prctl options
READ_ANY = 2  # CAP_DAC_READ_SEARCH
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

# name: (x86_64, aarch64); None where the architecture has no such call
REFUSED_CALLS = {
    "socket": (41, 198), "connect": (42, 203), "bind": (49, 200), "listen": (50, 201),
    "fork": (57, None), "vfork": (58, None), "execve": (59, 221), "execveat": (322, 281),
    "kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131), "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240), "pidfd_send_signal": (424, 424), "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
    "setsid": (112, 157), "setpgid": (109, 154), "unshare": (272, 97), "setns": (308, 268), "ptrace": (101, 117),
    "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272),
    "creat": (85, None), "rename": (82, None), "renameat": (264, 38), "renameat2": (316, 276), "mkdir": (83, None),
    "mkdirat": (258, 34), "rmdir": (84, None), "link": (86, None), "linkat": (265, 37), "unlink": (87, None),
    "unlinkat": (263, 35), "symlink": (88, None), "symlinkat": (266, 36), "mknod": (133, None), "mknodat": (259, 33),
    "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452), "chown": (92, None),
    "fchown": (93, 55), "lchown": (94, None), "fchownat": (260, 54), "truncate": (76, 45), "ftruncate": (77, 46),
    "utime": (132, None), "utimes": (235, None), "utimensat": (280, 88), "futimesat": (261, None),
    "setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7),
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "memfd_create": (319, 279),
    "shmget": (29, 194), "msgget": (68, 186), "semget": (64, 190), "mq_open": (240, 180),
    "bpf": (321, 280), "userfaultfd": (323, 282), "io_uring_setup": (425, 425), "perf_event_open": (298, 241),
    "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219), "init_module": (175, 105),
    "finit_module": (313, 273), "delete_module": (176, 106), "kexec_load": (246, 104),
}  # fmt: skip
CLONE, CLONE3, OPEN, OPENAT, OPENAT2, PRLIMIT = (56, 220), (435, 435), (2, None), (257, 56), (437, 437), (302, 261)
MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column above, AUDIT_ARCH


def leave_network() -> bool:
    """Move this process into a network namespace with nothing in it; False where that is not permitted."""
    if LIBC is None:
        return False
    return LIBC.unshare(NEW_NETWORK if os.geteuid() == 0 else NEW_NETWORK | NEW_USER) == 0


def limit(seconds: float, memory_mb: int, processes: int | None) -> None:
    """Hard limits on CPU seconds, address space, written bytes (none), open files, core dumps and processes."""
    cpu = math.ceil(seconds) + 1
    limits = {resource.RLIMIT_CPU: cpu, resource.RLIMIT_FSIZE: 0, resource.RLIMIT_NOFILE: 64, resource.RLIMIT_CORE: 0}
    if LINUX:
        limits[resource.RLIMIT_AS] = memory_mb << 20
    if processes is not None:
        limits[resource.RLIMIT_NPROC] = processes
    for what, most in limits.items():
        hard = resource.getrlimit(what)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (most, most))


def drop_root(must_read: list[str], all_files: bool) -> bool:
    """As root: become a user of its own who owns nothing. True if that happened.

    The one capability to read files is kept for `all_files`, or where `must_read` (the library) is closed to others.
    """
    if os.geteuid() != 0:
        return False
    libc = LIBC if LIBC is not None and (all_files or not all(map(open_to_all, must_read))) else None
    if libc is not None:
        libc.prctl(KEEP_CAPABILITIES, *map(ctypes.c_ulong, (1, 0, 0, 0)))
    for user in (1_000_000_000 + os.getpid(), 65534):  # an id of its own, or nobody where ids are scarce (containers)
        try:
            os.setgroups([])
            os.setgid(user)
            os.setuid(user)
        except OSError:
            continue
        if libc is not None:
            header = struct.pack("Ii", 0x20080522, 0)
            libc.capset(header, struct.pack("6I", 1 << READ_ANY, 1 << READ_ANY, 0, 0, 0, 0))
        return True
    return False


def open_to_all(path: str) -> bool:
    """Whether everybody may read `path` and enter every directory above it."""
    path = os.path.realpath(path)
    if not os.path.exists(path):
        return True
    needed = 0o005 if os.path.isdir(path) else 0o004
    while os.stat(path).st_mode & needed == needed:
        if path == os.path.dirname(path):
            return True
        path, needed = os.path.dirname(path), 0o001
    return False


def filter_program() -> bytes | None:
    """The seccomp program for this machine (struct sock_filter[]), or `None` where there is none."""
    machine = os.uname().machine
    if LIBC is None or machine not in MACHINES or sys.maxsize < 2**32:
        return None
    column, architecture = MACHINES[machine]
    allow, refuse, unknown = 0x7FFF0000, 0x00050001, 0x00050026  # return codes: allow, EPERM, ENOSYS
    load, equal, at_least, any_bit, give = 0x20, 0x15, 0x35, 0x45, 0x06  # BPF operations
    code = [(load, 0, 0, 4), (equal, 1, 0, architecture), (give, 0, 0, refuse), (load, 0, 0, 0)]
    code += [(at_least, 0, 1, 0x40000000), (give, 0, 0, refuse)]  # the x32 twins of every call

    def when(call: tuple[int | None, int | None], argument: int, bits: int, *, set_is: int, clear_is: int) -> None:
        number = call[column]
        if number is not None:
            code.extend([(equal, 0, 4, number), (load, 0, 0, 16 + 8 * argument), (any_bit, 0, 1, bits)])
            code.extend([(give, 0, 0, set_is), (give, 0, 0, clear_is)])

    when(CLONE, 0, 0x00010000, set_is=allow, clear_is=refuse)  # threads yes, processes no
    when(OPEN, 1, WRITING, set_is=refuse, clear_is=allow)
    when(OPENAT, 2, WRITING, set_is=refuse, clear_is=allow)
    when(PRLIMIT, 0, 0xFFFFFFFF, set_is=refuse, clear_is=allow)  # only its own limits
    for call, answer in [(CLONE3, unknown), (OPENAT2, unknown), *((c, refuse) for c in REFUSED_CALLS.values())]:
        number = call[column]
        if number is not None:
            code += [(equal, 0, 1, number), (give, 0, 0, answer)]
    code.append((give, 0, 0, allow))
    return b"".join(struct.pack("HBBI", *step) for step in code)


def filter_calls(program: bytes | None) -> bool:
    """Have the kernel refuse files for writing, processes, sockets, signals and more, for good. True if it does."""
    if LIBC is None:
        return False
    zeros = [ctypes.c_ulong(0)] * 3
    LIBC.prctl(DEATH_SIGNAL, ctypes.c_ulong(signal.SIGKILL), *zeros)
    if program is None or LIBC.prctl(NO_NEW_PRIVILEGES, ctypes.c_ulong(1), *zeros) != 0:
        return False
    steps = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("HxxxxxxQ", len(program) // 8, ctypes.addressof(steps))
    return LIBC.prctl(SECCOMP, ctypes.c_ulong(2), ctypes.c_char_p(header), *zeros[:2]) == 0


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
# Audit events: those that reach out of the process; those that could find the verdict's token in it.


def watch(read: tuple[str, ...] | None, strict: bool, filtered: bool) -> None:
    """Refuse, from now on and for good, what Python itself reports as reaching out.

    Args:
        read: Path prefixes that may be read; `None`: all.
        strict: Also refuse looking around inside the process.
        filtered: Whether the kernel's filter stands too; without it, modules that get around the hook are refused.
    """
    refused = frozenset((OUTWARD + INWARD if strict else OUTWARD).split())
    modules = set() if filtered else {"_posixsubprocess", "_ctypes"}
    if strict:
        modules |= {"ctypes", "_ctypes", "_testcapi", "_testinternalcapi", "_xxsubinterpreters", "_interpreters"}
        for name in ("ctypes", "_ctypes", "guard"):
            sys.modules.pop(name, None)

    # Everything is a default argument: the program can neither rebind it nor reach it through a frame.
    def hook(
        event,
        args,
        events=refused,
        modules=frozenset(modules),
        read=read,
        strict=strict,
        writing=WRITING,
        harmless="socket.__new__" if filtered else "",
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
            if args[0] in modules:
                raise missing("the sandbox does not have this module")
        elif event in events or event.startswith("shutil.") or (strict and event.startswith("ctypes.")):
            raise refusal("the sandbox does not allow " + event)
        elif event.startswith("socket.") and event != harmless:
            raise refusal("the sandbox has no network")

    sys.addaudithook(hook)
