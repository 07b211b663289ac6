"""Make many images in the background: post a job, watch its progress, download the zip.

Run:     pip install httpx, then python examples/job.py
Prints:  the progress of the job, then the zip's name and the first image of its manifest.
"""

import json
import os
import time
import zipfile
from pathlib import Path

import httpx

SERVER = os.environ.get("SERVER_URL", "http://127.0.0.1:8000")

with httpx.Client(base_url=SERVER, timeout=60) as client:
    body = {"model": "fashion-mnist/student-004", "n": 100, "seed": 7}
    job = client.post("/v1/jobs", json=body).raise_for_status().json()
    while job["status"] in ("queued", "running"):
        left = "" if job["eta_s"] is None else f", about {job['eta_s']:.0f} s left"
        print(f"{job['status']}: {job['done']} of {job['n']}{left}", flush=True)
        time.sleep(1)
        job = client.get(f"/v1/jobs/{job['id']}").raise_for_status().json()
    if job["status"] != "succeeded":
        raise SystemExit(f"{job['status']}: {job['error']}")
    with client.stream("GET", job["result_url"]) as result, Path("images.zip").open("wb") as file:
        result.raise_for_status()
        for part in result.iter_bytes():
            file.write(part)
    client.delete(f"/v1/jobs/{job['id']}").raise_for_status()  # free the server's memory

with zipfile.ZipFile("images.zip") as archive:
    manifest = json.loads(archive.read("manifest.json"))
first = manifest["images"][0]
print(f"images.zip: {manifest['n']} images; {first['file']} is {first['class_name']}, sha256 {first['sha256'][:16]}...")
