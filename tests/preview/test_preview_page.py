# SPDX-License-Identifier: Apache-2.0
"""The preview page in a real browser: drag the divider, change strength, see the picture change."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from chromium import MISSING, Browser, wait_for
from ports import free_port
from preview_stub import StubSession, feeding

from crispstream.preview.server import PreviewServer

pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"not installed: apt install {' '.join(MISSING)}")

LEFT, RIGHT, ESCAPE = "\ue012", "\ue014", "\ue00c"
RED, GREEN = (120, 0, 0), (0, 120, 0)
PHONE = (390, 844)


@pytest.fixture(scope="module")
def desktop() -> Iterator[Browser]:
    with Browser((1280, 900)) as browser:
        yield browser


@pytest.fixture
def session() -> StubSession:
    return StubSession()


@pytest.fixture
def server(session: StubSession) -> Iterator[PreviewServer]:
    server = PreviewServer(session, port=0)
    server.start()
    with feeding(server.sink, session):
        yield server
    server.close()


@pytest.fixture
def page(desktop: Browser, server: PreviewServer) -> Iterator[Browser]:
    desktop.console()  # what was said before is not this page's
    yield opened(desktop, server.url)
    desktop.open("about:blank")


def opened(browser: Browser, url: str) -> Browser:
    browser.open(url)
    browser.until("return document.getElementById('notice').textContent === ''")
    return browser


def pixel(page: Browser, x: float, y: float = 0.3) -> tuple[int, ...]:
    """Colour of the picture at a place given as parts of its width and height."""
    script = """const c = document.getElementById('picture');
        const at = [Math.round(arguments[0] * (c.width - 1)), Math.round(arguments[1] * (c.height - 1))];
        return [...c.getContext('2d').getImageData(...at, 1, 1).data].slice(0, 3)"""
    return tuple(page.run(script, x, y))


def shown(page: Browser, x: float, wanted: tuple[int, ...]) -> None:
    """Wait until the picture has this colour there: it is drawn with the next one of the screen."""
    wait_for(lambda: near(pixel(page, x), wanted), f"{wanted} at {x}")


def near(color: tuple[int, ...], wanted: tuple[int, ...], tolerance: int = 8) -> bool:
    return all(abs(a - b) <= tolerance for a, b in zip(color, wanted, strict=True))


def place(page: Browser, x: float, y: float = 0.7) -> tuple[float, float]:
    """The same in pixels of the window."""
    box = page.run("return document.getElementById('stage').getBoundingClientRect().toJSON()")
    return box["x"] + x * box["width"], box["y"] + y * box["height"]


def divider(page: Browser) -> int:
    return int(page.run("return document.getElementById('divider').ariaValueNow"))


def text(page: Browser, identifier: str) -> str:
    return str(page.run("return document.getElementById(arguments[0]).textContent", identifier))


def test_the_divider_is_dragged(page: Browser) -> None:
    shown(page, 0.2, RED)
    shown(page, 0.8, GREEN)
    page.point(*place(page, 0.5), place(page, 0.7), place(page, 0.9))
    assert divider(page) == pytest.approx(90, abs=1)
    shown(page, 0.8, RED)
    shown(page, 0.95, GREEN)
    page.point(*place(page, 0.1))
    assert divider(page) == pytest.approx(10, abs=1)
    shown(page, 0.2, GREEN)
    page.point(*place(page, 0.3), (0, place(page, 0, 0.5)[1]))
    assert divider(page) == 0
    shown(page, 0.01, GREEN)


def test_the_strength_slider_changes_the_picture(page: Browser, session: StubSession) -> None:
    x, y, width, height = page.run("""const b = document.getElementById('strength').getBoundingClientRect();
        return [b.x, b.y, b.width, b.height]""")
    page.point(x + width / 2, y + height / 2, (x + 0.8 * width, y + height / 2), (x + width - 2, y + height / 2))
    wait_for(lambda: session.strength == 2, "set_strength(2)")
    wait_for(lambda: near(pixel(page, 0.8), (0, 240, 0)), "a brighter picture")
    wait_for(lambda: text(page, "strength-value") == "2.00", "the value")
    session.strength = 0.5  # changed from elsewhere: every page follows
    wait_for(lambda: text(page, "strength-value") == "0.50", "the slider follows")


def test_the_overlay(page: Browser) -> None:
    shown(page, 0.2, RED)
    shown(page, 0.8, GREEN)
    page.run("document.querySelector('[name=overlay][value=person]').click()")
    wait_for(lambda: pixel(page, 0.2)[0] > 180 and pixel(page, 0.2)[2] > 60, "people are left")
    shown(page, 0.8, GREEN)
    page.run("document.querySelector('[name=overlay][value=blur]').click()")
    wait_for(lambda: pixel(page, 0.8)[0] > 50 and pixel(page, 0.2)[0] > 140, "blur is everywhere")
    page.run("document.querySelector('[name=overlay][value=\"\"]').click()")
    shown(page, 0.2, RED)
    shown(page, 0.8, GREEN)


def test_another_preset(page: Browser, session: StubSession) -> None:
    change = """const s = document.getElementById(arguments[0]); s.value = arguments[1];
        s.dispatchEvent(new Event('change'))"""
    page.run(change, "preset", "small")
    wait_for(lambda: session.asked == [("small", "auto")], "switch")
    wait_for(lambda: "small" in text(page, "facts"), "the page says so")
    page.run(change, "backend", "torch")
    wait_for(lambda: session.asked[1:] == [("small", "torch")], "switch")
    page.run("document.getElementById('preset').append(new Option('huge', 'huge'))")
    page.run(change, "preset", "huge")
    wait_for(lambda: "unknown preset 'huge'" in text(page, "toast"), "the error is shown")
    wait_for(lambda: page.run("return document.getElementById('preset').value") == "small", "back to what is")
    wait_for(lambda: page.run("return document.getElementById('toast').hidden"), "an error is not shown for ever")


def test_the_engine_that_is_and_the_one_that_comes(page: Browser, session: StubSession) -> None:
    def chosen() -> list[str]:
        return list(page.run("return ['preset', 'backend'].map(name => document.getElementById(name).value)"))

    session.backend, session.error = "onnxruntime", "an old one"
    wait_for(lambda: chosen() == ["nano", "onnxruntime"], "the real one")
    wait_for(lambda: "an old one" in text(page, "toast"), "the old error")
    session.slow = True
    page.run("""const s = document.getElementById('backend'); s.focus(); s.value = 'torch';
        s.dispatchEvent(new Event('change'))""")
    wait_for(lambda: session.opening is not None and text(page, "toast") == "", "asked, and a status since")
    page.until("return new Promise(done => setTimeout(() => done(true), 1200))")
    assert text(page, "notice") == "Opening nano, engine torch" and chosen() == ["nano", "torch"]
    session.error = "it does not open"  # before it is no longer being opened, as in the real one
    session.opening = None
    wait_for(lambda: chosen() == ["nano", "onnxruntime"] and text(page, "notice") == "", "back to what is")
    wait_for(lambda: "it does not open" in text(page, "toast"), "why")


def test_the_keyboard(page: Browser, session: StubSession) -> None:
    page.keys(RIGHT * 5)
    assert divider(page) == 60
    page.keys(LEFT * 10)
    assert divider(page) == 40
    page.keys("m")
    wait_for(lambda: pixel(page, 0.2)[0] > 180, "the overlay")
    page.keys("m")
    shown(page, 0.2, RED)
    page.keys("++")
    wait_for(lambda: session.strength == 1.2, "stronger")
    page.keys("-")
    wait_for(lambda: session.strength == 1.1, "weaker")
    page.keys("?")
    assert page.run("return document.getElementById('help').open")
    page.keys(ESCAPE)
    wait_for(lambda: not page.run("return document.getElementById('help').open"), "the help is closed")
    page.keys(" ")
    assert "Frozen" in text(page, "notice")
    session.strength = 2
    page.until("return new Promise(done => setTimeout(() => done(true), 600))")
    assert pixel(page, 0.8)[1] < 150, "frozen"
    page.keys(" ")
    wait_for(lambda: pixel(page, 0.8)[1] > 230, "going on")


def test_figures_charts_and_outputs(page: Browser, session: StubSession) -> None:
    wait_for(lambda: text(page, "tile-latency") == "41ms", "the first figures")
    assert text(page, "tile-fps") == "24.9of 25.0" and text(page, "source-name") == session.name
    assert text(page, "source-state") == "live" and "out.mkv" in text(page, "sink-rows")
    wait_for(lambda: text(page, "tile-page") != "–ms", "delay to the page")
    drawn = """return [...document.querySelectorAll('.chart canvas')].map(c => {
        const p = c.getContext('2d').getImageData(0, 0, c.width, c.height).data; const colors = new Set();
        for (let i = 0; i < p.length; i += 4) if (p[i + 3] > 200) colors.add(p[i] + ',' + p[i + 1] + ',' + p[i + 2]);
        return [colors.has('63,182,245'), colors.has('245,181,74'), colors.has('255,95,162')] })"""
    wait_for(lambda: page.run(drawn)[1] == [True, True, True], "p50, p95 and p99")
    wait_for(lambda: page.run(drawn)[0][0], "the rate")
    wait_for(lambda: page.run(drawn)[3] == [False, False, True], "the share of blur is not known")


def test_a_connection_that_is_back_is_not_reported_lost(page: Browser) -> None:
    """The answer to why one was lost comes when the next one, which looking at the page has begun, is open already."""
    states = page.run(
        """return import('/static/link.js').then(async ({ Link }) => {
            const real = { fetch, WebSocket }, states = [], sockets = [];
            const settle = () => new Promise(done => setTimeout(done, 50));
            let answer;
            window.fetch = () => new Promise(done => { answer = done });
            window.WebSocket = class { constructor() { sockets.push(this) } send() {} close() {} };
            const link = new Link({ state: name => states.push(name) });
            sockets[0].onclose();
            link.open();
            sockets[1].onopen();
            answer({ ok: true, status: 200 });
            await settle();
            sockets[1].onclose();
            answer({ ok: true, status: 200 });
            await settle();
            link.close();
            Object.assign(window, real);
            return states })"""
    )
    assert states == ["open", "lost"]


@pytest.mark.parametrize("way", ["replace", "add"])
def test_charts_never_run_backwards(page: Browser, way: str) -> None:
    """The session's clock starts again, in what the server remembers or while the page is open."""
    drawn = page.run(
        """const samples = [50, 51, 0, 1, 1, 2, 400].map(t => ({t, fps: [1, 1], latency: [1, 1, 1], drops: 0,
            shares: [0, 0]}));
        return import('/static/charts.js').then(({ Charts }) => {
            const charts = new Charts(document.createElement('div'));
            const times = () => charts.samples.map(sample => sample.t);
            const draw = part => arguments[0] === 'add' ? part.forEach(s => charts.add(s)) : charts.replace(part);
            draw(samples.slice(0, 6));
            const early = times();
            draw(samples);
            return [early, times()] })""",
        way,
    )
    assert drawn == [[0, 1, 2], [400]]


