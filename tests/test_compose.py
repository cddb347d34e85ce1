"""docker-compose.yml: valid by the Compose Specification, and streamlearn has every command in it."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parent.parent
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
COMMANDS = [service["command"] for service in SERVICES.values() if "command" in service]


def has_compose() -> bool:
    docker = shutil.which("docker")
    asked = docker and subprocess.run([docker, "compose", "version"], capture_output=True, check=False)
    return bool(asked) and asked.returncode == 0


def test_it_follows_the_compose_schema() -> None:
    schema = json.loads((ROOT / "tests" / "data" / "compose-spec.json").read_text())
    jsonschema.Draft7Validator(schema).validate(COMPOSE)


@pytest.mark.skipif(not has_compose(), reason="the compose plugin of docker is not installed")
def test_docker_compose_accepts_it() -> None:
    subprocess.run(["docker", "compose", "config", "--quiet"], cwd=ROOT, check=True)


def test_services_wait_only_for_services_that_exist() -> None:
    waited_for = {name for service in SERVICES.values() for name in service.get("depends_on", {})}
    assert waited_for == {"kafka", "topics"}
    assert waited_for <= SERVICES.keys()


def test_the_image_copies_only_what_the_repository_has() -> None:
    copies = re.findall(r"^COPY (.*) \S+$", SERVICES["serve"]["build"]["dockerfile_inline"], re.MULTILINE)
    sources = " ".join(copies).split()
    assert sources
    assert [name for name in sources if not (ROOT / name).exists()] == []


def streamlearn(*words: str) -> str:
    """What the command line prints; it must end with 0."""
    code = "import sys; from streamlearn.cli import main; sys.argv[0] = 'streamlearn'; main()"
    command = [sys.executable, "-c", code, *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_streamlearn_has_every_command_and_option(command: str) -> None:
    program, *words = command.split()
    assert program == "streamlearn"
    shown = streamlearn(*words, "--help")
    for option in (word for word in words if word.startswith("-")):
        assert re.search(rf"(?<!\S){option}\b", shown), f"{option} is not in the help of {command}"


@pytest.mark.parametrize("command", COMMANDS)
def test_the_configuration_it_names_is_valid(command: str) -> None:
    file = command.partition("--config ")[2].split()[0]
    assert "shuttle" in streamlearn("config", "show", "--config", file)
