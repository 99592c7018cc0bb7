"""How the sandbox's interpreter is started: by itself, in bubblewrap, or in a Docker container."""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from holdfast.errors import UserError

BackendName = Literal["own", "bwrap", "docker"]
WORKER = Path(__file__).parent / "contained" / "worker.py"
ENVIRONMENT = {"PYTHONHASHSEED": "0", "PYTHONUTF8": "1"}
"""All that the interpreter is given; contained processes have none of it."""
FLAGS = ("-s", "-S", "-B", "-u")
INSTALL = {"bwrap": "install bubblewrap", "docker": "install Docker"}


@dataclass(frozen=True, slots=True)
class Backend:
    """What stands around the sandbox's own walls.

    Args:
        name: "own": nothing; "bwrap": bubblewrap, a file system with only the Python library and namespaces of its own;
            "docker": a container without network, capabilities or writable files.
        image: The image for "docker"; default: the official one of this Python's version, which must be there or be
            allowed to be fetched by the Docker daemon.
        memory_mb: Memory for the whole container, for "docker".
    """

    name: BackendName = "own"
    image: str = ""
    memory_mb: int = 2048

    def build_command(self, scratch: str, path: Sequence[str] = ()) -> list[str]:
        """The command that starts the interpreter.

        Args:
            scratch: The sandbox's own temporary directory.
            path: Import directories beside the standard library.
        """
        if self.name == "bwrap":
            return self._bwrap_command(scratch, path)
        if self.name == "docker":
            return self._docker_command(path)
        return [sys.executable, *FLAGS, str(WORKER), scratch, *path]

    def command_environment(self) -> dict[str, str]:
        """What the command itself needs of the environment; nothing of it is handed on."""
        if self.name == "own":
            return {}
        names = ("PATH", "HOME", "DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CONFIG", "XDG_RUNTIME_DIR")
        return {name: os.environ[name] for name in names if name in os.environ}

    def require_installed(self) -> None:
        """See that the program is installed.

        Raises:
            UserError: If not.
        """
        if self.name != "own" and shutil.which(self.name) is None:
            raise UserError(
                f"judge.backend: {self.name} is not on the PATH; {INSTALL[self.name]}, or take judge.backend out "
                "(the sandbox's own walls then stand alone)"
            )

    def _bwrap_command(self, scratch: str, path: Sequence[str]) -> list[str]:
        python = os.path.realpath(sys.executable)
        system = [p for p in ("/usr", "/lib", "/lib32", "/lib64", "/etc/ld.so.cache") if os.path.exists(p)]
        prefix = [sys.base_prefix, os.path.dirname(python), sysconfig.get_path("stdlib"), str(WORKER.parent), *path]
        inside = [p for p in dict.fromkeys(prefix) if not os.path.realpath(p).startswith("/usr/")]
        binds = [word for p in (*system, *inside) for word in ("--ro-bind", p, p)]
        variables = [word for name, value in ENVIRONMENT.items() for word in ("--setenv", name, value)]
        return [
            "bwrap", "--unshare-all", "--die-with-parent", "--cap-drop", "ALL", "--uid", "65534", "--gid", "65534",
            "--clearenv", *variables, *binds, "--dev", "/dev", "--bind", scratch, scratch, "--chdir", "/",
            python, *FLAGS, str(WORKER), scratch, *path,
        ]  # fmt: skip

    def _docker_command(self, path: Sequence[str]) -> list[str]:
        image = self.image or f"python:{sys.version_info.major}.{sys.version_info.minor}-slim"
        mounts = [(str(WORKER.parent), "/holdfast"), *((p, p) for p in path)]
        binds = [word for source, target in mounts for word in ("--volume", f"{source}:{target}:ro")]
        variables = [word for name, value in ENVIRONMENT.items() for word in ("--env", f"{name}={value}")]
        return [
            "docker", "run", "--rm", "--interactive", "--network", "none", "--read-only", "--cap-drop", "ALL",
            "--security-opt", "no-new-privileges", "--pids-limit", "256", "--memory", f"{self.memory_mb}m",
            "--user", "65534:65534", "--tmpfs", "/scratch:rw,mode=1777,size=1m", *binds, *variables, image,
            "python", *FLAGS, "/holdfast/worker.py", "/scratch", *path,
        ]  # fmt: skip
