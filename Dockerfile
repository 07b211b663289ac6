# The service, without torch and without a compiler. Its contents and size: docs/how-to/containers.md.
#   docker build -t sfddm .                        the default target, cpu
#   docker build -t sfddm:gpu --target gpu .       CUDA 13 comes along; the host needs its driver and container toolkit

FROM python:3.11.14-slim-bookworm@sha256:65a93d69fa75478d554f4ad27c85c1e69fa184956261b4301ebaf6dbb0a3543d AS base

FROM base AS environment
ENV PIP_CONSTRAINT=/build/constraints.txt \
    PIP_NO_CACHE_DIR=1
WORKDIR /build
COPY pyproject.toml constraints.txt ./
RUN python -m venv --without-pip /opt/sfddm

# Dependencies alone, in a layer that new code leaves as it is: without our folders the package is empty.
FROM environment AS dependencies-cpu
# hadolint ignore=DL3013 # PIP_CONSTRAINT pins the versions
RUN touch README.md LICENSE && pip --python /opt/sfddm install --only-binary :all: ".[cpu,otel]"

FROM environment AS dependencies-gpu
# hadolint ignore=DL3013 # PIP_CONSTRAINT pins the versions
RUN touch README.md LICENSE && pip --python /opt/sfddm install --only-binary :all: ".[gpu,otel]"

FROM environment AS package
COPY . .
RUN pip --python /opt/sfddm install --no-deps .

FROM base AS runtime
# /cache: calibrations; a named volume mounted here takes over its owner. /zoo: your models, to be mounted.
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin sfddm \
    && install --directory --owner=sfddm /cache \
    && mkdir /zoo
ENV PATH=/opt/sfddm/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    SFDDM_CACHE_DIR=/cache \
    SFDDM_HOST=0.0.0.0 \
    SFDDM_LOG_FORMAT=json \
    SFDDM_ZOOS=/zoo,/opt/sfddm/lib/python3.11/site-packages/models/zoo
LABEL org.opencontainers.image.title="SFDDM serve" org.opencontainers.image.licenses="Apache-2.0"
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen(f\"http://127.0.0.1:{os.environ.get('SFDDM_PORT', 8000)}/readyz\", timeout=4)"]
# A number, so that Kubernetes can see that it is not root.
USER 10001
CMD ["sfddm", "serve"]

FROM runtime AS gpu
COPY --from=dependencies-gpu /opt/sfddm /opt/sfddm
COPY --from=package /opt/sfddm /opt/sfddm

FROM runtime AS cpu
COPY --from=dependencies-cpu /opt/sfddm /opt/sfddm
COPY --from=package /opt/sfddm /opt/sfddm
