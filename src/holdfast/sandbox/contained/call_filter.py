"""The call filter (seccomp): system calls that the kernel refuses to a contained process, for good.

It is the wall that holds against native code, so it names every call that changes a file, makes a process, opens a
socket, sends a signal, reaches into another process, or slows it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import struct
import sys

from libc import DEATH_SIGNAL, LIBC, NO_NEW_PRIVILEGES, SECCOMP, call_prctl

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

# name: (x86_64, aarch64); None where the architecture has no such call
REFUSED_CALLS = {
    "socket": (41, 198), "connect": (42, 203), "bind": (49, 200), "listen": (50, 201),
    "fork": (57, None), "vfork": (58, None), "execve": (59, 221), "execveat": (322, 281),
    "kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131), "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240), "pidfd_send_signal": (424, 424), "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
    "setpriority": (141, 140), "sched_setaffinity": (203, 122), "sched_setscheduler": (144, 119),
    "sched_setparam": (142, 118), "sched_setattr": (314, 274), "ioprio_set": (251, 30), "mbind": (237, 235),
    "set_mempolicy": (238, 237), "migrate_pages": (256, 238), "move_pages": (279, 239),
    "process_madvise": (440, 440), "process_mrelease": (448, 448), "sendmsg": (46, 211), "sendmmsg": (307, 269),
    "setsid": (112, 157), "setpgid": (109, 154), "unshare": (272, 97), "setns": (308, 268), "ptrace": (101, 117),
    "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272),
    "creat": (85, None), "rename": (82, None), "renameat": (264, 38), "renameat2": (316, 276), "mkdir": (83, None),
    "mkdirat": (258, 34), "rmdir": (84, None), "link": (86, None), "linkat": (265, 37), "unlink": (87, None),
    "unlinkat": (263, 35), "symlink": (88, None), "symlinkat": (266, 36), "mknod": (133, None), "mknodat": (259, 33),
    "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452), "chown": (92, None),
    "fchown": (93, 55), "lchown": (94, None), "fchownat": (260, 54), "truncate": (76, 45), "ftruncate": (77, 46),
    "utime": (132, None), "utimes": (235, None), "utimensat": (280, 88), "futimesat": (261, None),
    "setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7),
    "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16),
    "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265), "fanotify_init": (300, 262),
    "inotify_init": (253, None), "inotify_init1": (294, 26), "syslog": (103, 116), "acct": (163, 89),
    "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430), "fsmount": (432, 432),
    "fspick": (433, 433), "mount_setattr": (442, 442), "memfd_secret": (447, 447),
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "memfd_create": (319, 279),
    "shmget": (29, 194), "msgget": (68, 186), "semget": (64, 190), "mq_open": (240, 180),
    "bpf": (321, 280), "userfaultfd": (323, 282), "io_uring_setup": (425, 425), "perf_event_open": (298, 241),
    "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219), "init_module": (175, 105),
    "finit_module": (313, 273), "delete_module": (176, 106), "kexec_load": (246, 104),
}  # fmt: skip
CLONE, CLONE3, OPEN, OPENAT, OPENAT2, PRLIMIT = (56, 220), (435, 435), (2, None), (257, 56), (437, 437), (302, 261)
FCNTL, IOCTL, SENDTO = (72, 25), (16, 29), (44, 206)
TO_OTHERS = {FCNTL: (8, 10, 15), IOCTL: (0x8901, 0x8902, 0x5412, 0x541C)}
"""Second arguments refused: whom the kernel signals and with what (F_SETOWN, F_SETSIG, F_SETOWN_EX, FIOSETOWN,
SIOCSPGRP), and typing into a terminal (TIOCSTI, TIOCLINUX)."""
MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column above, AUDIT_ARCH


def build_filter_program() -> bytes | None:
    """The seccomp program for this machine (struct sock_filter[]), or `None` where there is none."""
    machine = os.uname().machine
    if LIBC is None or machine not in MACHINES or sys.maxsize < 2**32:
        return None
    column, architecture = MACHINES[machine]
    allow, refuse, unknown = 0x7FFF0000, 0x00050001, 0x00050026  # return codes: allow, EPERM, ENOSYS
    load, equal, at_least, any_bit, give = 0x20, 0x15, 0x35, 0x45, 0x06  # BPF operations
    code = [(load, 0, 0, 4), (equal, 1, 0, architecture), (give, 0, 0, refuse), (load, 0, 0, 0)]
    code += [(at_least, 0, 1, 0x40000000), (give, 0, 0, refuse)]  # the x32 twins of every call

    def add_bit_rule(
        call: tuple[int | None, int | None], argument: int, bits: int, *, set_is: int, clear_is: int
    ) -> None:
        number = call[column]
        if number is not None:
            code.extend([(equal, 0, 4, number), (load, 0, 0, 16 + 8 * argument), (any_bit, 0, 1, bits)])
            code.extend([(give, 0, 0, set_is), (give, 0, 0, clear_is)])

    add_bit_rule(CLONE, 0, 0x00010000, set_is=allow, clear_is=refuse)  # threads yes, processes no
    add_bit_rule(OPEN, 1, WRITING, set_is=refuse, clear_is=allow)
    add_bit_rule(OPENAT, 2, WRITING, set_is=refuse, clear_is=allow)
    add_bit_rule(PRLIMIT, 0, 0xFFFFFFFF, set_is=refuse, clear_is=allow)  # only its own limits
    for own, commands in TO_OTHERS.items():
        code += [(equal, 0, 2 + 2 * len(commands), own[column]), (load, 0, 0, 16 + 8)]
        code += [step for command in commands for step in ((equal, 0, 1, command), (give, 0, 0, refuse))]
        code.append((give, 0, 0, allow))
    code.append((equal, 0, 7, SENDTO[column]))  # to an address of its own choice, on a connected pair of sockets
    for half in (48, 52):
        code += [(load, 0, 0, half), (any_bit, 0, 1, 0xFFFFFFFF), (give, 0, 0, refuse)]
    code.append((give, 0, 0, allow))
    for call, answer in [(CLONE3, unknown), (OPENAT2, unknown), *((c, refuse) for c in REFUSED_CALLS.values())]:
        number = call[column]
        if number is not None:
            code += [(equal, 0, 1, number), (give, 0, 0, answer)]
    code.append((give, 0, 0, allow))
    return b"".join(struct.pack("HBBI", *step) for step in code)


def filter_calls(program: bytes | None) -> bool:
    """Put this process under `program`. True if the kernel does; it also ends with its parent from now on."""
    call_prctl(DEATH_SIGNAL, signal.SIGKILL)
    if LIBC is None or program is None or not call_prctl(NO_NEW_PRIVILEGES, 1):
        return False
    steps = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("HxxxxxxQ", len(program) // 8, ctypes.addressof(steps))
    return LIBC.prctl(SECCOMP, ctypes.c_ulong(2), ctypes.c_char_p(header), ctypes.c_ulong(0), ctypes.c_ulong(0)) == 0
