"""The line of runs: it lies on the disk, has an order, and starts each run once, whatever ends in between."""

from __future__ import annotations

import json
import re
import threading
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from board_runs import open_client, send, stop_all, wait_for
from holdfast.board.draft import START
from holdfast.board.folder import RunsFolder
from holdfast.board.jobs import TRAIN, Job, Jobs
from holdfast.board.refusal import Refusal
from holdfast.board.run_queue import RunQueue


def open_queue(place: Path, most_runs: int = 1) -> RunQueue:
    """The line as another board sees it."""
    return RunQueue(Jobs(RunsFolder(place)), most_runs)


def recipe_of(run: str) -> str:
    return START.replace("runs/first", run)


def names_of(queue: RunQueue) -> list[str]:
    return [entry.job.run for entry in queue.list_waiting()]


def start_run(client: TestClient, run: str) -> str:
    """Send the form of a run; the name of its job."""
    text = recipe_of(run)
    return str(send(client, "/draft", text=text, base=text, do="start").headers["location"]).rpartition("/")[2]


def end_run(jobs: Jobs, name: str) -> None:
    jobs.stop_job(jobs.find_job(name))
    wait_for(lambda: not jobs.is_alive(jobs.find_job(name)))


def commands_of(jobs: Jobs, name: str) -> list[str]:
    """What was started for a job, once for each start."""
    return re.findall(r"words: (.*?)\"", (jobs.root / name / "said.jsonl").read_text())


def test_runs_wait_are_reordered_taken_out_and_started_in_turn(client: TestClient, place: Path, sleeper: Path) -> None:
    first, second, third, fourth = (start_run(client, f"runs/{name}") for name in ("a", "b", "c", "d"))
    other = open_queue(place)  # what lies on the disk is what every board sees
    assert names_of(other) == ["runs/b", "runs/c", "runs/d"]
    page = client.get("/").text
    assert re.search(rf'href="/job/{first}">runs/a</a> <span class="state running">starting<', page)
    assert re.findall(r'class="place">(\d)</span> <a href="/job/[^"]+">([^<]+)', page) == [
        ("1", "runs/b"), ("2", "runs/c"), ("3", "runs/d")
    ]  # fmt: skip
    assert "waiting, place 2" in client.get(f"/job/{third}").text
    assert 'hx-get="/parts/job' in client.get(f"/job/{third}").text, "it is seen to start"
    assert send(client, "/queue/" + fourth, do="up").headers["location"] == "/"
    assert send(client, "/queue/" + fourth, do="up").status_code == 303
    assert send(client, "/queue/" + fourth, do="up").status_code == 303, "it is the first already"
    assert send(client, "/queue/" + second, do="out").status_code == 303
    assert names_of(other) == ["runs/d", "runs/c"]
    assert "taken out of the line" in client.get(f"/job/{second}").text
    assert "output: runs/b" in client.get(f"/new?job={second}").text, "its recipe is still there"
    assert send(client, "/queue/" + second, do="up").status_code == 409
    other.start_due()
    assert names_of(other) == ["runs/d", "runs/c"], "one at a time"
    end_run(other.jobs, first)
    other.start_due()
    assert names_of(other) == ["runs/c"]
    assert other.jobs.is_alive(other.jobs.find_job(fourth))
    assert "waiting, place 1" in client.get(f"/job/{third}").text
    assert send(client, "/queue/" + fourth, do="out").status_code == 409, "it is at work"
    stop_all(place)


def test_a_run_waits_once_and_not_beside_itself(client: TestClient, place: Path, sleeper: Path) -> None:
    start_run(client, "runs/a")
    start_run(client, "runs/b")
    for run, why in (("runs/a", "is at work already"), ("runs/b", "waits in the line already")):
        again = send(client, "/draft", text=recipe_of(run), base="", do="start")
        assert (again.status_code, why in again.text) == (409, True)
    send(client, "/resume/runs/going")
    assert "waiting, place 2" in client.get("/run/runs/going").text
    assert "waiting, place 2" in client.get("/?q=going").text
    stop_all(place)


