"""Read the server's Prometheus metrics: how much each model has done, and how well its requests shared the device.

A Prometheus server does the same at intervals (deploy/prometheus). The mean rows of a batch over five minutes are, in PromQL,
rate(sfddm_batch_rows_sum[5m]) / rate(sfddm_batch_rows_count[5m]).

Run:     pip install httpx prometheus-client, then python examples/prometheus_metrics.py
Prints:  one line per model that has been used, then the rows and requests under way.
"""

import os
from collections import defaultdict

import httpx
from prometheus_client.parser import text_string_to_metric_families

SERVER = os.environ.get("SERVER_URL", "http://127.0.0.1:8000")

text = httpx.get(f"{SERVER}/metrics").raise_for_status().text
totals = defaultdict(float)  # (name, model) -> value, summed over the other labels
for family in text_string_to_metric_families(text):
    for sample in family.samples:
        totals[sample.name, sample.labels.get("model")] += sample.value

for name, model in sorted(totals, key=str):
    if name == "sfddm_batch_rows_count" and totals[name, model]:
        batches, rows = totals[name, model], totals["sfddm_batch_rows_sum", model]
        print(f"{model}: {rows:.0f} row steps in {batches:.0f} batches, {rows / batches:.1f} rows a batch")
print(
    f"now: {totals['sfddm_running_rows', None]:.0f} rows running, {totals['sfddm_waiting_requests', None]:.0f} requests waiting"
)
