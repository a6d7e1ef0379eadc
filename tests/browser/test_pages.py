"""Our pages in Chromium, against a stand-in connector."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Page, async_playwright, expect

from gateway.launch.states import EndReason
from tests.unit.hub.running_hub import PASSWORD, RunningHub, open_hub, until
from tests.unit.hub.stand_in import build_choices, words

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]
SIZES = {"phone": (360, 740), "desktop": (1280, 800)}


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[RunningHub]:
    async with open_hub(tmp_path) as running:
        yield running


@asynccontextmanager
async def open_page(
    hub: RunningHub, language: str, size: str, *, scripts: bool = True
) -> AsyncIterator[Page]:
    """A signed-in page; any complaint in the console fails the test."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    width, height = SIZES[size]
    complaints: list[str] = []
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        try:
            context = await browser.new_context(
                locale=language,
                viewport={"width": width, "height": height},
                java_script_enabled=scripts,
            )
            page = await context.new_page()
            await page.goto(f"{hub.url}/hub/login?next=%2Fhub%2Fspawn")
            await page.fill("input[name=username]", "alice")
            await page.fill("input[name=password]", PASSWORD)
            await page.press("input[name=password]", "Enter")
            await page.wait_for_url("**/hub/spawn**")
            # JupyterHub's own sign-in page is not ours to judge.
            page.on("console", lambda message: note(complaints, message))
            page.on("pageerror", lambda error: complaints.append(str(error)))
            if scripts:
                await page.reload()
            yield page
            await context.close()
        finally:
            await browser.close()
    assert complaints == []


def note(complaints: list[str], message: Any) -> None:
    # A refused form answers 400 on purpose; the browser reports that like a fault.
    if message.type in ("error", "warning") and "status of 400" not in message.text:
        complaints.append(message.text)


async def keep_picture(page: Page, name: str) -> None:
    directory = os.environ.get("GATEWAY_TEST_PICTURES")
    if directory:
        await page.screenshot(path=f"{directory}/{name}.png", full_page=True)


async def check_width(page: Page) -> None:
    """Nothing is wider than the window."""
    wide = await page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    assert wide <= 0


@pytest.mark.parametrize("size", ["phone", "desktop"])
@pytest.mark.parametrize("language", ["en", "fr"])
async def test_form_and_launch_page(hub: RunningHub, language: str, size: str) -> None:
    hub.stand_in.choices.append(build_choices("fir", "Fir"))
    async with open_page(hub, language, size) as page:
        assert await page.locator("html").get_attribute("lang") == language
        french = language == "fr"
        await expect(page.locator("h1")).to_have_text(
            "Démarrer un serveur" if french else "Start a server"
        )
        await page.get_by_label("Partition").select_option("gpu")
        assert await page.locator("#cores").get_attribute("max") == "8"
        await page.locator("#gpu_kind").select_option("t4")
        assert await page.locator("#gpus").get_attribute("max") == "2"
        await check_width(page)
        await keep_picture(page, f"form-{size}-{language}")

        # what is wrong is said beside its field
        await page.get_by_label("Partition").select_option("short")
        await page.locator("#cores").evaluate("element => element.removeAttribute('max')")
        await page.locator("#cores").fill("99")
        await page.locator("#start_directory").fill("/project/essai")
        await page.locator("#spawn_form button").click()
        await expect(page.locator("#cores")).to_have_attribute("aria-invalid", "true")
        described = await page.locator("#cores").get_attribute("aria-describedby")
        assert described == "cores-hint cores-fault"
        await expect(page.locator("#cores-fault")).to_have_text(
            "Au plus 16 cœurs ici." if french else "At most 16 cores here."
        )
        await expect(page.locator("#start_directory")).to_have_value("/project/essai")
        await expect(page.locator("#cores")).to_have_value("99")
        await expect(page.locator("#cores")).to_be_focused()
        await check_width(page)
        await keep_picture(page, f"form-refused-{size}-{language}")

        await page.locator("#cores").fill("2")
        await page.locator("#spawn_form button").click()
        await page.wait_for_url("**/hub/launch/alice**")
        view = hub.stand_in.only()
        hub.stand_in.queue(view.id)
        waiting = "En attente de cœurs libres" if french else "Waiting for free cores"
        await expect(page.locator("#status")).to_contain_text(waiting)
        await check_width(page)
        await keep_picture(page, f"launch-waiting-{size}-{language}")

        hub.stand_in.end(
            view.id,
            EndReason.FAILED,
            words(
                "The environment module gcc/99 does not exist.",
                "Le module d'environnement gcc/99 n'existe pas.",
            ),
            log_tail="Lmod has detected the following error:\n"
            'The following module(s) are unknown: "gcc/99"\n<script>alert(1)</script>',
        )
        again = "Modifier et réessayer" if french else "Change and try again"
        await expect(page.get_by_role("link", name=again)).to_be_visible()
        await expect(page.locator("pre")).to_contain_text("<script>alert(1)</script>")
        await check_width(page)
        await keep_picture(page, f"launch-failed-{size}-{language}")
        await page.goto(f"{hub.url}/hub/home")
        await check_width(page)
        await keep_picture(page, f"home-{size}-{language}")


