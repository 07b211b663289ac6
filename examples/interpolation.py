"""Walk between two images: interpolate their noises, and save the frames as an animation that runs there and back.

Run:     pip install httpx pillow, then python examples/interpolation.py
Prints:  how far on the way each frame is, then the file written.
"""

import base64
import io
import os

import httpx
from PIL import Image

SERVER = os.environ.get("SERVER_URL", "http://127.0.0.1:8000")
BODY = {"model": "fashion-mnist/student-016", "prompt": "dress", "seeds": [3, 9], "frames": 8, "size": "112x112"}

answer = httpx.post(f"{SERVER}/v1/images/interpolations", json=BODY, timeout=60).raise_for_status().json()
frames = []
for frame in answer["data"]:
    print(f"seed {frame['seed']} -> seed {frame['other_seed']}: {frame['fraction']:.0%}")
    frames.append(Image.open(io.BytesIO(base64.b64decode(frame["b64_json"]))))
first, *others = frames + frames[-2:0:-1]
first.save("walk.gif", save_all=True, append_images=others, duration=120, loop=0)  # milliseconds a frame; repeat for ever
print(f"walk.gif: {1 + len(others)} frames")
