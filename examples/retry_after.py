"""Be a good client of a busy server: wait as long as its 429 or 503 says, plus up to a second at random, and ask again.

The official openai client does this by itself, `OpenAI(max_retries=5)`; this is how to do it with any HTTP client.

Run:     pip install httpx, then python examples/retry_after.py
Prints:  one line per image: how often the server was asked, and how long the program waited in all.
"""

import os
import random
import time
from concurrent.futures import ThreadPoolExecutor

import httpx

SERVER = os.environ.get("SERVER_URL", "http://127.0.0.1:8000")
ATTEMPTS = 20


def generate(seed):
    """Ask until there is an image; return the line to print. Raises httpx.HTTPStatusError for other errors."""
    waited = 0.0
    for attempt in range(1, ATTEMPTS + 1):
        answer = httpx.post(f"{SERVER}/v1/images/generations", json={"seed": seed}, timeout=60)
        # A model that failed to load is a 503 too; its x-should-retry says that asking again does not help.
        if answer.status_code not in (429, 503) or answer.headers.get("x-should-retry") == "false":
            answer.raise_for_status()
            return f"seed {seed}: attempts: {attempt}, waited {waited:.1f} s"
        # The random part keeps clients that were refused together from coming back together.
        pause = float(answer.headers["retry-after"]) + random.uniform(0, 1)
        time.sleep(pause)
        waited += pause
    raise TimeoutError(f"seed {seed}: the server was too busy {ATTEMPTS} times")


with ThreadPoolExecutor(8) as pool:
    for line in pool.map(generate, range(8)):
        print(line, flush=True)
