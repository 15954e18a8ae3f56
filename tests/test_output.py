"""What a job prints is kept, whoever prints it, and only the end of it."""

import os
import subprocess
import sys

import pytest

from emobench.execution import output
from emobench.execution.output import captured


def run_python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)


def test_captured_keeps_what_python_native_code_and_children_print():
    code = """
import ctypes, os, subprocess, sys
from emobench.execution.output import captured
print("before")
with captured() as log:
    print("by print")
    print("on stderr", file=sys.stderr)
    os.write(1, b"by descriptor\\n")
    ctypes.CDLL(None).puts(b"by stdio")
    ctypes.CDLL(None).fflush(None)
    subprocess.run(["echo", "by a child"], check=True)
    kept = sorted(log.getvalue().splitlines())
    ctypes.CDLL(None).puts(b"in a buffer when the block ends")
print("after")
print(kept, file=sys.stderr)
"""
    done = run_python(code)
    assert done.stdout == "before\nafter\n"
    assert done.stderr == "['by a child', 'by descriptor', 'by print', 'by stdio', 'on stderr']\n"


def test_log_keeps_the_end_and_stays_small():
    with captured() as log:
        for number in range(40_000):
            print(f"line {number:06d} {'x' * 40}")
        size = os.fstat(log.fileno()).st_size
        text = log.getvalue()
    assert size <= output.MAX_BYTES + 100
    assert text.endswith("line 039999 " + "x" * 40 + "\n")
    assert len(text) == output.TAIL_BYTES


def test_job_goes_on_where_there_is_no_room_for_a_log(monkeypatch):
    def refuse():
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(output.tempfile, "TemporaryFile", refuse)
    with captured() as log:
        print("lost")
        assert log.getvalue() == ""


def test_capture_ends_with_its_block_even_when_that_raises(capfd):
    def print_and_raise():
        with captured():
            os.write(1, b"inside\n")
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        print_and_raise()
    os.write(1, b"outside\n")
    assert capfd.readouterr().out == "outside\n"


def test_closed_descriptors_are_no_obstacle():
    code = "import os; os.close(1); os.close(2)\nfrom emobench.execution.output import captured, free_stdout\n"
    code += "free_stdout()\nwith captured() as log:\n    print('x')\n    assert log.getvalue() == 'x\\n'"
    run_python(code)
