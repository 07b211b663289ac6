"""Try two models on real users: each user is assigned to one arm and stays there; the server compares the arms.

Run:     start the server with
             SFDDM_EXPERIMENTS='{"fashion/steps": {"arms": {"fashion-mnist/student-016": 1, "fashion-mnist/student-004": 1}}}'
         then pip install httpx openai, then python examples/experiment.py
Prints:  one line per arm: its answers, users and median latency, and its difference to the first arm with a 95 % interval.
"""

import os

import httpx
from openai import OpenAI

SERVER = os.environ.get("SERVER_URL", "http://127.0.0.1:8000")
EXPERIMENT, USERS = "fashion/steps", 40

client = OpenAI(base_url=f"{SERVER}/v1", api_key="unused")
for number in range(USERS):
    answer = client.images.generate(model=EXPERIMENT, prompt="shirt", user=f"user-{number}")
assigned = answer.model_extra["experiment"]
print(f"user-{USERS - 1} got {assigned['arm']}, assigned by {assigned['by']}")

found = httpx.get(f"{SERVER}/v1/experiments/{EXPERIMENT}").raise_for_status().json()
for arm in found["arms"]:
    line = f"{arm['model']}: {arm['requests']} answers to {arm['units']} users, median {arm['latency_s']['p50']:.3f} s"
    if arm["against_reference"]:  # empty for the first arm
        median = arm["against_reference"]["median"]
        line += f", {median['difference_s']:+.3f} s ({median['low_s']:+.3f} to {median['high_s']:+.3f})"
    print(line)
