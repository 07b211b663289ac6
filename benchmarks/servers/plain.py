"""A plain FastAPI handler: each request samples on its own in a worker thread, without batching."""

from __future__ import annotations

import sys

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

from benchmarks.servers.sampling_loop import MODELS, SamplingLoop, short_name

app = FastAPI()
loops = {short_name(model): SamplingLoop(model) for model in MODELS}


class Body(BaseModel):
    seed: int
    class_label: int


@app.get("/ready")
def ready() -> None:
    pass


@app.post("/generate/{model}")
def generate(model: str, body: Body) -> dict[str, str]:
    return loops[model]([body.model_dump()])[0]


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]), log_level="warning")
