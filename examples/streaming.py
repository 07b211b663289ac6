"""Watch an image appear: the server streams the clean image that the model predicts on its way.

Run:     pip install openai, then python examples/streaming.py
Prints:  one line per file: the partial images with the evaluations done so far, then the finished image.
"""

import base64
import os
from pathlib import Path

from openai import OpenAI

SERVER = os.environ.get("SERVER_URL", "http://127.0.0.1:8000")

client = OpenAI(base_url=f"{SERVER}/v1", api_key="unused")
with client.images.generate(
    model="fashion-mnist/student-016",
    prompt="ankle boot",
    size="280x280",
    stream=True,
    partial_images=3,
    extra_body={"seed": 7},
) as events:
    for event in events:
        if event.type == "image_generation.partial_image":
            name, done = f"boot-{event.partial_image_index}.png", event.model_extra["step"]
        else:  # image_generation.completed
            name, done = "boot.png", event.model_extra["steps"]
        Path(name).write_bytes(base64.b64decode(event.b64_json))
        print(f"{name}: after {done} of {event.model_extra['steps']} evaluations", flush=True)
