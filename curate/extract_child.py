"""The process that extracts pages for `extract.Extractor`: requests on stdin, replies on what was stdout.

It ends with its parent: at the end of stdin when idle, by its own alarm when a page holds it.
"""

import contextlib
import gc
import logging
import os
import resource
import signal
import sys
from datetime import date

# The parent allows the page `timeout` seconds; this alarm only matters where no parent is left to kill.
ALARM_GRACE = 2.0
# Pages of a few MB leave a heap behind that is never given back.
RETIRE_BYTES = 512 << 20


def main() -> None:
    """Serves pages until stdin ends. argv[1]: the ExtractOptions as JSON."""
    for number in (signal.SIGINT, signal.SIGTERM):  # meant for the parent, which decides
        signal.signal(number, signal.SIG_IGN)
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)

    import orjson

    from .extract import READY, REPLY, REQUEST, Extracted, ExtractOptions, extract_page

    options = ExtractOptions.model_validate_json(sys.argv[1])
    extract_page("<html><body><p>The first call imports what the others need.</p></body></html>", None, options)
    with contextlib.suppress(ValueError, OSError):  # a system without this limit
        resource.setrlimit(resource.RLIMIT_AS, (options.memory, options.memory))
    logging.disable(logging.CRITICAL)
    # Trees are freed by reference counting; frequent collections only walk the imported modules again (5% of the time).
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    replies.write(READY)
    replies.flush()
    os.dup2(1, 2)  # libraries talk; what matters is in the reply

    requests = sys.stdin.buffer
    while len(header := requests.read(REQUEST.size)) == REQUEST.size:
        url_bytes, html_bytes, crawled = REQUEST.unpack(header)
        url, html = requests.read(url_bytes).decode(), requests.read(html_bytes).decode()
        signal.setitimer(signal.ITIMER_REAL, options.timeout + ALARM_GRACE)
        result = extract_page(html, url or None, options, date.fromordinal(crawled) if crawled else None)
        signal.setitimer(signal.ITIMER_REAL, 0)
        reason = None if isinstance(result, Extracted) else result.reason
        last = reason == "memory" or _resident() > RETIRE_BYTES
        reply = orjson.dumps((reason, tuple(result)))
        replies.write(REPLY.pack(last, len(reply)) + reply)
        replies.flush()
        del html, result, reply
        if last:
            return


def _resident() -> int:
    """Bytes of memory that this process holds now; 0 where the system does not tell."""
    try:
        with open("/proc/self/statm", "rb") as statm:
            return int(statm.read().split()[1]) * resource.getpagesize()
    except OSError:
        return 0


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):  # the parent is gone
        main()
