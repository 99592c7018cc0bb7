"""Namespaces: a network with nothing in it, process numbers of its own, and a file system that holds only the library.

Root may have them; anybody else by way of a user namespace, where the system permits one (containers mostly do not).
Each is tried by itself, so that what is refused leaves the others standing.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

from libc import DEATH_SIGNAL, LIBC, call_prctl

MOUNTS, MESSAGES, USERS, PROCESSES, NETWORK = 0x20000, 0x08000000, 0x10000000, 0x20000000, 0x40000000
READ_ONLY, NO_SUID, NO_DEVICES, REMOUNT, BIND, ALL_BELOW, PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18
KEPT_FLAGS = {os.ST_NOSUID: 2, os.ST_NODEV: 4, os.ST_NOEXEC: 8, os.ST_NOATIME: 1024} if hasattr(os, "ST_NODEV") else {}
SYSTEM = (
    "/lib", "/lib32", "/lib64", "/usr/lib", "/usr/lib32", "/usr/lib64", "/usr/share/zoneinfo", "/etc/ld.so.cache",
    "/dev/null", "/dev/urandom",
)  # fmt: skip
"""What a Python interpreter reads beside its own library."""
WORK = "/tmp/holdfast-work"
"""The working directory in the room: empty, and nobody may write there."""


def enter_namespaces() -> dict[str, bool]:
    """Move this process into namespaces of its own; which were permitted. Process numbers are for its children."""
    namespaces = dict.fromkeys(("network_namespace", "mount_namespace", "process_namespace"), False)
    if LIBC is None:
        return namespaces
    unshare_flags = {"network_namespace": NETWORK, "mount_namespace": MOUNTS, "process_namespace": PROCESSES | MESSAGES}
    if os.geteuid() != 0:
        user, group = os.getuid(), os.getgid()
        every = USERS | NETWORK | MOUNTS | PROCESSES | MESSAGES
        if LIBC.unshare(every) != 0:
            namespaces["network_namespace"] = LIBC.unshare(USERS | NETWORK) == 0
            return namespaces
        namespaces |= {"network_namespace": True, "process_namespace": True}
        ids_of = {"setgroups": "deny", "uid_map": f"{user} {user} 1", "gid_map": f"{group} {group} 1"}
        try:
            for name, ids in ids_of.items():
                with open(f"/proc/self/{name}", "w") as file:
                    file.write(ids)
        except OSError:  # a system that lets nobody be somebody in a namespace of his own
            return namespaces
        return {**namespaces, "mount_namespace": True}
    return {name: LIBC.unshare(flags) == 0 for name, flags in unshare_flags.items()}


def fork_first_process(*pipes: int) -> None:
    """Go on in a child that is the first process of the new process namespace; this one only waits for it to end.

    Args:
        pipes: Descriptors this process closes, with its standard ones: the child must be the only one to hold them.
    """
    child = os.fork()
    if child == 0:
        call_prctl(DEATH_SIGNAL, signal.SIGKILL)
        return
    for descriptor in (0, 1, *pipes):
        os.close(descriptor)
    status = os.waitpid(child, 0)[1]
    os._exit(os.WEXITSTATUS(status) if os.WIFEXITED(status) else 1)


def build_file_system(root: str, library: list[str]) -> bool:
    """Lay out a file system below the new directory `root` that holds the library and nothing else, read-only."""
    os.umask(0o022)
    os.mkdir(root)
    if not _mount_at(None, "/", None, ALL_BELOW | PRIVATE) or not _mount_at(
        "tmpfs", root, "tmpfs", NO_SUID, "mode=755"
    ):
        return False
    os.makedirs(root + WORK)
    mounts: list[str] = []
    for path in sorted(dict.fromkeys([*SYSTEM, *library]), key=len):
        if not os.path.exists(path) or any(path.startswith(above + "/") for above in mounts):
            continue
        mounts.append(path)
        if os.path.isdir(path):
            os.makedirs(root + path, exist_ok=True)
        else:
            os.makedirs(os.path.dirname(root + path), exist_ok=True)
            os.close(os.open(root + path, os.O_CREAT | os.O_WRONLY, 0o644))
        if not _mount_at(os.path.realpath(path), root + path, None, BIND | ALL_BELOW):
            return False
        flags = os.statvfs(root + path).f_flag
        keep_flags = sum(bit for flag, bit in KEPT_FLAGS.items() if flags & flag)
        _mount_at(
            None, root + path, None, REMOUNT | BIND | READ_ONLY | keep_flags
        )  # writing is refused in three more ways
    return _mount_at(None, root, None, REMOUNT | READ_ONLY | NO_SUID)


def _mount_at(source: str | None, target: str, kind: str | None, flags: int, options: str | None = None) -> bool:
    assert LIBC is not None
    text = [None if value is None else os.fsencode(value) for value in (source, target, kind, options)]
    return LIBC.mount(text[0], text[1], text[2], ctypes.c_ulong(flags), text[3]) == 0


def library_of(path: list[str]) -> list[str]:
    """The directories from which this interpreter imports, with `path` added."""
    return list(dict.fromkeys([os.path.dirname(os.__file__), *(p for p in sys.path if os.path.exists(p)), *path]))


def hold_open(library: list[str]) -> list[str]:
    """As root, without a room: let the library be read once root is given up, though it lies below a closed directory.

    Each directory is held open under a descriptor, and imports go through these. No capability to read is kept: it
    would open every other file as well.

    Returns:
        The directories under their new names.
    """
    new = {}
    for path in library:
        if os.path.isdir(path):
            place = os.open(path, os.O_PATH)
            new[path] = f"/proc/self/fd/{place}"
    sys.path[:] = [new.get(path, path) for path in sys.path]
    for module in list(sys.modules.values()):
        if isinstance(getattr(module, "__path__", None), list):
            module.__path__ = [_map_path(path, new) for path in module.__path__]
    sys.path_importer_cache.clear()
    return list(new.values())


def _map_path(path: str, new: dict[str, str]) -> str:
    above = next((old for old in new if path.startswith(old + "/")), None)
    return path if above is None else new[above] + path[len(above) :]
