"""What a person types and sees, as an asciinema recording (version 2: a header, then `[seconds, "o", text]` a line)."""

import json
import time

COLUMNS, ROWS = 112, 30
LONGEST_PAUSE = 1.5  # seconds of a wait that are shown
READING = 0.8  # seconds after an output
PROMPT, PLAIN, COMMENT = "\x1b[1;32m", "\x1b[0m", "\x1b[2m"


class Recording:
    """Written to `path`, if there is one; printed in any case where `aloud` is set."""

    def __init__(self, path=None, aloud=False):
        self.path, self.aloud = path, aloud
        self.events = []
        self.shown = 0.0  # seconds of the recording
        self.last = time.monotonic()

    def typed(self, host, command):
        self._add(f"{PROMPT}{host}${PLAIN} {command}\n", 0.4)

    def printed(self, text):
        if text:
            self._add(text if text.endswith("\n") else f"{text}\n", READING)

    def said(self, comment):
        self._add(f"{COMMENT}# {comment}{PLAIN}\n", 0.4)

    def _add(self, text, pause):
        if self.aloud:
            print(text, end="", flush=True)
        now = time.monotonic()
        self.shown += min(now - self.last, LONGEST_PAUSE)
        self.last = now
        self.events.append([round(self.shown, 2), "o", text.replace("\n", "\r\n")])
        self.shown += pause

    def close(self):
        if self.path is None:
            return
        header = {"version": 2, "width": COLUMNS, "height": ROWS, "title": "The life of two jobs", "env": {"TERM": "xterm"}}
        self._add("", 4)
        self.events.append([round(self.shown, 2), "o", ""])
        lines = [json.dumps(each, ensure_ascii=False) for each in [header, *self.events]]
        self.path.write_text("\n".join(lines) + "\n")
