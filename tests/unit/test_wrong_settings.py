"""Commands that read the services' settings say which one is wrong in one sentence, and never its value."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from infra.local.settings import ROOT

TOPICS = ("infra.topics",)
LETTERS = ("infra.local.cli", "dlq", "list")
IN_A_CONTAINER = ("infra.docker.operate", "dlq", "list")
AGAIN = ("infra.local.cli", "rewind", "insights")
CASES = {
    "a value": ({"KAFKA_SASL_MECHANISM": "hunter2"}, "wrong settings: KAFKA_SASL_MECHANISM: input should be 'PLAIN', "),
    "no password": (
        {"KAFKA_SECURITY_PROTOCOL": "SASL_SSL", "KAFKA_SASL_USERNAME": "hunter2"},
        "wrong settings: KAFKA_SECURITY_PROTOCOL and KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD: with ",
    ),
    "no certificates": (
        {"KAFKA_SECURITY_PROTOCOL": "SSL", "KAFKA_SSL_CA_PATH": "/nowhere/hunter2.pem"},
        "wrong settings: KAFKA_SSL_CA_PATH: name a file of certificates (PEM) that this account may read (No such file",
    ),
}


def said(command: tuple[str, ...], environment: dict[str, str], folder: Path) -> tuple[int, str]:
    """Exit code and all that it printed."""
    env = {**os.environ, "MYMACRO_NAMED": "", "MYMACRO_DATA": str(folder), "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"}
    run = [sys.executable, "-m", *command]
    done = subprocess.run(run, cwd=ROOT, env=env | environment, capture_output=True, text=True, check=False, timeout=30)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("command", [TOPICS, LETTERS, IN_A_CONTAINER, AGAIN], ids=" ".join)
def test_a_wrong_way_into_kafka_is_one_sentence(tmp_path: Path, command: tuple[str, ...], case: str) -> None:
    environment, sentence = CASES[case]
    code, text = said(command, environment, tmp_path)
    assert (code, len(text.splitlines())) == (1, 1), text
    assert text.startswith(sentence)
    assert "hunter2" not in text


def test_a_number_of_copies_that_is_none_is_one_sentence(tmp_path: Path) -> None:
    code, text = said(TOPICS, {"KAFKA_REPLICATION": "three"}, tmp_path)
    assert code == 1
    assert text == "wrong settings: KAFKA_REPLICATION: say how many brokers hold each record, such as 3.\n"


def test_of_the_local_stacks_own_settings_the_value_is_said(tmp_path: Path) -> None:
    code, text = said(LETTERS, {"MYMACRO_PORTS_FROM": "high", "KAFKA_BOOTSTRAP_SERVERS": ""}, tmp_path)
    assert code == 1
    assert text.startswith("mymacro: wrong settings: MYMACRO_PORTS_FROM=high: input should be a valid integer")
