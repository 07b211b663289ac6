"""Examples of every operation for /openapi.json, with the models of this server, so that each request works here.

Answers are built from the classes that describe them. Nothing is computed: images are grey, and a step takes a millisecond.
"""

from __future__ import annotations

from itertools import islice
from typing import Any

import numpy as np
from pydantic import BaseModel

from models.catalogue import Resolved
from service import __version__
from service.engine.request import Device, Finished, Generation, ImageSpec, Timing
from service.features.encode import FileStyle
from service.features.models import known_model
from service.features.service import Service
from service.schema.comparisons import Agreement, ComparisonResponse, Interval, ModelResult, Spread
from service.schema.experiments import ArmBody, DifferenceBody, ExperimentBody, ExperimentList
from service.schema.images import base64_of, generation_response, image_body, timing_body
from service.schema.jobs import JobBody, JobList
from service.schema.kserve import VERSION, Live, ModelReady, Ready, ServerMetadata, metadata_of
from service.schema.models import ModelList, model_body
from service.schema.reload import ReloadBody
from service.schema.tensors import InferResponse, OutputTensor

_TIME = 1_700_000_000
_JOB = "9f86d081884c4d659a2feaa0c55ad015"
_STYLE = FileStyle("png", 1, None)
_STEP_S = 0.001
_ROUNDS = 6


def examples_of(service: Service) -> dict[tuple[str, str], dict[str, Any]]:
    """Return examples by (method, path): the `body`, the `parameters` by name, and the `answer`."""
    model = service.catalogue.resolve(service.default_model)
    manifest = model.entry.manifest
    mates = [entry.id for entry in service.catalogue.entries.values() if entry.manifest.family == manifest.family]
    compared = mates[:2] if len(mates) > 1 else [mates[0], f"{mates[0]}@ddim-001"]
    prompt = {"prompt": manifest.classes[0].casefold()} if manifest.classes else {}
    label = 0 if manifest.classes else None
    named, job = {"model_id": model.id}, {"job_id": _JOB}
    versioned = {**named, "version": VERSION}
    n = min(2, service.config.max_n)
    frames, jobs = max(2, min(4, service.config.max_n)), min(2, service.config.max_job_images)
    spare = next((name for name in reversed(list(service.catalogue.entries)) if name != model.entry.id), model.entry.id)
    seeds = list(range(7, 7 + n))
    images = [_image(position, ImageSpec(7, position, label), model) for position in range(n)]
    walk = [_image(frame, ImageSpec(7, 0, label, (8, frame / (frames - 1))), model) for frame in range(frames)]
    infer = {
        "body": {"inputs": [{"name": "seed", "shape": [n], "datatype": "INT64", "data": seeds}]},
        "answer": _json(_inference(model, n), exclude_none=True),
    }
    experiment = _experiment(service, compared)
    listed = [experiment] if service.experiments.configured else []
    ok: dict[str, Any] = {"answer": {"status": "ok"}}
    v2, metadata, ready = "/v2/models/{model_id}", _json(metadata_of(model)), _json(ModelReady(name=model.id))
    return {
        ("post", "/v1/images/generations"): {
            "body": {"model": model.id, **prompt, "n": n, "seed": 7},
            "answer": _generation(model, images),
        },
        ("post", "/v1/images/interpolations"): {
            "body": {"model": model.id, **prompt, "seeds": [7, 8], "frames": frames},
            "answer": _generation(model, walk),
        },
        ("post", "/v1/comparisons"): {
            "body": {"models": compared, **prompt, "seed": 7, "repeats": _ROUNDS},
            "answer": _json(_comparison([service.catalogue.resolve(name) for name in compared], label)),
        },
        ("post", "/v1/jobs"): {"body": {"model": model.id, **prompt, "n": jobs, "seed": 7}, "answer": _job(model, "queued")},
        ("get", "/v1/jobs"): {"answer": _json(JobList(data=[JobBody.model_validate(_job(model, "succeeded"))]))},
        ("get", "/v1/jobs/{job_id}"): {"parameters": job, "answer": _job(model, "succeeded")},
        ("delete", "/v1/jobs/{job_id}"): {"parameters": job, "answer": _job(model, "cancelled")},
        ("get", "/v1/jobs/{job_id}/result"): {"parameters": job},
        ("get", "/v1/experiments"): {"answer": _json(ExperimentList(data=listed))},
        ("get", "/v1/experiments/{experiment_id}"): {
            "parameters": {"experiment_id": experiment.id},
            "answer": _json(experiment),
        },
        ("get", "/v1/images/files/{token}"): {"parameters": {"token": "the-end-of-a-url.from-an-answer"}},
        ("get", "/v1/models"): {"answer": _json(ModelList(data=[model_body(known_model(service, model))]))},
        ("get", "/v1/models/{model_id}"): {"parameters": named, "answer": _json(model_body(known_model(service, model)))},
        ("post", "/admin/models/reload"): {"answer": _json(ReloadBody(replaced=[model.id], kept=[*islice(mates, 1)]))},
        ("put", "/admin/models/{model_id}"): {"parameters": named, "answer": _json(ReloadBody(replaced=[model.id]))},
        ("delete", "/admin/models/{model_id}"): {
            "parameters": {"model_id": spare},
            "answer": _json(ReloadBody(removed=[spare])),
        },
        ("get", "/livez"): ok,
        ("get", "/readyz"): ok,
        ("get", "/metrics"): {"answer": "sfddm_running_rows 0.0\n"},
        ("get", "/v2"): {"answer": _json(ServerMetadata(version=__version__))},
        ("get", "/v2/health/live"): {"answer": _json(Live())},
        ("get", "/v2/health/ready"): {"answer": _json(Ready())},
        ("get", v2): {"parameters": named, "answer": metadata},
        ("get", f"{v2}/versions/{{version}}"): {"parameters": versioned, "answer": metadata},
        ("get", f"{v2}/ready"): {"parameters": named, "answer": ready},
        ("get", f"{v2}/versions/{{version}}/ready"): {"parameters": versioned, "answer": ready},
        ("post", f"{v2}/infer"): {"parameters": named, **infer},
        ("post", f"{v2}/versions/{{version}}/infer"): {"parameters": versioned, **infer},
    }


