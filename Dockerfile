# The service, without torch and without a compiler.
#   docker build --target cpu -t sfddm .        (the default target)
#   docker build --target gpu -t sfddm:gpu .    (CUDA 13 comes along; the host needs its driver and container toolkit)

FROM python:3.11-slim-bookworm AS wheel
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY models models
COPY service service
COPY training training
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheel .

FROM python:3.11-slim-bookworm AS install
WORKDIR /install
COPY constraints.txt .
RUN python -m venv /opt/sfddm
COPY --from=wheel /wheel wheel

FROM install AS install-cpu
RUN /opt/sfddm/bin/pip install --no-cache-dir --only-binary :all: --constraint constraints.txt "$(echo wheel/*.whl)[cpu]"

FROM install AS install-gpu
RUN /opt/sfddm/bin/pip install --no-cache-dir --only-binary :all: --constraint constraints.txt "$(echo wheel/*.whl)[gpu]"

FROM python:3.11-slim-bookworm AS runtime
# /cache: calibrations; a named volume mounted here takes over its owner.
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin sfddm \
    && install --directory --owner=10001 /cache /zoo
ENV PATH=/opt/sfddm/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    SFDDM_LOG_FORMAT=json
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/readyz', timeout=4)"]
# A number, so that Kubernetes can see that it is not root.
USER 10001
CMD ["sfddm", "serve", "--host", "0.0.0.0"]

FROM runtime AS gpu
COPY --from=install-gpu /opt/sfddm /opt/sfddm

FROM runtime AS cpu
COPY --from=install-cpu /opt/sfddm /opt/sfddm
