"""Send a request twice without doing its work twice: both carry the same Idempotency-Key.

A client that lost the connection cannot know whether its request arrived. With a key it can simply send it again.

Run:     pip install httpx, then python examples/idempotency.py
Prints:  that the second answer repeats the first, then the error of another request under the same key.
"""

import os
import uuid

import httpx

SERVER = os.environ.get("SERVER_URL", "http://127.0.0.1:8000")

key = {"Idempotency-Key": str(uuid.uuid4())}  # a new one for every new request
with httpx.Client(base_url=SERVER, headers=key, timeout=60) as client:
    first = client.post("/v1/images/generations", json={"prompt": "coat"}).raise_for_status()
    again = client.post("/v1/images/generations", json={"prompt": "coat"}).raise_for_status()
    other = client.post("/v1/images/generations", json={"prompt": "bag"})

print(f"replayed: {again.headers['idempotency-replayed']}, same answer: {first.json() == again.json()}")
print(f"another request under the key: {other.status_code}, {other.json()['error']['message']}")
