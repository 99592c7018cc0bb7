"""Landlock: the kernel refuses every file but the library, and signals to anybody outside. Needs no root, Linux 5.13.

Its system calls are unknown to Python and to most C libraries; their numbers are the same on all architectures. What a
kernel can refuse grew by version (ABI): 1 files, 2 moving them, 3 truncating, 4 TCP, 5 devices, 6 signals and abstract
sockets. What it does not know is left out.
"""

from __future__ import annotations

import os
import struct

from libc import NO_NEW_PRIVILEGES, call_prctl, call_syscall

CREATE, ADD_RULE, RESTRICT = 444, 445, 446
READ_FILE, READ_DIR = 4, 8
FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}  # how many rights of files an ABI knows; 16 from 5 on
NETWORK, SCOPES = 3, 3  # bind and connect TCP; abstract sockets and signals


def landlock_version() -> int:
    """The kernel's ABI, 0 without Landlock."""
    return max(0, call_syscall(CREATE, None, 0, 1))


def make_rules(read: list[str] | None) -> int | None:
    """The descriptor of a rule set: of files only those below `read` may be read (`None`: files are left alone).

    Returns:
        `None` where the kernel has no Landlock, or none that could refuse anything asked for here.
    """
    abi = landlock_version()
    files = 0 if read is None else (1 << FILE_RIGHTS.get(abi, 16)) - 1
    network, scopes = (NETWORK if abi >= 4 else 0), (SCOPES if abi >= 6 else 0)
    if abi < 1 or not files | network | scopes:
        return None
    attributes = struct.pack("QQQ", files, network, scopes)[: 24 if abi >= 6 else 16 if abi >= 4 else 8]
    rules = call_syscall(CREATE, attributes, len(attributes), 0)
    if rules < 0:
        return None
    for path in read or ():
        if not os.path.exists(path):
            continue
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        rights = READ_FILE | (READ_DIR if os.path.isdir(path) else 0)
        status = call_syscall(ADD_RULE, rules, 1, struct.pack("=Qi", rights, place), 0)
        os.close(place)
        if status != 0:
            os.close(rules)
            return None
    return rules


def restrict_process(rules: int | None) -> bool:
    """Put this process under a rule set, for good. True if it is."""
    return rules is not None and call_prctl(NO_NEW_PRIVILEGES, 1) and call_syscall(RESTRICT, rules, 0) == 0
