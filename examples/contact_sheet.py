"""Make eight images of every class at once and paste them into one picture, one row per class.

Run:     pip install openai pillow, then python examples/contact_sheet.py
Prints:  the file written, how many images it holds, how long they took together, and how many shared a network evaluation.
"""

import base64
import io
import os
import time
from concurrent.futures import ThreadPoolExecutor

from openai import OpenAI
from PIL import Image

SERVER = os.environ.get("SERVER_URL", "http://127.0.0.1:8000")
MODEL, COLUMNS, SIDE = "fashion-mnist/student-004", 8, 56

client = OpenAI(base_url=f"{SERVER}/v1", api_key="unused")
classes = client.models.retrieve(MODEL).model_extra["classes"]


def images_of(label):
    """Return the images of one class; one seed for all rows, so that a column starts from the same noise."""
    options = {"seed": 7, "class_label": label}
    return client.images.generate(prompt="", model=MODEL, n=COLUMNS, size=f"{SIDE}x{SIDE}", extra_body=options)


start = time.perf_counter()
with ThreadPoolExecutor(len(classes)) as pool:  # requests that arrive together are computed in the same batches
    answers = list(pool.map(images_of, range(len(classes))))
seconds = time.perf_counter() - start
sheet = Image.new("L", (COLUMNS * SIDE, len(classes) * SIDE))
for row, answer in enumerate(answers):
    for column, image in enumerate(answer.data):
        sheet.paste(Image.open(io.BytesIO(base64.b64decode(image.b64_json))), (column * SIDE, row * SIDE))
sheet.save("sheet.png")
rows = max(answer.model_extra["timing"]["mean_batch"] for answer in answers)
print(f"sheet.png: {len(classes) * COLUMNS} images in {seconds:.2f} s, up to {rows:.0f} in one evaluation")