def _json(body: BaseModel, *, exclude_none: bool = False) -> dict[str, Any]:
    return body.model_dump(mode="json", exclude_none=exclude_none)


def _timing(model: Resolved) -> Timing:
    seconds = len(model.plan) * _STEP_S
    return Timing(queue_s=0.0, compute_s=seconds, total_s=seconds, mean_batch=1.0, estimated_s=seconds)


def _image(position: int, spec: ImageSpec, model: Resolved) -> Finished:
    grey = np.full(model.entry.manifest.image.chw, 128, dtype=np.uint8)
    return Finished(position, spec, grey, _timing(model), Device("cpu", "float32", 1, 1))


def _generation(model: Resolved, images: list[Finished]) -> dict[str, Any]:
    files = [_STYLE.encode(image.pixels) for image in images]
    asked = Generation(model, [image.spec for image in images])
    answer = generation_response(asked, images, files, _STYLE, None)
    return _json(answer.model_copy(update={"created": _TIME}))


def _comparison(models: list[Resolved], label: int | None) -> ComparisonResponse:
    reference = max(models, key=lambda model: len(model.plan))
    results = []
    for model in models:
        manifest, timing = model.entry.manifest, timing_body(_timing(model))
        image = _image(0, ImageSpec(7, 0, label), model)
        ratio = len(reference.plan) / len(model.plan)
        spread = Spread(median=timing.total_s, p95=timing.total_s)
        results.append(
            ModelResult(
                model=model.id,
                kind=manifest.kind,
                steps=len(model.plan),
                images=[image_body(model, image, b64_json=base64_of(_STYLE.encode(image.pixels)))],
                queue_s=Spread(median=0.0, p95=0.0),
                compute_s=spread,
                total_s=spread,
                samples=[timing] * _ROUNDS,
                speed_up=None if model is reference else Interval(value=ratio, low=ratio, high=ratio),
                agreement=None if model is reference else Agreement(psnr_db=58.9, ssim=1.0),
                quality=manifest.quality.get(f"{model.sampler}-{len(model.plan):03d}"),
            )
        )
    return ComparisonResponse(
        created=_TIME,
        mode="concurrent",
        reference=reference.id,
        seed=7,
        n=1,
        repeats=_ROUNDS,
        rounds=_ROUNDS,
        size=reference.entry.manifest.image.size(),
        output_format="png",
        results=results,
    )


def _job(model: Resolved, status: Any) -> dict[str, Any]:
    done = 2 if status == "succeeded" else 0
    body = JobBody(
        id=_JOB,
        status=status,
        model=model.id,
        n=2,
        done=done,
        progress=done / 2,
        eta_s=None,
        seed=7,
        first_index=0,
        size=model.entry.manifest.image.size(),
        output_format="png",
        created_at=_TIME,
        started_at=_TIME + 1 if done else None,
        finished_at=None if status == "queued" else _TIME + 2,
        error=None,
        result_url=f"http://127.0.0.1:8000/v1/jobs/{_JOB}/result" if done else None,
    )
    return _json(body)


def _experiment(service: Service, compared: list[str]) -> ExperimentBody:
    """Return the body of this server's first experiment, or an invented one."""
    name, arms = "the-id-of-an-experiment", dict.fromkeys(compared, 1.0)
    for configured, experiment in islice(service.experiments.configured.items(), 1):
        name, arms = configured, dict(experiment)
    reference = next(iter(arms))
    reference_s = _timing(service.catalogue.resolve(reference)).total_s
    bodies = []
    for arm, weight in arms.items():
        seconds = _timing(service.catalogue.resolve(arm)).total_s
        apart = seconds - reference_s
        difference = DifferenceBody(difference_s=apart, low_s=apart, high_s=apart)
        first = arm == reference
        bodies.append(
            ArmBody(
                model=arm,
                weight=weight,
                requests=20,
                sampled=20,
                units=20,
                latency_s=dict.fromkeys(("p50", "p90", "p95", "p99"), seconds),
                against_reference={} if first else {"mean": difference, "median": difference},
                note="This arm is the reference of the others." if first else None,
            )
        )
    return ExperimentBody(id=name, reference=reference, arms=bodies, shared=service.config.redis_url is not None)


def _inference(model: Resolved, n: int) -> InferResponse:
    shape = [n, *model.entry.manifest.image.chw]
    tensor = OutputTensor(name="image", datatype="UINT8", shape=shape, data=[128] * int(np.prod(shape)))
    return InferResponse(model_name=model.id, model_version=VERSION, outputs=[tensor])
