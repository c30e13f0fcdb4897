"""How soon the web page can be used, and how smoothly an album scrolls, in Chromium.

    beholder serve --album ALBUM
    python benchmarks/browser.py http://127.0.0.1:8000/ --album

Times are in milliseconds. On a machine that does nothing else, a smooth album has most frames at 17, no task over 50.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
from typing import Any

from playwright.sync_api import sync_playwright

RECORD_FRAMES = """() => {
    window.tasks = [];
    new PerformanceObserver(list => list.getEntries().forEach(task => tasks.push(task.duration)))
        .observe({entryTypes: ["longtask"]});
    window.frames = [];
    let before = performance.now();
    const frame = now => { frames.push(now - before); before = now; requestAnimationFrame(frame); };
    requestAnimationFrame(frame);
}"""


def time_to_ready(browser: Any, address: str) -> float:
    """Return the time from navigation until the page says that it is ready."""
    context = browser.new_context(locale="en-GB", bypass_csp=True)
    page = context.new_page()
    page.goto(address)
    page.get_by_role("status").first.filter(has_text="Ready").wait_for()
    taken = page.evaluate("performance.now()")
    context.close()
    return taken


def scroll(browser: Any, address: str) -> dict[str, float]:
    """Turn the wheel over the album for a few seconds; return the median and 95th percentile of the frame times."""
    context = browser.new_context(locale="en-GB", bypass_csp=True)
    page = context.new_page()
    page.goto(f"{address}#/search")
    page.locator("#albumgrid img").first.wait_for()
    page.evaluate(RECORD_FRAMES)
    page.mouse.move(600, 500)
    for _ in range(200):
        page.mouse.wheel(0, 700)
        page.wait_for_timeout(16)
    page.evaluate("scrollTo(0, document.documentElement.scrollHeight / 2)")
    page.wait_for_timeout(500)
    frames, tasks = sorted(page.evaluate("frames")), page.evaluate("tasks")
    context.close()
    return {
        "median frame": round(statistics.median(frames)),
        "95th percentile": round(frames[len(frames) * 95 // 100]),
        "longest task": round(max(tasks, default=0)),
    }


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("address")
    options.add_argument("--album", action="store_true", help="scroll the album as well")
    options.add_argument("--rounds", type=int, default=5)
    given = options.parse_args()
    executable = next(found for name in ("chromium", "google-chrome") if (found := shutil.which(name)))
    with sync_playwright() as driver:
        arguments = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
        browser = driver.chromium.launch(executable_path=executable, args=arguments)
        times = [round(time_to_ready(browser, given.address)) for _ in range(given.rounds)]
        print(json.dumps({"ready": min(times), "slowest": max(times)}))
        if given.album:
            print(json.dumps(scroll(browser, given.address)))


if __name__ == "__main__":
    main()
