"""Models change under load: no request fails, and every image comes from the weights that its answer names."""

from __future__ import annotations

import base64
import io
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from models.catalogue import Resolved, discover
from service.engine.request import ImageSpec
from tests.e2e.conftest import PATIENCE_S, Server, serving, sfddm
from tests.service.engine.support import reference
from tests.tiny import CLASSES, make_model, make_tiny_zoo

TOKEN = "a token for this test"
NAME = "tiny/student-008"
SEEDS = 4
CLIENTS = 4
RELOADS = 12


@contextmanager
def reloadable(tmp_path: Path, **changes: str) -> Iterator[tuple[Server, Path]]:
    zoo = make_tiny_zoo(tmp_path / "zoo")
    options = ("--zoo", str(zoo), "--default-model", NAME, "--threads", "1", "--log-format", "json")
    with serving(tmp_path / "log", *options, SFDDM_ADMIN_TOKEN=TOKEN, **changes) as server:
        yield server, zoo


def retrain(zoo: Path, seed: int) -> None:
    """Put other weights into the folder of NAME, by a rename, so that no half-written file is ever read."""
    new = zoo.with_name("new")
    make_model(new, "tiny", "student-008", teacher_steps=32, steps=8, schedule="cosine", classes=CLASSES, seed=seed)
    shutil.rmtree(zoo / NAME)
    (new / NAME).rename(zoo / NAME)
    shutil.rmtree(new)


def admin(server: Server, method: str, path: str) -> dict[str, Any]:
    headers = {"authorization": f"Bearer {TOKEN}"}
    response = httpx.request(method, f"{server.url}/admin/models/{path}", headers=headers, timeout=PATIENCE_S)
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body


def images_by_seed(model: Resolved) -> list[np.ndarray]:
    return [reference(model, ImageSpec(seed, 0, 0))[0] for seed in range(SEEDS)]


@pytest.mark.parametrize("cache", ["0", "1000000"])
def test_reloading_under_load_loses_nothing(tmp_path: Path, cache: str) -> None:
    """Change the weights again and again, by the admin call and by SIGHUP, while clients send requests and read streams."""
    expected: dict[str, list[np.ndarray]] = {}
    answers: list[tuple[str, int, np.ndarray]] = []
    stop = threading.Event()

    def client(number: int) -> None:
        with httpx.Client(base_url=server.url, timeout=PATIENCE_S) as http:
            turn = number
            while not stop.is_set():
                turn += 1
                seed = turn % SEEDS
                body = {"seed": seed, "class_label": 0, "stream": turn % 3 == 0}
                response = http.post("/v1/images/generations", json=body)
                assert response.status_code == 200, response.text
                if body["stream"]:
                    assert "event: image_generation.completed" in response.text, response.text
                    continue
                answer = response.json()
                with Image.open(io.BytesIO(base64.b64decode(answer["data"][0]["b64_json"]))) as image:
                    answers.append((answer["model_sha256"], seed, np.asarray(image)))

    with reloadable(tmp_path, SFDDM_CACHE_BYTES=cache) as (server, zoo), ThreadPoolExecutor(CLIENTS) as pool:

        def learn() -> None:
            model = discover([zoo]).resolve(NAME)
            expected[model.entry.manifest.sha256] = images_by_seed(model)

        learn()
        clients = [pool.submit(client, number) for number in range(CLIENTS)]

        def wait_for(condition: Callable[[], bool]) -> None:
            """Wait, unless a client has failed: then raise its error."""

            def met() -> bool:
                for each in clients:
                    if each.done():
                        each.result()
                return condition()

            _wait_for(met)

        try:
            wait_for(lambda: len(answers) > 0)  # else a busy machine may replace the first version before any client has asked
            for number in range(RELOADS):
                retrain(zoo, 100 + number)
                learn()
                if number % 2:
                    assert admin(server, "POST", "reload")["replaced"] == [NAME]
                else:
                    server.process.send_signal(signal.SIGHUP)
                    wait_for(lambda: _sha256(server) in list(expected)[-1:])
                before = len(answers)  # some of the next were admitted before the change, at most one a client
                wait_for(lambda before=before: len(answers) > before + 2 * CLIENTS)  # type: ignore[misc]
        finally:
            stop.set()
        for each in clients:
            each.result(PATIENCE_S)
        _wait_for(lambda: server.log.read_text().count('"model_freed"') == RELOADS)  # no version outlives its last request
    assert {sha256 for sha256, _, _ in answers} == set(expected), "each version has served"
    for sha256, seed, image in answers:
        assert np.array_equal(image, expected[sha256][seed])


def test_sighup_with_a_broken_folder_keeps_what_serves(tmp_path: Path) -> None:
    with reloadable(tmp_path) as (server, zoo):
        before = _sha256(server)
        (zoo / NAME / "model.onnx").write_bytes(b"half a copy")
        server.process.send_signal(signal.SIGHUP)
        _wait_for(lambda: "does not match its manifest" in str(_model(server)["reason"]))
        assert _sha256(server) == before
        assert httpx.post(f"{server.url}/v1/images/generations", json={}).status_code == 200
        retrain(zoo, 7)
        server.process.send_signal(signal.SIGHUP)
        _wait_for(lambda: _sha256(server) != before)
        assert _model(server)["reason"] is None
    assert '"model_not_reloaded"' in server.log.read_text()


def test_reload_from_a_terminal(tmp_path: Path) -> None:
    with reloadable(tmp_path) as (server, zoo):
        retrain(zoo, 8)
        done = sfddm("reload", "--url", server.url, SFDDM_ADMIN_TOKEN=TOKEN)
        assert (done.returncode, "replaced: tiny/student-008" in done.stdout) == (0, True), done
        refused = sfddm("reload", "--url", server.url, SFDDM_ADMIN_TOKEN="another token, wrong")
        assert (refused.returncode, "Authorization" in refused.stderr) == (1, True), refused
        nobody = sfddm("reload", "--url", server.url)
        assert (nobody.returncode, "SFDDM_ADMIN_TOKEN" in nobody.stderr) == (1, True), nobody
        shutil.rmtree(zoo / "tiny" / "student-004")
        (zoo / "plain" / "teacher" / "manifest.json").write_text("{")
        partly = sfddm("reload", "--url", server.url, SFDDM_ADMIN_TOKEN=TOKEN)
        assert partly.returncode == 1
        assert "removed: tiny/student-004" in partly.stdout
        assert "plain/teacher" in partly.stderr


def _model(server: Server) -> dict[str, Any]:
    body: dict[str, Any] = httpx.get(f"{server.url}/v1/models/{NAME}", timeout=PATIENCE_S).json()
    return body


def _sha256(server: Server) -> str:
    return str(_model(server)["sha256"])


def _wait_for(condition: Any) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
