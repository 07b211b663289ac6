"""Use Triton's own HTTP client: the server speaks the Open Inference Protocol (KServe V2) under /v2.

Run:     pip install 'tritonclient[http]' pillow, then python examples/triton_client.py
Prints:  the shape and type of the images that the model returned for four seeds, and the file written.
"""

import os

import numpy as np
import tritonclient.http as triton
from PIL import Image

SERVER = os.environ.get("SERVER_URL", "http://127.0.0.1:8000")
MODEL = "fashion-mnist/student-016"


def tensor(name, values):
    """Return an input of one INT64 value per image."""
    made = triton.InferInput(name, [len(values)], "INT64")
    made.set_data_from_numpy(np.array(values, dtype=np.int64))
    return made


client = triton.InferenceServerClient(SERVER.removeprefix("http://"))
inputs = [tensor("seed", [1, 2, 3, 4]), tensor("class_label", [0, 5, 7, 9])]
images = client.infer(MODEL, inputs).as_numpy("image")  # uint8 [images, channels, height, width]
client.close()
print(f"{MODEL}: {images.shape} {images.dtype}")
Image.fromarray(np.concatenate(images[:, 0], axis=1)).save("triton.png")
print("triton.png")
