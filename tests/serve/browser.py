"""A headless Chromium and what it shows of a served app."""

from __future__ import annotations

import base64
import json
import os
import shutil
from pathlib import Path
from typing import Any

from selenium.webdriver import ActionChains, Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from serving import Served, until

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless=new --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage --window-size=1280,880"
)


def found() -> tuple[str, str] | None:
    """Chromium and its driver, when both are on this machine."""
    browser = next(filter(None, map(shutil.which, NAMES)), None)
    driver = shutil.which("chromedriver")
    return (browser, driver) if browser and driver else None


class Browser:
    """Keys go to whatever has the focus; what the app sent is read off the socket's frames,
    because the terminal in the page is a picture."""

    def __init__(self, profile: Path) -> None:
        programs = found()
        assert programs is not None
        options = ChromeOptions()
        options.binary_location = programs[0]
        for flag in [*FLAGS.split(), f"--user-data-dir={profile}"]:
            options.add_argument(flag)
        if os.getuid() == 0:
            options.add_argument("--no-sandbox")
        options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
        self.driver = Chrome(options=options, service=Service(programs[1]))
        self.frames = ""  # what apps sent since the page was opened
        self.console: list[str] = []

    def open(self, address: str) -> None:
        self.driver.get_log("performance")
        self.frames = ""
        self.driver.get(address)

    def enter(self, served: Served) -> None:
        """With the token, until one can type."""
        self.open(served.told["url"])
        self.until("ready")

    def type(self, *keys: str) -> None:
        ActionChains(self.driver).send_keys(*keys).perform()

    def script(self, words: str) -> Any:
        return self.driver.execute_script(words)

    def shown(self) -> str:
        for entry in self.driver.get_log("performance"):
            event = json.loads(entry["message"])["message"]
            if event["method"] == "Network.webSocketFrameReceived":
                frame = event["params"]["response"]
                if frame["opcode"] == 2:
                    self.frames += base64.b64decode(frame["payloadData"]).decode("utf-8", "replace")
        return self.frames

    def until(self, words: str, after: int = 0) -> int:
        """Wait for words from the app; how much it had sent by then."""
        until(lambda: words in self.shown()[after:], what=repr(words))
        return len(self.frames)

    def problems(self) -> list[str]:
        """What the page's console calls severe: a script or style that the policy blocked."""
        return [e["message"] for e in self.driver.get_log("browser") if e["level"] == "SEVERE"]

    def close(self) -> None:
        self.driver.quit()
