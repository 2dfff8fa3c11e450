# SPDX-License-Identifier: Apache-2.0
"""The process behind ``WindowSink``: shows frames with OpenCV."""

from __future__ import annotations

import select

import cv2

from crispstream.frame import PixelFormat
from crispstream.sinks.child import Feed

# Seconds between two looks at the window while no frames come; a window that nobody serves looks dead.
_LOOK = 0.02
_ESCAPE = 27
# No window opens larger; it can be made larger.
_WIDEST = 1600


def main() -> None:
    """Obey the orders that come through standard input until it ends or the window is closed."""
    feed = Feed()
    if not feed.about:
        return
    try:
        _show(feed)
    except cv2.error as error:
        feed.say(error=(str(error).strip() or type(error).__name__).splitlines()[0])


def _show(feed: Feed) -> None:
    title, width, height = feed.about["title"], feed.about["width"], feed.about["height"]
    cv2.namedWindow(title, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | cv2.WINDOW_GUI_NORMAL)
    scale = min(1.0, _WIDEST / width)
    cv2.resizeWindow(title, round(width * scale), round(height * scale))
    feed.say(open="")
    shown = False
    while True:
        if select.select([feed], [], [], _LOOK)[0]:
            order = feed.next(PixelFormat.BGR24)
            if order is None:
                break
            cv2.imshow(title, order.frame.planes[0])
            shown = True
        key = cv2.waitKey(1) & 0xFF
        if key in (_ESCAPE, ord("q")) or (shown and _is_gone(title)):
            feed.say(closed="the window was closed")
            break
    cv2.destroyAllWindows()


def _is_gone(title: str) -> bool:
    try:
        return cv2.getWindowProperty(title, cv2.WND_PROP_VISIBLE) < 1
    except cv2.error:  # Qt has no window any more to ask
        return True
