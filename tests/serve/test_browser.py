"""The served app in a real browser: load, chat, pick, row in the database."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from browser import Browser, found
from selenium.webdriver import ActionChains
from selenium.webdriver.common.keys import Keys
from serving import Served, until

pytestmark = pytest.mark.skipif(
    found() is None,
    reason="no Chromium here: apt-get install chromium chromium-driver",
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    one = Browser(tmp_path_factory.mktemp("profile"))
    yield one
    one.close()


def test_load_chat_pick_and_the_row_is_in_the_database(
    browser: Browser, serve: Callable[..., Served]
) -> None:
    served = serve("--model", "starter")
    browser.enter(served)
    assert served.told["token"] not in browser.driver.current_url
    at = browser.until("Say something")
    browser.type("How do I make tea?", Keys.ENTER)  # no click: the chat has the keys
    at = browser.until("your pick", at)
    assert served.picks() == 0
    browser.type(Keys.ARROW_LEFT)
    browser.until("saved", at)
    with served.store() as store:
        [comparison] = store.comparisons()
    assert comparison.messages[-1].content == "How do I make tea?"
    assert comparison.outcome == "left"
    assert all(reply.text.strip() for reply in comparison.replies)
    assert browser.problems() == []
    # A reload is the same conversation, without the token.
    browser.open(browser.driver.current_url)
    browser.until("How do I make tea?")


def test_the_mouse_picks_and_the_end_is_told(
    browser: Browser, serve: Callable[..., Served]
) -> None:
    served = serve("--model", "starter")
    browser.enter(served)
    browser.type("How do I make tea?", Keys.ENTER)
    at = browser.until("your pick")
    screen = browser.driver.find_element("css selector", ".xterm-screen")
    width, height = screen.size["width"], screen.size["height"]
    # The middle of the right pane.
    spot = ActionChains(browser.driver).move_to_element_with_offset(
        screen, width // 4, -height // 8
    )
    spot.double_click().perform()
    browser.until("saved", at)
    with served.store() as store:
        assert [c.outcome for c in store.comparisons()] == ["right"]
    ended = browser.driver.find_element("id", "ended")
    assert not ended.is_displayed()
    ActionChains(browser.driver).key_down(Keys.CONTROL).send_keys("q").perform()
    ActionChains(browser.driver).key_up(Keys.CONTROL).perform()
    until(ended.is_displayed, what="the word that the chat has ended")
    ended.find_element("tag name", "a").click()
    browser.until("How do I make tea?", len(browser.frames))


def test_without_the_token_the_browser_gets_nothing(browser: Browser, served: Served) -> None:
    before = set(served.children("_tab"))
    for path in ("/", "/?token=x", "/static/js/textual.js"):
        browser.open(served.origin + path)
        assert browser.script("return document.querySelector('.textual-terminal')") is None
        assert served.told["token"] not in browser.driver.page_source
    assert browser.shown() == ""
    assert set(served.children("_tab")) <= before


FOREIGN = b"""<!DOCTYPE html><title>waiting</title><script>
const told = [];
const tell = (what) => { told.push(what); if (told.length == 4) document.title = told.sort(); };
const here = decodeURIComponent(location.hash.slice(1)).split(" ");
const socket = new WebSocket("ws" + here[0].slice(4) + here[1] + "ws");
socket.onopen = () => tell("socket open");
socket.onerror = () => tell("socket refused");
fetch(here[0] + here[1], {credentials: "include"}).then(
  () => tell("page read"), () => tell("page refused"));
const script = document.createElement("script");
script.src = here[0] + here[1] + "static/js/textual.js";
script.onload = () => tell("script ran");
script.onerror = () => tell("script refused");
document.head.append(script);
fetch(here[0] + here[1] + "ws", {credentials: "include", mode: "no-cors"}).then(
  (answer) => answer.text().then((text) => tell("answer empty" + text)), () => tell("no answer"));
</script>"""


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
def test_another_page_in_the_same_browser_gets_nothing(
    browser: Browser, served: Served, name: str
) -> None:
    """The worst case: the chat is open in this browser, and the page knows its very address."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(FOREIGN)

    browser.enter(served)
    place = browser.script("return location.pathname")
    browser.open("about:blank")
    until(lambda: not served.children("_tab"), what="the end of the app")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as foreign:
        threading.Thread(target=foreign.serve_forever, daemon=True).start()
        browser.open(f"http://{name}:{foreign.server_address[1]}/#{served.origin}%20{place}")
        until(lambda: browser.script("return document.title") != "waiting", what="the outcome")
        told = browser.script("return document.title").split(",")
        foreign.shutdown()
    assert {"socket refused", "page refused", "script refused"} <= set(told)
    assert told[0] in ("answer empty", "no answer")
    assert browser.shown() == ""
    assert not served.children("_tab")


def test_a_hostile_reply_does_nothing_to_the_page(
    browser: Browser, serve: Callable[..., Served], hostile: int
) -> None:
    served = serve("--server", f"http://127.0.0.1:{hostile}/v1", "--model", "any")
    browser.enter(served)
    permission = {"origin": served.origin, "permissions": ["clipboardReadWrite"]}
    browser.driver.execute_cdp_cmd("Browser.grantPermissions", permission)
    browser.script("return navigator.clipboard.writeText('mine')")
    at = 0
    for _ in range(3):
        browser.type("go on", Keys.ENTER)
        at = browser.until("your pick", at)
        browser.type(Keys.ARROW_RIGHT)
        at = browser.until("saved", at)
    assert browser.script("return document.title") == "hhchat"
    assert browser.script("return navigator.clipboard.readText()") == "mine"
    assert len(browser.driver.window_handles) == 1
    assert served.picks() == 3
