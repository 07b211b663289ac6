"""Every program of examples/ that talks to a server prints and writes what it promises."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import shutil
import threading
import time
import zipfile
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.e2e.conftest import PATIENCE_S, Server, serving
from tests.examples.conftest import finish, run, start


def generate(server: Server, **body: Any) -> bytes:
    """Return the file of one image, asked for directly."""
    answer = httpx.post(f"{server.url}/v1/images/generations", json=body, timeout=PATIENCE_S).raise_for_status().json()
    return base64.b64decode(answer["data"][0]["b64_json"])


def pixels(file: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(file)))


def test_first_image(shipped: Server, tmp_path: Path) -> None:
    (line,) = run("first_image.py", shipped, tmp_path)
    told = re.fullmatch(r"sneaker\.png: model (\S+), seed (\d+), \d+\.\d{3} s", line)
    assert told, line
    again = generate(shipped, model=told[1], seed=int(told[2]), prompt="sneaker", size="280x280")
    assert (tmp_path / "sneaker.png").read_bytes() == again


def test_contact_sheet(shipped: Server, tmp_path: Path) -> None:
    (line,) = run("contact_sheet.py", shipped, tmp_path)
    assert re.fullmatch(r"sheet\.png: 80 images in \d+\.\d\d s, up to \d+ in one evaluation", line)
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert sheet.shape == (10 * 56, 8 * 56)
    one = generate(
        shipped, model="fashion-mnist/student-004", class_label=3, seed=7, first_index=2, size="56x56", output_format="png"
    )
    assert np.array_equal(sheet[3 * 56 : 4 * 56, 2 * 56 : 3 * 56], pixels(one))


def test_streaming(shipped: Server, tmp_path: Path) -> None:
    assert run("streaming.py", shipped, tmp_path) == [
        "boot-0.png: after 4 of 16 evaluations",
        "boot-1.png: after 8 of 16 evaluations",
        "boot-2.png: after 12 of 16 evaluations",
        "boot.png: after 16 of 16 evaluations",
    ]
    files = [(tmp_path / name).read_bytes() for name in ("boot-0.png", "boot-1.png", "boot-2.png", "boot.png")]
    assert len(set(files)) == 4
    assert files[-1] == generate(shipped, model="fashion-mnist/student-016", prompt="ankle boot", seed=7, size="280x280")


def test_image_url(shipped: Server, tmp_path: Path) -> None:
    url, line = run("image_url.py", shipped, tmp_path)
    assert url.startswith(f"{shipped.url}/v1/images/")
    file = (tmp_path / "bag.webp").read_bytes()
    assert line == f"bag.webp: image/webp, {len(file)} bytes"
    assert file == generate(shipped, prompt="bag", output_format="webp", seed=3)


def test_interpolation(shipped: Server, tmp_path: Path) -> None:
    *frames, line = run("interpolation.py", shipped, tmp_path)
    assert len(frames) == 8
    assert (frames[0], frames[-1]) == ("seed 3 -> seed 9: 0%", "seed 3 -> seed 9: 100%")
    assert line == "walk.gif: 14 frames"
    with Image.open(tmp_path / "walk.gif") as walk:
        assert walk.n_frames == 14  # type: ignore[attr-defined]
        for position, seed in ((0, 3), (7, 9)):
            walk.seek(position)
            end = generate(shipped, model="fashion-mnist/student-016", prompt="dress", seed=seed, size="112x112")
            assert np.array_equal(np.asarray(walk.convert("L")), pixels(end))


def test_job(shipped: Server, tmp_path: Path) -> None:
    *progress, line = run("job.py", shipped, tmp_path)
    assert progress
    assert all(re.fullmatch(r"(queued|running): \d+ of 100(, about \d+ s left)?", each) for each in progress)
    with zipfile.ZipFile(tmp_path / "images.zip") as archive:
        images = json.loads(archive.read("manifest.json"))["images"]
        assert len(images) == 100
        assert all(hashlib.sha256(archive.read(image["file"])).hexdigest() == image["sha256"] for image in images)
    first = images[0]
    assert line == f"images.zip: 100 images; {first['file']} is {first['class_name']}, sha256 {first['sha256'][:16]}..."
    assert httpx.get(f"{shipped.url}/v1/jobs").json()["data"] == []


def test_comparison(shipped: Server, tmp_path: Path) -> None:
    rounds, reference, *others = run("comparison.py", shipped, tmp_path)
    assert rounds == "6 rounds of 1 images"
    assert re.fullmatch(r"fashion-mnist/teacher@ddim-032 +32 steps  \d+\.\d{3} s", reference)
    pattern = r"(\S+) +(\d+) steps  \d+\.\d{3} s  (\d+\.\d)x \((\d+\.\d) to (\d+\.\d)\)  (\d+\.\d) dB"
    found = [re.fullmatch(pattern, line) for line in others]
    assert [told and (told[1], told[2]) for told in found] == [
        ("fashion-mnist/student-016", "16"),
        ("fashion-mnist/student-004", "4"),
    ]
    for told in found:
        assert told
        speed_up, low, high, agreement_db = map(float, told.groups()[2:])
        assert low <= speed_up <= high
        assert 20 < agreement_db < 58.9  # neither another picture nor the same


def test_experiment(shipped: Server, tmp_path: Path) -> None:
    last, *arms = run("experiment.py", shipped, tmp_path)
    assert re.fullmatch(r"user-39 got fashion-mnist/student-0(16|04), assigned by user", last)
    pattern = r"(\S+): (\d+) answers to (\d+) users, median (\d+\.\d{3}) s"
    interval = r", ([-+]\d+\.\d{3}) s \(([-+]\d+\.\d{3}) to ([-+]\d+\.\d{3})\)"
    reference, other = (re.fullmatch(pattern + more, line) for more, line in zip(("", interval), arms, strict=True))
    assert reference
    assert other
    assert (reference[1], other[1]) == ("fashion-mnist/student-016", "fashion-mnist/student-004")
    assert int(reference[2]) + int(other[2]) == 40
    assert (reference[2], other[2]) == (reference[3], other[3])
    difference_s, low_s, high_s = map(float, other.groups()[4:])
    assert low_s <= difference_s <= high_s < 0  # four steps are faster than sixteen


def test_latency_budget(shipped: Server, tmp_path: Path) -> None:
    impossible, *others = run("latency_budget.py", shipped, tmp_path)
    assert impossible.startswith("0.01 ms: 400, max_latency_ms:")
    assert [line.split()[0] for line in others] == ["100", "400", "2000"]
    pattern = r"(\d+) ms: fashion-mnist/\S+, steps: \d+, expected (\d+) ms, took \d+ ms"
    chosen = [told for line in others if (told := re.fullmatch(pattern, line))]
    assert chosen
    assert all(int(told[2]) <= int(told[1]) for told in chosen)


def test_idempotency(shipped: Server, tmp_path: Path) -> None:
    replayed, other = run("idempotency.py", shipped, tmp_path)
    assert replayed == "replayed: true, same answer: True"
    assert other.startswith("another request under the key: 422, Idempotency-Key:")


def test_retry_after(tiny_zoo: Path, tmp_path: Path) -> None:
    """The lane is kept busy, with no backlog allowed, until each of the eight requests has been refused."""
    options = ("--zoo", str(tiny_zoo), "--default-model", "tiny/teacher", "--max-n", "128", "--max-batch", "1")
    refused = re.compile(r'^sfddm_requests_total\{model="tiny/teacher",outcome="overloaded"\} (\S+)$', re.MULTILINE)
    enough = threading.Event()
    with serving(tmp_path / "log", *options, "--threads", "1", "--max-backlog-s", "0.000001") as server:

        def others() -> None:
            while not enough.is_set():
                httpx.post(f"{server.url}/v1/images/generations", json={"n": 128}, timeout=PATIENCE_S)

        busy = threading.Thread(target=others)
        busy.start()
        example = start("retry_after.py", server, tmp_path)
        try:
            deadline = time.monotonic() + PATIENCE_S
            while not (found := refused.search(httpx.get(f"{server.url}/metrics").text)) or float(found[1]) < 8:
                assert example.poll() is None, example.communicate()
                assert time.monotonic() < deadline
                time.sleep(0.05)
        finally:
            enough.set()
            lines = finish(example)
            busy.join()
    told = [re.fullmatch(r"seed (\d): attempts: (\d+), waited (\d+\.\d) s", line) for line in lines]
    assert [each and each[1] for each in told] == list("01234567")
    assert sum(int(each[2]) for each in told if each) > 8
    assert all(float(each[3]) >= int(each[2]) - 1 for each in told if each)  # at least a second a refusal


def test_triton_client(shipped: Server, tmp_path: Path) -> None:
    assert run("triton_client.py", shipped, tmp_path) == ["fashion-mnist/student-016: (4, 1, 28, 28) uint8", "triton.png"]
    row = np.asarray(Image.open(tmp_path / "triton.png"))
    assert row.shape == (28, 4 * 28)
    for position, (seed, label) in enumerate(zip((1, 2, 3, 4), (0, 5, 7, 9), strict=True)):
        one = generate(shipped, model="fashion-mnist/student-016", seed=seed, class_label=label)
        assert np.array_equal(row[:, position * 28 : position * 28 + 28], pixels(one))


def test_prometheus_metrics(shipped: Server, tmp_path: Path) -> None:
    generate(shipped, model="fashion-mnist/student-004", prompt="bag")  # without a seed: nothing is recalled
    *models, now = run("prometheus_metrics.py", shipped, tmp_path)
    pattern = r"(\S+): (\d+) row steps in (\d+) batches, (\d+\.\d) rows a batch"
    counted = {told[1]: told for line in models if (told := re.fullmatch(pattern, line))}
    assert len(counted) == len(models)
    student = counted["fashion-mnist/student-004"]
    assert int(student[2]) >= 4
    assert float(student[4]) == pytest.approx(int(student[2]) / int(student[3]), abs=0.051)
    assert now == "now: 0 rows running, 0 requests waiting"


def test_curl(shipped: Server, tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed; on Debian: apt install curl")
    lines = run("curl.sh", shipped, tmp_path)
    size = (tmp_path / "pullover.png").stat().st_size
    assert lines[:6] == [
        "Models:",
        '"id":"fashion-mnist/student-004"',
        '"id":"fashion-mnist/student-016"',
        '"id":"fashion-mnist/teacher"',
        '"id":"fashion/steps"',
        f"pullover.png: {size} bytes",
    ]
    partial = "event: image_generation.partial_image"
    assert lines[6:10] == ["Events:", partial, partial, "event: image_generation.completed"]
    assert json.loads(lines[11])["error"]["param"] == "prompt"
    assert (lines[10], lines[12]) == ("An error:", "400")
    assert pixels((tmp_path / "pullover.png").read_bytes()).shape == (280, 280)
