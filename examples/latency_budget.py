"""Say how long an image may take and let the server choose: `auto` is the best model that is expected to be fast enough.

Run:     pip install openai, then python examples/latency_budget.py
Prints:  one line per budget: the model chosen, its steps, and the time expected and taken; or why there is none.
"""

import os

from openai import BadRequestError, OpenAI, RateLimitError

SERVER = os.environ.get("SERVER_URL", "http://127.0.0.1:8000")

client = OpenAI(base_url=f"{SERVER}/v1", api_key="unused", max_retries=0)
for budget_ms in (0.01, 100, 400, 2000):
    try:
        answer = client.images.generate(model="auto", prompt="sandal", extra_body={"max_latency_ms": budget_ms})
    except (BadRequestError, RateLimitError) as refusal:  # 400: no model is ever that fast; 429: none is at the moment
        print(f"{budget_ms:g} ms: {refusal.status_code}, {refusal.body['message']}")
        continue
    chosen, timing = answer.model_extra, answer.model_extra["timing"]
    expected_ms, took_ms = 1000 * timing["estimated_s"], 1000 * timing["total_s"]
    print(
        f"{budget_ms:g} ms: {chosen['model']}, steps: {chosen['steps']}, expected {expected_ms:.0f} ms, took {took_ms:.0f} ms"
    )