def test_a_run_that_fails_or_cannot_be_started_blocks_nobody(place: Path, sleeper: Path, tmp_path: Path) -> None:
    (sleeper / "__main__.py").write_text("import sys\nsys.exit('holdfast: broken')\n")
    queue = open_queue(place)
    jobs = [open_queue(place, 0).add_run(f"runs/{n}", recipe_of(f"runs/{n}")) for n in range(4)]
    (queue.jobs.root / jobs[2].name / "recipe.yaml").write_text("data: {train: /etc/passwd}\n")  # changed on the disk
    (queue.jobs.root / "20990101-000000-torn").mkdir()
    (queue.jobs.root / "20990101-000000-torn" / "job.json").write_text('{"name": "x", "ki')
    (place / ".holdfast-board" / "queue.json").write_bytes(b"\0\0")

    def is_done() -> bool:
        queue.start_due()
        return not queue.list_waiting() and not any(queue.jobs.is_alive(job) for job in queue.jobs.list_jobs())

    wait_for(is_done)
    assert "broken" in queue.jobs.read_said(queue.jobs.find_job(jobs[3].name))[-1]["text"]
    refusal = queue.jobs.read_said(queue.jobs.find_job(jobs[2].name))[-1]["text"]
    assert "/etc/passwd: lies outside" in refusal
    assert not (queue.jobs.root / jobs[2].name / "said.jsonl").exists(), "it was never started"


@pytest.mark.parametrize("most_runs", [1, 3])
def test_two_boards_never_start_a_run_twice(place: Path, sleeper: Path, most_runs: int) -> None:
    boards = [open_queue(place, most_runs) for _ in range(6)]
    for n in range(4):
        open_queue(place, 0).add_run(f"runs/{n}", recipe_of(f"runs/{n}"))
    barrier = threading.Barrier(len(boards))

    def start_at_once(queue: RunQueue) -> None:
        barrier.wait()
        queue.start_due()

    for _ in range(2):
        threads = [threading.Thread(target=start_at_once, args=[queue]) for queue in boards]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert names_of(boards[0]) == [f"runs/{n}" for n in range(most_runs, 4)]
    jobs = Jobs(RunsFolder(place))
    begun = [job for job in jobs.list_jobs() if job.pid]
    assert len(begun) == most_runs
    wait_for(lambda: all(commands_of(jobs, job.name) for job in begun))
    assert all(len(commands_of(jobs, job.name)) == 1 for job in begun)
    stop_all(place)


def test_a_board_that_is_killed_while_it_starts_a_run_leaves_it_to_the_next(place: Path, sleeper: Path) -> None:
    queue = open_queue(place)
    first = queue.add_run("runs/a", recipe_of("runs/a"))
    second = queue.add_run("runs/b", recipe_of("runs/b"))
    record = queue.jobs.root / first.name / "job.json"
    wait_for(lambda: commands_of(queue.jobs, first.name))
    # Killed before it wrote down the process: the run is at work, is not started again, and can be stopped.
    record.write_text(json.dumps({**json.loads(record.read_text()), "pid": 0}))
    later = open_queue(place)
    later.start_due()
    assert names_of(later) == ["runs/b"]
    orphan = later.jobs.find_job(first.name)
    assert later.jobs.is_alive(orphan)
    later.jobs.stop_job(orphan)
    wait_for(lambda: not later.jobs.is_alive(orphan))
    # Killed before there was a process: nothing was said, so the run still waits.
    (later.jobs.root / second.name / "said.jsonl").touch()
    assert names_of(later) == ["runs/b"]
    later.start_due()
    wait_for(lambda: commands_of(later.jobs, second.name))
    assert (names_of(later), len(commands_of(later.jobs, first.name))) == ([], 1)
    stop_all(place)


