"""schemathesis, which makes requests from the OpenAPI document: no 500, nothing that the document does not say."""

import os
import pathlib
import subprocess
import sys
import uuid

import pytest
import requests

from conftest import QUEUE_SETTINGS
from program import Program

# Requests of each operation and phase; and the time for all; more of both by hand.
EXAMPLES = os.environ.get("SCHEMATHESIS_EXAMPLES", "15")
MAX_SECONDS = os.environ.get("SCHEMATHESIS_SECONDS", "60")
# The same requests each time, so that nobody else's change is blamed for what chance found; another one by hand.
SEED = os.environ.get("SCHEMATHESIS_SEED", "1")
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


# With all that administrators have.
EVERYTHING = (*QUEUE_SETTINGS, "queues.admin_mode=true", "queues.pooling=true", "queues.policy=open")


@pytest.fixture
def administered(queues, ours_only, tmp_path):
    """A queue service in which everybody may do everything."""
    program = Program(tmp_path, EVERYTHING)
    yield f"http://{program.queues}"
    assert program.process.poll() is None, "the program has ended"
    program.stop()


def test_the_document_is_served_without_any_header(queues, ours_only):
    answer = requests.get(f"{queues.http}/openapi.json", timeout=30)

    assert answer.status_code == 200
    assert answer.json()["openapi"].startswith("3.")
    assert "/v2/queues/{queue_name}/messages" in answer.json()["paths"]


@pytest.mark.timeout(300 + float(MAX_SECONDS))
def test_no_request_of_the_document_breaks_the_service(administered, tmp_path):
    command = [
        str(pathlib.Path(sys.executable).with_name("schemathesis")), "run", f"{administered}/openapi.json",
        "--header", f"X-Project-Id: {uuid.uuid4().hex}", "--header", f"Client-ID: {uuid.uuid4()}",
        "--checks", CHECKS, "--max-examples", EXAMPLES, "--generation-database", "none", "--no-color",
        "--suppress-health-check", "all", "--request-timeout", "20",
        "--max-time", MAX_SECONDS, "--seed", SEED,
    ]

    hooks = pathlib.Path(__file__).with_name("schemathesis_hooks.py")
    environment = {**os.environ, "SCHEMATHESIS_HOOKS": str(hooks), "PYTHONPATH": str(hooks.parent)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)

    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2_000:]
