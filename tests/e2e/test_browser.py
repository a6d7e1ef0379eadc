"""alice with Chromium, from the sign-in to the end; pictures go to test-results/."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, async_playwright, expect

from .cluster import Cluster, until
from .gateway import URL
from .site import PASSWORD
from .visitor import Visitor

pytestmark = pytest.mark.browser

Visit = Callable[[str], Awaitable[Visitor]]
CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
PICTURES = Path(__file__).parents[2] / "test-results"


@pytest_asyncio.fixture(loop_scope="session")
async def browser(hub_network: None) -> AsyncIterator[Browser]:
    # Started inside the hub's network: 127.0.0.1 is the hub's.
    async with async_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        running = await playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield running
        await running.close()


async def take_picture(page: Page, name: str) -> None:
    PICTURES.mkdir(exist_ok=True)
    await page.screenshot(path=PICTURES / f"e2e-{name}.png", full_page=True)


@pytest.mark.timeout(300)
async def test_from_sign_in_to_stop_in_a_browser(
    browser: Browser,
    visit: Visit,
    cluster: Cluster,
    record_property: Callable[[str, object], None],
    tmp_path: Path,
) -> None:
    await visit("alice")  # so that what is left is stopped at the end
    context = await browser.new_context(viewport={"width": 1280, "height": 900})
    page = await context.new_page()
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.set_default_timeout(30_000)
    expect.set_options(timeout=30_000)

    await page.goto(URL)
    await page.get_by_label("Username").fill("alice")
    await page.get_by_label("Password").fill(PASSWORD)
    await page.get_by_role("button", name="Sign in").click()

    await page.goto(f"{URL}/hub/spawn/alice")
    await page.get_by_label("Partition").select_option("small")
    await page.get_by_label("Environment").select_option("jupyter")
    await page.get_by_label("Walltime").fill("20m")
    await page.get_by_label("Memory").fill("2G")
    await take_picture(page, "form")
    occupier = cluster.occupy("small")
    await until("the occupier", lambda: cluster.ended_as(occupier) == "RUNNING")
    await page.get_by_role("button", name="Start", exact=True).click()

    status = page.locator("#status")
    await expect(status).to_contain_text("Waiting in the queue")
    await expect(status).to_contain_text("Resources")
    await take_picture(page, "waiting")
    cluster.cancel(occupier)
    began = asyncio.get_running_loop().time()

    # The launch page takes its reader to the server.
    await page.wait_for_url("**/user/alice/lab**", timeout=60_000)
    await expect(page.locator("#jp-MainLogo")).to_be_visible(timeout=60_000)
    seconds = asyncio.get_running_loop().time() - began
    record_property("free node to JupyterLab on the screen", f"{seconds:.1f} s")
    job = cluster.job_of("alice")

    launcher = page.locator(".jp-LauncherCard")
    await launcher.filter(has_text="Python 3").first.click()
    cell = page.locator(".jp-Notebook .jp-CodeCell .cm-content").first
    await cell.click()
    await page.keyboard.type("import socket; print('answer', 6*7, socket.gethostname())")
    await expect(page.locator(".jp-Notebook-ExecutionIndicator")).to_have_attribute(
        "data-status", "idle"
    )
    await page.keyboard.press("Shift+Enter")
    await expect(page.locator(".jp-OutputArea-output").first).to_contain_text(
        f"answer 42 {job.node}"
    )
    await take_picture(page, "jupyterlab")

    await page.goto(f"{URL}/user/alice/lab?reset")
    await page.locator(".jp-LauncherCard").filter(has_text="Terminal").first.click()
    await page.locator(".jp-Terminal").click()
    screen = page.locator(".jp-Terminal .xterm")
    await expect(screen).to_be_visible()
    await asyncio.sleep(1)
    # What the shell says is drawn on a canvas; so let it write what can be looked at.
    await page.keyboard.type("srun -n 1 hostname > said.txt; id -un >> said.txt\n")
    said = cluster.bed.home / "alice" / "said.txt"
    await until(
        "the terminal", lambda: said.exists() and said.read_text().split() == [job.node, "alice"]
    )
    await take_picture(page, "terminal")
    said.unlink()

    await carry_a_large_file(page, cluster, tmp_path)

    await page.goto(f"{URL}/hub/launch/alice")
    await page.get_by_role("button", name="Stop the server").click()
    await expect(page.locator("#status")).to_contain_text("This server has ended")
    await take_picture(page, "ended")
    await until("an empty queue", lambda: not cluster.jobs("alice"))
    assert faults == []
    await context.close()


async def carry_a_large_file(page: Page, cluster: Cluster, directory: Path) -> None:
    """200 MB up with JupyterLab's own upload button, and down as a browser downloads."""
    sent = directory / "large.bin"
    block = secrets.token_bytes(1_000_000)
    sent.write_bytes(block * 200)
    await page.goto(f"{URL}/user/alice/lab?reset")
    async with page.expect_file_chooser() as chosen:
        await page.locator("jp-button[title^='Upload'], button[title^='Upload']").first.click()
    await (await chosen.value).set_files(sent)
    # JupyterLab asks before it takes something large.
    await page.locator(".jp-Dialog button.jp-mod-accept").click()
    there = cluster.bed.home / "alice" / sent.name
    await until(
        "the upload", lambda: there.exists() and there.stat().st_size == 200_000_000, bound=120
    )
    async with page.expect_download(timeout=60_000) as begun:
        await page.evaluate(
            "name => { const a = document.createElement('a'); a.href = name; a.download = '';"
            " document.body.append(a); a.click(); a.remove(); }",
            f"{URL}/user/alice/files/{sent.name}?download=1",
        )
    came = directory / "came.bin"
    await (await begun.value).save_as(came)
    assert came.read_bytes() == sent.read_bytes() == there.read_bytes()
    there.unlink()
