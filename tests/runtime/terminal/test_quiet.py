from __future__ import annotations

import os
import sys
from threading import Event, Thread

from cxrseg.runtime.terminal.console import echo
from cxrseg.runtime.terminal.quiet import quiet


def test_notes_of_libraries_are_dropped_and_our_lines_wait(capfd) -> None:
    inside, leave = Event(), Event()

    def decode() -> None:
        with quiet():
            os.write(2, b"a note of a library\n")
            inside.set()
            leave.wait(60)

    decoder = Thread(target=decode)
    writer = Thread(target=echo, args=("our line",), kwargs={"err": True})
    decoder.start()
    assert inside.wait(60)
    writer.start()
    writer.join(0.3)
    waited = writer.is_alive()
    leave.set()
    decoder.join()
    writer.join()
    assert waited and capfd.readouterr().err == "our line\n"


def test_standard_error_is_back_after_a_failure(capfd) -> None:
    try:
        with quiet():
            raise ZeroDivisionError
    except ZeroDivisionError:
        sys.stderr.write("back\n")
        sys.stderr.flush()
    assert capfd.readouterr().err == "back\n"
