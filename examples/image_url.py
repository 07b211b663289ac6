"""Ask for a url instead of the image itself, and download it.

A url is signed, needs no key and expires after an hour (SFDDM_URL_EXPIRE_S), so a web page can show it in an <img>.

Run:     pip install httpx openai, then python examples/image_url.py
Prints:  the url, and the file written with its type and size.
"""

import os
from pathlib import Path

import httpx
from openai import OpenAI

SERVER = os.environ.get("SERVER_URL", "http://127.0.0.1:8000")

client = OpenAI(base_url=f"{SERVER}/v1", api_key="unused")
answer = client.images.generate(prompt="bag", response_format="url", output_format="webp", extra_body={"seed": 3})
url = answer.data[0].url
print(url)
file = httpx.get(url).raise_for_status()
Path("bag.webp").write_bytes(file.content)
print(f"bag.webp: {file.headers['content-type']}, {len(file.content)} bytes")
