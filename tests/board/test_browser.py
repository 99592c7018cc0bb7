"""The board in a real browser, on a desk and on a phone: it is used by clicks and keys, and asks nobody else."""

from __future__ import annotations

import fcntl
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from board_runs import open_app, write_lines

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
SIZES = {"desk": (1200, 900), "phone": (390, 844)}


@pytest.fixture
def address(place: Path) -> Iterator[str]:
    """The board of `place` behind a real address."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(open_app(place), lifespan="off", log_config=None))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join()
    listener.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as program:
        one = program.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield one
        one.close()


def test_a_newcomer_reads_writes_and_compares(browser: Any, address: str, place: Path) -> None:
    for name, (width, height) in SIZES.items():
        context = browser.new_context(viewport={"width": width, "height": height}, locale="en-GB")
        page = context.new_page()
        wrong: list[str] = []
        page.on("console", lambda message, wrong=wrong: wrong.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error, wrong=wrong: wrong.append(str(error)))
        page.on("request", lambda ask, wrong=wrong: None if ask.url.startswith(address) else wrong.append(ask.url))
        page.on("dialog", lambda dialog, wrong=wrong: wrong.append(dialog.message))
        page.goto(address)
        for run in ("runs/one", "runs/two"):
            page.get_by_label(f"Compare {run}").check()
        page.get_by_role("button", name="Compare the ticked runs").press("Enter")
        page.get_by_role("heading", name="Against runs/two, paired").wait_for()
        page.goto(f"{address}/rows/runs/one")
        assert page.locator("mark").first.inner_text().startswith("say 0")
        page.goto(f"{address}/new")
        if name == "desk":  # a mistake is told while one types, and gone when it is mended
            field = page.get_by_label("data.test", exact=True)
            field.fill("7")
            field.press("Tab")
            page.locator("#problems .problem").wait_for()
            assert "\n  test: 7" in page.locator("#text").input_value()
            field.fill("0.2")
            field.press("Tab")
            page.locator("#problems .good").wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") <= width, "nothing is wider than the screen"
        page.get_by_role("link", name="日本語").click()
        assert page.locator("h1").inner_text() == "新しい実行"
        assert not wrong
        context.close()


def test_a_run_at_work_is_seen_to_go_on(browser: Any, address: str, place: Path) -> None:
    run = place / "runs" / "going"
    (run / "resolved.yaml").write_text("model: lab-small\n")
    page = browser.new_page()
    with (run / "samples.jsonl").open("a+b") as journal:
        fcntl.flock(journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
        page.goto(f"{address}/run/runs/going")
        page.get_by_text("step 3 of 9").wait_for()
        events = (run / "events.jsonl").read_text()
        write_lines(run / "events.jsonl", {"time": 9.0, "event": "step_finished", "step": 5, "steps": 9, "loss": 1.0})
        (run / "events.jsonl").write_text(events + (run / "events.jsonl").read_text())
        page.get_by_text("step 5 of 9").wait_for(timeout=10_000)
    page.get_by_role("button", name="Go on").wait_for(timeout=10_000)
    page.close()
