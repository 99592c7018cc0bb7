"""backend: the command that is started, a fake and a real one, and what is said where it is missing."""

from __future__ import annotations

import shutil
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from holdfast.axes.judge import JudgeRequest
from holdfast.errors import UserError
from holdfast.methods.judges.code import Code
from holdfast.sandbox.backends import FLAGS, WORKER, Backend
from holdfast.sandbox.protection import describe_walls

RIGHT = JudgeRequest([], "def double(x):\n    return 2 * x", ["assert double(2) == 4"])
OUT = JudgeRequest([], "double = open('/etc/hostname').read().__len__", ["assert double()"])


def fake(folder: Path, name: str, tail: str) -> Path:
    """An executable on the PATH that writes its arguments down, then does `tail`."""
    folder.mkdir(exist_ok=True)
    shown = folder / f"{name}.txt"
    script = folder / name
    script.write_text(f"#!/bin/sh\nprintf '%s\\n' \"$@\" > {shown}\n{tail}\n")
    script.chmod(0o755)
    return shown


def test_docker_is_given_no_way_out(tmp_path, monkeypatch):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    start = f"exec {sys.executable} {' '.join(FLAGS)} {WORKER} {scratch}"
    shown = fake(tmp_path / "bin", "docker", start)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-canary")
    assert Code(backend="docker", memory_mb=256).judge(RIGHT).passed
    words = shown.read_text().split("\n")
    pairs = set(pairwise(words))
    version = f"python:{sys.version_info.major}.{sys.version_info.minor}-slim"
    for pair in [("run", "--rm"), ("--network", "none"), ("--cap-drop", "ALL"), ("--user", "65534:65534"),
                 ("--security-opt", "no-new-privileges"), ("--memory", "1024m"), ("--pids-limit", "256"),
                 ("--volume", f"{WORKER.parent}:/holdfast:ro"), (version, "python")]:  # fmt: skip
        assert pair in pairs, pair
    assert "--read-only" in words
    assert "sk-canary" not in shown.read_text()
    assert words.count("--volume") == 1
    own = Backend("docker", "mine:1").build_command("/s", ["/p"])
    assert own[own.index("mine:1") :] == ["mine:1", "python", *FLAGS, "/holdfast/worker.py", "/scratch", "/p"]


def test_bwrap_is_given_the_library_alone(tmp_path):
    words = Backend("bwrap").build_command("/scratch/x", ["/some/packages"])
    assert words[0] == "bwrap"
    assert {"--unshare-all", "--die-with-parent", "--clearenv"} <= set(words)
    shown = {b for a, b in pairwise(words) if a in ("--ro-bind", "--bind")}
    assert "/some/packages" in shown
    assert "/scratch/x" in shown
    assert not shown & {"/", "/home", "/root", "/etc", "/tmp", "/var", str(Path.home()), str(Path.cwd())}


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")
def test_bwrap_judges():
    right, out = Code(backend="bwrap").judge_all([RIGHT, OUT])
    assert right.passed, right.reason
    assert not out.passed
    assert "(version" in Code(backend="bwrap").describe_protection() or sys.platform != "linux"


def test_a_backend_that_is_missing_or_broken_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    for name in ("bwrap", "docker"):
        with pytest.raises(UserError, match=f"judge.backend: {name} is not on the PATH"):
            Code(backend=name).check_ready()
    Code().check_ready()
    fake(tmp_path / "bin", "docker", "echo 'Cannot connect to the Docker daemon' >&2; exit 1")
    with pytest.raises(UserError, match="docker does not start the sandbox: Cannot connect"):
        Code(backend="docker").describe_protection()


def test_the_sentence_names_what_is_missing():
    every = {"landlock": 7, "mount_namespace": True, "process_namespace": True, "network_namespace": True,
             "call_filter": True, "own_user": True}  # fmt: skip
    assert "no file, process, key or network of yours" in describe_walls(every)
    container = every | {"mount_namespace": False, "process_namespace": False, "network_namespace": False}
    assert "names and sizes of files" in describe_walls(container)
    bare = dict.fromkeys(every, 0)
    for words in ("Not protected here", "files that you may read", "processes and the network", "bwrap"):
        assert words in describe_walls(bare)
    assert "Not protected" not in describe_walls(bare, "docker")
