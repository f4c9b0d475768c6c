"""The process that tokenizes for `stream_workers.Workers`: tasks on stdin, tokens on what was stdout.

It ends with its parent: at the end of stdin when idle, else when it cannot hand on what it has made.
"""

import contextlib
import os
import pickle
import signal
import sys
import traceback
from typing import Any


def main() -> None:
    """Does tasks until stdin ends. The first message is the tokenizer's place and the frame; it is answered too."""
    for number in (signal.SIGINT, signal.SIGTERM):  # meant for the parent, which decides
        signal.signal(number, signal.SIG_IGN)
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # libraries talk

    from .stream_encode import Encoder

    encoder: Any = None
    while True:
        try:
            asked = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            if encoder is None:
                encoder, reply = Encoder(*asked), None
                encoder.warm()
            else:
                reply = encoder(asked)
        except Exception as error:
            if not type(error).__module__.startswith("tilth."):  # a fault of ours keeps its traceback
                error = RuntimeError(f"in a process that tokenizes:\n{traceback.format_exc()}")
            reply = error
        pickle.dump(reply, replies, protocol=5)
        replies.flush()


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):  # the parent is gone
        main()
