"""Draws docs/browser.png: `python tests/serve/picture.py`. Needs Chromium and its driver."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from browser import Browser
from selenium.webdriver.common.keys import Keys
from serving import Served

PICTURE = Path(__file__).resolve().parents[2] / "docs" / "browser.png"
SAID = ("How do I make tea?", "What should I do this weekend?")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        served = Served(Path(folder) / "home", "--model", "starter")
        browser = Browser(Path(folder) / "profile")
        try:
            browser.driver.set_window_size(1180, 720)
            browser.enter(served)
            at = 0
            for last, said in enumerate(SAID, 1):
                browser.type(said, Keys.ENTER)
                at = browser.until("your pick", at)
                if last < len(SAID):
                    browser.type("2")
                    at = browser.until("saved", at)
            time.sleep(1)  # until the picture of it is drawn
            browser.driver.save_screenshot(str(PICTURE))
        finally:
            browser.close()
            served.stop()


if __name__ == "__main__":
    main()