def test_nothing_comes_from_elsewhere_and_nothing_is_complained_of(page: Browser, server: PreviewServer) -> None:
    names = "performance.getEntriesByType('resource').map(entry => entry.name)"
    urls = page.until(f"const names = {names}; return names.length >= 6 ? names : null")
    assert all(url.startswith(server.url) for url in urls)
    assert page.console() == []


def test_names_and_roles(page: Browser) -> None:
    unnamed = """return [...document.querySelectorAll('button, select, input, canvas, [role=slider]')].filter(e =>
        !(e.ariaLabel || e.textContent.trim() || e.labels?.[0]?.textContent.trim())).map(e => e.outerHTML)"""
    assert page.run(unnamed) == []
    assert page.run("return document.documentElement.lang") == "en"
    assert page.run("return document.getElementById('source').ariaLive") == "polite"


def test_the_page_comes_back_when_the_server_does(desktop: Browser, session: StubSession) -> None:
    port = free_port()
    first = PreviewServer(session, port=port)
    first.start()
    with feeding(first.sink, session):
        opened(desktop, first.url)
    first.close()
    wait_for(lambda: "connection is lost" in text(desktop, "notice"), "the page says so")
    with ExitStack() as stack:
        again = PreviewServer(session, port=port)
        again.start()
        stack.callback(again.close)
        stack.enter_context(feeding(again.sink, session))
        wait_for(lambda: text(desktop, "notice") == "", "pictures again")
        desktop.open("about:blank")


