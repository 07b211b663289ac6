"""Compare models on the same noises: how much faster each is than the slowest, and how closely its images agree.

Run:     pip install httpx, then python examples/comparison.py
Prints:  one line per model: median seconds, speed-up with its 95 % interval, and agreement with the reference in dB.
"""

import os

import httpx

SERVER = os.environ.get("SERVER_URL", "http://127.0.0.1:8000")
BODY = {
    "models": ["fashion-mnist/teacher@ddim-032", "fashion-mnist/student-016", "fashion-mnist/student-004"],
    "reference": "fashion-mnist/teacher@ddim-032",  # the teacher with 32 of its 1024 steps
    "prompt": "coat",
    "n": 1,  # images a round
    "repeats": 6,  # rounds; fewer give no interval
    "seed": 7,
}

answer = httpx.post(f"{SERVER}/v1/comparisons", json=BODY, timeout=600).raise_for_status().json()
print(f"{answer['rounds']} rounds of {answer['n']} images")
for result in answer["results"]:
    line = f"{result['model']:32} {result['steps']:4} steps  {result['total_s']['median']:.3f} s"
    if result["speed_up"]:  # null for the reference itself
        speed, agreement = result["speed_up"], result["agreement"]
        line += f"  {speed['value']:.1f}x ({speed['low']:.1f} to {speed['high']:.1f})  {agreement['psnr_db']:.1f} dB"
    print(line)