async def test_only_with_the_keyboard(hub: RunningHub) -> None:
    async with open_page(hub, "en", "desktop") as page:
        await page.keyboard.press("Tab")
        await expect(page.locator(".skip")).to_be_focused()
        await page.keyboard.press("Enter")
        await page.keyboard.press("Tab")
        await expect(page.locator("#partition")).to_be_focused()
        await page.keyboard.press("ArrowDown")
        await expect(page.locator("#partition")).to_have_value("gpu")
        for name in ("account", "reservation", "walltime", "cores"):
            await page.keyboard.press("Tab")
            await expect(page.locator(f"#{name}")).to_be_focused()
        await page.keyboard.press("Control+a")
        await page.keyboard.type("3")
        await page.keyboard.press("Enter")
        await page.wait_for_url("**/hub/launch/alice**")
        view = hub.stand_in.only()
        assert view.options["partition"] == "gpu"
        assert view.options["cores"] == 3
        hub.stand_in.queue(view.id)
        await expect(page.locator("#told")).to_have_text("Waiting in the queue")
        button = page.get_by_role("button", name="Cancel this launch")
        for _ in range(12):
            await page.keyboard.press("Tab")
            if await button.evaluate("element => element === document.activeElement"):
                break
        await expect(button).to_be_focused()
        await page.keyboard.press("Enter")
        await expect(page.locator("#status")).to_contain_text("This server has ended")
        assert hub.stand_in.stops == [(view.id, "alice")]


async def test_ready_leads_to_the_server(hub: RunningHub) -> None:
    async with open_page(hub, "en", "desktop") as page:
        await page.locator("#spawn_form button").click()
        await page.wait_for_url("**/hub/launch/alice**")
        view = hub.stand_in.only()
        hub.stand_in.queue(view.id)
        await expect(page.locator("#status")).to_contain_text("Waiting in the queue")
        hub.stand_in.make_ready(view.id)
        await page.wait_for_url("**/user/alice/**")
        await expect(page.locator("body")).to_have_text("the server of alice")
        await page.goto(f"{hub.url}/hub/launch/alice")
        await expect(page.get_by_role("link", name="Open the server")).to_be_visible()
        await keep_picture(page, "launch-ready-desktop-en")


async def test_connector_away_and_back(hub: RunningHub) -> None:
    async with open_page(hub, "en", "desktop") as page:
        await page.locator("#spawn_form button").click()
        await page.wait_for_url("**/hub/launch/alice**")
        view = hub.stand_in.only()
        hub.stand_in.queue(view.id)
        await expect(page.locator("#status")).to_contain_text("Waiting in the queue")
        await hub.stand_in.close()
        await expect(page.locator("#status")).to_contain_text(
            "does not answer at the moment", timeout=15000
        )
        await hub.stand_in.open()
        await expect(page.locator("#status")).to_contain_text("Waiting in the queue", timeout=20000)


async def test_without_scripts(hub: RunningHub) -> None:
    async with open_page(hub, "fr", "phone", scripts=False) as page:
        await page.locator("#spawn_form button").click()
        await page.wait_for_url("**/hub/launch/alice**")
        view = hub.stand_in.only()
        hub.stand_in.queue(view.id)
        # the page reloads itself
        await expect(page.locator("#status")).to_contain_text(
            "En attente de cœurs libres", timeout=15000
        )
        await page.get_by_role("button", name="Annuler ce lancement").click()
        await until(lambda: hub.stand_in.stops)
        assert hub.stand_in.stops == [(view.id, "alice")]


async def test_a_cluster_with_a_problem(hub: RunningHub) -> None:
    away = build_choices("fir", "Fir").model_copy(
        update={
            "problem": words("You have no login on Fir.", "Vous n'avez pas de compte sur Fir."),
            "partitions": [],
            "fetched_at": datetime.now(UTC) - timedelta(minutes=1),
        }
    )
    hub.stand_in.choices.append(away)
    async with open_page(hub, "en", "phone") as page:
        await page.get_by_role("link", name="Fir").click()
        await expect(page.locator(".alert")).to_have_text("You have no login on Fir.")
        await expect(page.locator("#spawn_form")).to_have_count(0)