def test_the_board_starts_what_waits_while_nobody_looks(
    place: Path, sleeper: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("holdfast.board.run_queue.LOOK_SECONDS", 0.02)
    queue, ends = open_queue(place), threading.Event()
    first, second = (queue.add_run(run, recipe_of(run)) for run in ("runs/a", "runs/b"))
    watcher = threading.Thread(target=open_queue(place).keep_starting, args=[ends])
    watcher.start()
    end_run(queue.jobs, first.name)
    wait_for(lambda: queue.jobs.find_job(second.name).pid)
    ends.set()
    watcher.join()
    stop_all(place)


def write_job(place: Path, **more: Any) -> Job:
    """A run in the line that no form of a board has put there."""
    jobs = Jobs(RunsFolder(place))
    text = more.pop("text", recipe_of("runs/x"))
    job = jobs.prepare_job(TRAIN, run="runs/x", files={"recipe.yaml": text})
    record = jobs.root / job.name / "job.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), **more}))
    return job


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"run": "../x"}, "lies outside"),
        ({"run": "/etc/x"}, "lies outside"),
        ({"run": ".holdfast-board/x"}, "lies outside"),
        ({"text": recipe_of("runs/x") + "model: ../secret\n"}, "model"),
        ({"text": recipe_of("runs/x").replace("lab:story", "../secret.jsonl")}, "../secret.jsonl: lies outside"),
    ],
)
def test_22_a_line_that_was_forged_leads_nowhere(more: dict[str, Any], why: str, place: Path, sleeper: Path) -> None:
    client = open_client(place)
    job = write_job(place, words=["sh", "-c", "touch ran"], **more)
    assert client.get("/").status_code == 200
    open_queue(place).start_due()
    page = client.get(f"/job/{job.name}").text
    assert why in page
    assert not list(place.parent.rglob("ran"))
    assert not (place / ".holdfast-board" / "jobs" / job.name / "said.jsonl").exists()


def test_23_own_code_that_another_board_left_waits_for_a_word(place: Path, sleeper: Path) -> None:
    client = open_client(place)
    job = write_job(place, text=recipe_of("runs/x") + "objective: evil:Loss\n", words=["lab", "build"])
    plain = write_job(place, run="runs/plain")
    queue = open_queue(place)
    queue.start_due()
    assert names_of(queue) == ["runs/x"], "and nobody waits for it"
    assert "evil:Loss" in client.get("/").text
    end_run(queue.jobs, plain.name)
    assert send(client, f"/queue/{job.name}", do="rm").status_code == 400
    assert send(client, f"/queue/{job.name}", do="allow").status_code == 303
    wait_for(lambda: commands_of(queue.jobs, job.name))
    assert commands_of(queue.jobs, job.name)[0].startswith("train .holdfast-board/jobs/")
    stop_all(place)


def test_24_own_code_of_a_run_that_is_there_is_asked_for(client: TestClient, place: Path, sleeper: Path) -> None:
    for run in ("one", "going"):
        (place / "runs" / run / "resolved.yaml").write_text("model: lab-small\nobjective: evil:Loss\n")
    posts = {"/resume/runs/going": {}, "/check/runs/one": {}, "/open-chat/runs/one": {},
             "/export/runs/one": {"out": "x", "form": "folder"}}  # fmt: skip
    for address, fields in posts.items():
        assert "evil:Loss" in (answer := send(client, address, **fields)).text, address
        assert answer.status_code == 409
    assert 'name="trust"' in client.get("/run/runs/going").text
    assert send(client, "/resume/runs/going", trust="yes").status_code == 303
    stop_all(place)


def test_25_a_line_has_an_end(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast.board.run_queue.MOST_WAITING", 2)
    queue = open_queue(place, most_runs=0)
    for run in ("runs/a", "runs/b"):
        queue.add_run(run, recipe_of(run))
    with pytest.raises(Refusal) as refusal:
        queue.add_run("runs/c", recipe_of("runs/c"))
    assert refusal.value.key == "line_is_full"
    for name in ("x", "../../x", "20260101-000000-aa"):
        with pytest.raises(Refusal):
            queue.move_run(name, 1)
