"""What the other tests here rely on: a page that is at fault is seen to be."""

from tests.browser.chromium import Chromium, Tab

HEAD = "data:text/html,<!doctype html><html lang=en><meta name=viewport content='width=device-width'><title>x</title>"


def test_faults_are_seen(browser: Chromium) -> None:
    faulty = (
        f"{HEAD}<div style='width:500px;height:9px'></div>"
        "<img src='http://127.0.0.1:1/x.png'><script>console.error('said'); thrown.here()</script>"
    )
    tab = Tab(browser, faulty, 360, 740, "dark")
    complaints = str(tab.complaints)
    for fault in ("said", "thrown is not defined", "ERR_"):
        assert fault in complaints
    assert "http://127.0.0.1:1/x.png" in tab.requests
    assert tab.evaluate("document.documentElement.scrollWidth") == 508
    assert tab.evaluate("matchMedia('(prefers-color-scheme: dark)').matches") is True


def test_faultless_page(browser: Chromium) -> None:
    tab = Tab(browser, f"{HEAD}<p>x", 360, 740, "light")
    assert tab.complaints == []
    assert tab.evaluate("document.documentElement.scrollWidth") == 360
    assert tab.evaluate("matchMedia('(prefers-color-scheme: dark)').matches") is False
    assert ("paragraph", "") in tab.roles()
