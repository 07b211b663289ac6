"""The image: built by podman on a stand-in for its base (deploy/build_offline.sh), and run as docker-compose.yml says."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.deploy.compose import services
from tests.e2e.conftest import PATIENCE_S, ROOT

pytestmark = pytest.mark.container

IMAGE = "localhost/sfddm-offline:cpu"
PROGRAMS = ("mmdebstrap", "podman", "runc")
BUILD_WITHIN_S = 1800

MAKE_AN_IMAGE = """
import urllib.request
url = "http://127.0.0.1:8000/v1/images/generations"
body = b'{"model": "fashion-mnist/student-004", "seed": 1}'
request = urllib.request.Request(url, body, {"content-type": "application/json", "accept": "image/png"})
assert urllib.request.urlopen(request, timeout=60).read().startswith(b"\\x89PNG")
"""


def podman(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["podman", *arguments], capture_output=True, text=True, timeout=PATIENCE_S, check=False)


@pytest.fixture(scope="module")
def container() -> Iterator[str]:
    """Build the image, run it with the limits of the compose file, and give the container's id once it is healthy."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        pytest.skip(f"install Debian's packages {', '.join(missing)}")
    if os.geteuid() != 0:
        pytest.skip("building without a registry needs root: run this test as root")
    build = [str(ROOT / "deploy" / "build_offline.sh"), "cpu"]
    built = subprocess.run(build, capture_output=True, text=True, timeout=BUILD_WITHIN_S, check=False)
    assert built.returncode == 0, built.stderr
    service = services()["sfddm"]
    limits = ["--read-only", *(f"--cap-drop={name}" for name in service["cap_drop"])]
    limits += [f"--security-opt={option.split(':')[0]}" for option in service["security_opt"]]
    limits += [f"--tmpfs={path}" for path in service["tmpfs"]]
    limits += [f"--memory={service['deploy']['resources']['limits']['memory']}"]
    # podman's defaults raise limits, which not every root may do, and run health checks by systemd, which may be missing.
    here = ["--ulimit=nofile=4096:4096", "--ulimit=nproc=4096:4096", "--health-interval=disable"]
    started = podman("--runtime=runc", "run", "--detach", "--network=none", "--volume=/cache", *here, *limits, IMAGE)
    assert started.returncode == 0, started.stderr
    name = started.stdout.strip()
    try:
        wait_until_healthy(name)
        yield name
    finally:
        podman("rm", "--force", "--volumes", name)


def wait_until_healthy(container: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while podman("healthcheck", "run", container).returncode != 0:
        assert time.monotonic() < deadline, podman("logs", container).stderr
        time.sleep(0.5)


def inside(container: str, script: str) -> str:
    """Run a shell script in the container and return its output, whatever its exit code."""
    return podman("exec", container, "sh", "-c", script).stdout.strip()


def test_it_makes_an_image(container: str) -> None:
    made = podman("exec", container, "python", "-c", MAKE_AN_IMAGE)
    assert made.returncode == 0, made.stderr


def test_it_runs_as_a_user_who_can_change_nothing_but_the_cache(container: str) -> None:
    assert inside(container, "id -u") == "10001"
    assert inside(container, "find / -xdev -user 10001 2>/dev/null") == "/cache"
    assert inside(container, "find /opt/sfddm -perm /022 -not -type l") == ""
    assert "Read-only file system" in podman("exec", container, "touch", "/home/here").stderr
    assert inside(container, "grep -E 'CapBnd|NoNewPrivs' /proc/1/status").split() == ["CapBnd:", "0" * 16, "NoNewPrivs:", "1"]


def test_it_keeps_calibrations_in_the_cache(container: str) -> None:
    """Restart until there are two. The server keeps no calibration that a busy machine disturbed, and measures again."""
    deadline = time.monotonic() + PATIENCE_S
    while (kept := inside(container, "ls /cache/calibration").count(".json")) < 2 and time.monotonic() < deadline:
        assert podman("restart", container).returncode == 0
        wait_until_healthy(container)
    assert kept > 1


def test_it_holds_no_compiler_no_torch_and_no_cache_of_pip(container: str) -> None:
    assert inside(container, "command -v cc gcc clang") == ""
    packages = inside(container, "ls /opt/sfddm/lib/python3.11/site-packages").split()
    assert "onnxruntime" in packages
    assert not {"torch", "pip", "setuptools"} & set(packages)
    assert inside(container, "find / -xdev -path '*/.cache/*' 2>/dev/null") == ""


def test_the_runtime_calls_nobody(container: str) -> None:
    """Search the log for telemetry. ONNX Runtime's telemetry would complain here, as it cannot store an identifier."""
    assert "telemetry" not in podman("logs", container).stderr


def test_it_stops_when_asked(container: str) -> None:
    grace_s = services()["sfddm"]["stop_grace_period"].removesuffix("s")
    assert podman("stop", "--time", grace_s, container).returncode == 0
    assert podman("inspect", "--format", "{{.State.ExitCode}}", container).stdout.strip() == "0"
