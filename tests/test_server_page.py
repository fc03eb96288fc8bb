"""The web page: what it is served with, and in headless Chromium where one is installed, how it behaves."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_engine import FakeEngine, fake_llm
from serving import Serving, serving

KEY = "first-key-1"
HOSTILE = (
    "<script>document.title='owned'</script> <img src=x onerror=document.title='owned'> "
    "[link](javascript:document.title='owned') **bold** [good](https://example.org/)"
)


@pytest.fixture(scope="module")
def guarded() -> Iterator[Serving]:
    with serving(lambda: fake_llm(FakeEngine(lambda p: p)), keys=(KEY,)) as server:
        yield server


def test_page_needs_no_key_and_allows_nothing_else(guarded: Serving) -> None:
    for path in ("/", "/page/main.js", "/page/style.css"):
        reply = guarded.get(path)
        assert reply.status == 200
        policy = reply.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self';" in policy
        assert "unsafe" not in policy
        assert guarded.get(path, **{"if-none-match": reply.headers["etag"]}).status == 304
        assert guarded.post(path, {}).status == 401
        assert guarded.get(path, host="evil.example").status == 403
    assert guarded.get("/page/../app.py").status == 401


def test_page_asks_nobody_else() -> None:
    folder = Path(__file__).parent.parent / "pyllm" / "server" / "page"
    page = (folder / "index.html").read_text(encoding="utf-8")
    assert "//" not in page
    assert "style=" not in page
    for file in folder.glob("*.js"):
        assert "innerHTML" not in file.read_text(encoding="utf-8"), file.name


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium: pip install '.[browser]'")
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    chromium, driver = next(filter(None, map(shutil.which, names)), None), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("no chromium (or Google Chrome) with its chromedriver is in PATH")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in ("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-sync"):
        options.add_argument(f"--{flag}")
    options.add_argument("--disable-background-networking")
    options.add_argument("--disable-component-update")
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('chromium')}")
    found = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield found
    found.quit()


def until(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 60
    while not (found := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
    return found


def test_hostile_text_stays_text(guarded: Serving, browser: Any) -> None:
    browser.get(f"{guarded.base}/page/icon.svg")
    browser.get(f"{guarded.base}/")
    until(lambda: browser.find_elements("css selector", "dialog[open]"))  # it asks for the key
    shown = browser.execute_async_script(
        """const [text, done] = arguments;
        import("/page/markdown.js").then(({ show }) => {
          const node = document.createElement("div");
          document.body.append(node);
          show(node, text);
          done([node.textContent, node.querySelectorAll("script, img").length,
            [...node.querySelectorAll("a")].map((a) => `${a.href} ${a.rel}`),
            node.querySelectorAll("strong").length]);
        });""",
        HOSTILE,
    )
    text, active, links, bold = shown
    assert "<script>document.title='owned'</script>" in text
    assert "<img src=x onerror=" in text
    assert "javascript:" in text
    assert active == 0
    assert links == ["https://example.org/ noopener noreferrer nofollow"]
    assert bold == 1
    assert "owned" not in browser.title


GROWING = (
    "A|b\n--|--\n1|2\n\ntext\n- one\n  - two\n\n- three\nlazy\n\n1. x\n\n```py\na\n\n- b\n```\n"
    "> q\n> r\n\n# T\n---\n"
    "end **bold** `c`\n-- \n--\n~~~\nopen"
)


def test_a_growing_answer_looks_as_if_it_had_come_at_once(guarded: Serving, browser: Any) -> None:
    browser.get(f"{guarded.base}/")
    numbers, differing, kept = browser.execute_async_script(
        """const [text, done] = arguments;
        import("/page/markdown.js").then(({ show }) => {
          const grown = document.createElement("div");
          const differing = [];
          let first, kept = true;
          for (let end = 1; end <= text.length; end++) {
            const whole = document.createElement("div");
            show(whole, text.slice(0, end));
            show(grown, text.slice(0, end));
            if (grown.innerHTML !== whole.innerHTML) differing.push(text.slice(0, end));
            if (grown.children.length > 3) kept &&= (first ??= grown.firstChild) === grown.firstChild;
          }
          const numbers = [...grown.querySelectorAll("ol")].map((list) => list.start);
          show(grown, "short");
          done([numbers, grown.textContent === "short" ? differing : ["short"], kept]);
        });""",
        GROWING,
    )
    assert numbers == [1]
    assert differing == []
    assert kept  # what is settled is not drawn again


def test_key_send_and_regenerate(guarded: Serving, browser: Any) -> None:
    browser.get(f"{guarded.base}/")
    field = until(lambda: browser.find_elements("css selector", "dialog[open] input"))[0]
    field.send_keys(KEY + "\n")
    until(lambda: browser.find_elements("css selector", "#model option"))
    browser.find_element("id", "prompt").send_keys("hello\n")

    def answered() -> Any:
        return browser.find_elements("xpath", "//li[@class='assistant']//button[text()='Regenerate']")

    until(answered)[0].click()
    until(lambda: "2/2" in browser.find_element("id", "messages").text)
    browser.find_element("css selector", "[aria-label='Previous answer']").click()
    until(lambda: "1/2" in browser.find_element("id", "messages").text)
    browser.refresh()
    until(lambda: "1/2" in browser.find_element("id", "messages").text)


WIDTHS = {"desk": 1280, "phone": 360}


@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_fits_its_width_and_works_by_keyboard(browser: Any, width: int) -> None:
    with serving(
        lambda: fake_llm(FakeEngine(lambda p: b"| a | b |\n|--|--|\n| 1 | 2 |\n" + b"word" * 50))
    ) as server:
        screen = {"width": width, "height": 740, "deviceScaleFactor": 1, "mobile": width < 500}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        browser.get(f"{server.base}/")
        until(lambda: browser.find_elements("css selector", "#model option"))
        browser.switch_to.active_element.send_keys("hello\n")  # the message field has the focus
        until(lambda: browser.find_elements("xpath", "//button[text()='Regenerate']"))
        for view in ("chat", "metrics"):
            wide, inner = browser.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
            assert wide <= inner, view
            nameless = browser.execute_script(
                """return [...document.querySelectorAll("button, input, select, textarea, a[href], [tabindex]")]
                  .filter((e) => e.offsetParent && !(e.ariaLabel || e.labels?.length || e.textContent.trim()
                    || e.getAttribute("aria-labelledby"))).map((e) => e.outerHTML)"""
            )
            assert nameless == [], view
            tab = browser.find_element("id", "tab-chat")
            browser.execute_script("arguments[0].focus()", tab)
            tab.send_keys("\ue014")  # the right arrow key: the next tab
        assert browser.find_element("id", "metrics").is_displayed()
        until(lambda: "Tokens per second" in browser.find_element("id", "metrics").text)
