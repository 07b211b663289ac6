"""Sample a student with diffusers alone: neither a server nor any code of this project takes part.

Run:     sfddm-train export runs/student-016 --zoo zoo --family mine --name student-016 --pipeline pipelines/student-016
         then pip install diffusers torch pillow, then python examples/stock_diffusers.py pipelines/student-016
Prints:  the scheduler and its steps, and the file written: a row of four images of each class.
"""

import json
import sys
from pathlib import Path

import torch
from diffusers import DDIMScheduler, UNet2DModel
from PIL import Image

folder, columns = Path(sys.argv[1]), 4
classes = json.loads((folder / "classes.json").read_text())
unet = UNet2DModel.from_pretrained(folder, subfolder="unet")
scheduler = DDIMScheduler.from_pretrained(folder, subfolder="scheduler")
scheduler.set_timesteps(scheduler.config.num_train_timesteps)  # every step that the student has

side, labels = unet.config.sample_size, torch.arange(len(classes)).repeat_interleave(columns)
x = torch.randn(len(labels), 1, side, side, generator=torch.Generator().manual_seed(0))
with torch.inference_mode():
    for t in scheduler.timesteps:
        prediction = unet(x, t, class_labels=labels).sample
        x = scheduler.step(prediction, t, x, use_clipped_model_output=True).prev_sample

pixels = ((x[:, 0] + 1) * 127.5).round().clamp(0, 255).byte()  # [classes * columns, side, side]
sheet = pixels.reshape(len(classes), columns, side, side).transpose(1, 2).reshape(len(classes) * side, columns * side)
Image.fromarray(sheet.numpy()).save("student.png")
print(f"{type(scheduler).__name__}, {len(scheduler.timesteps)} steps")
print(f"student.png: {len(labels)} images of {', '.join(classes)}")
