"""The examples, as a user runs them."""

import pathlib
import subprocess
import sys

import pytest

EXAMPLES = pathlib.Path(__file__).parents[3] / "examples"


@pytest.mark.parametrize("example", ["publish_and_consume", "retry_later"])
def test_an_example_does_what_it_says(program, example):
    command = [sys.executable, str(EXAMPLES / example / "main.py"), program.url]

    finished = subprocess.run(command, capture_output=True, text=True, timeout=60)

    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.strip()
