"""Make one image with the official openai client and save it.

Run:     pip install openai, then python examples/first_image.py
Prints:  the file written, the model and the seed that make the same image again, and how long the server took.
"""

import base64
import os
from pathlib import Path

from openai import OpenAI

SERVER = os.environ.get("SERVER_URL", "http://127.0.0.1:8000")

client = OpenAI(base_url=f"{SERVER}/v1", api_key="unused")
answer = client.images.generate(prompt="sneaker", size="280x280")  # ten times the model's own 28x28
Path("sneaker.png").write_bytes(base64.b64decode(answer.data[0].b64_json))

told = answer.model_extra  # fields of this server beside OpenAI's
print(f"sneaker.png: model {told['model']}, seed {told['seed']}, {told['timing']['total_s']:.3f} s")