def test_the_token_leaves_the_address_bar(desktop: Browser, session: StubSession) -> None:
    server = PreviewServer(session, port=0, token="a token of enough characters")
    server.start()
    with feeding(server.sink, session):
        desktop.open(server.url)
        assert "a token is needed" in desktop.run("return document.body.textContent")
        opened(desktop, server.url + "?token=a%20token%20of%20enough%20characters")
        assert desktop.run("return location.href") == server.url
        assert desktop.run("return document.cookie") == ""
        desktop.open("about:blank")
    server.close()


def test_a_phone(server: PreviewServer) -> None:
    with Browser(PHONE, phone=True) as phone:
        opened(phone, server.url)
        assert phone.run("return [innerWidth, document.documentElement.scrollWidth]") == [PHONE[0], PHONE[0]]
        box = phone.run("return document.getElementById('stage').getBoundingClientRect().toJSON()")
        assert box["width"] == PHONE[0] and box["width"] / box["height"] == pytest.approx(16 / 9, rel=0.01)
        phone.point(*place(phone, 0.5), place(phone, 0.7), place(phone, 0.8), touch=True)
        assert divider(phone) == pytest.approx(80, abs=2)
        shown(phone, 0.75, RED)
        shown(phone, 0.9, GREEN)
        small = """return [...document.querySelectorAll('body > :not(dialog) :is(button, select, .segments label)')]
            .filter(e => e.getBoundingClientRect().height < 36).map(e => e.outerHTML)"""
        assert phone.run(small) == [], "too small for a finger"
