# NVIDIA Triton with our model repository: docker build --file infra/docker/triton.Dockerfile --tag mymacrotracker/triton .
# KIND is CPU or GPU: which locked packages are installed, and where Triton puts the model.
ARG KIND=CPU
FROM python:3.12.11-slim-bookworm AS packages
WORKDIR /build
COPY infra/local/uv-requirements.lock ./
RUN python -m venv uv && uv/bin/pip install --no-cache-dir --require-hashes --only-binary :all: -r uv-requirements.lock
COPY infra/triton/requirements.lock CPU.lock
COPY infra/docker/triton-gpu.lock GPU.lock
ARG KIND
RUN uv/bin/uv pip install --no-cache --no-deps --require-hashes --only-binary :all: --compile-bytecode \
        --target /opt/ocr --requirements "$KIND.lock"
COPY infra/__init__.py infra/
COPY infra/local/__init__.py infra/local/labels.py infra/local/
COPY infra/docker/__init__.py infra/docker/probe_picture.py infra/docker/
RUN PYTHONPATH=/opt/ocr python -m infra.docker.probe_picture /opt/probe.png
COPY infra/triton/models /opt/models
# A checkout may be closed to others.
RUN chmod -R a+rX /opt/models \
    && sed -i "s/KIND_CPU/KIND_$KIND/" /opt/models/*/config.pbtxt \
    && grep -q "KIND_$KIND" /opt/models/*/config.pbtxt

FROM nvcr.io/nvidia/tritonserver:25.10-py3
COPY --from=packages /opt/ocr /opt/ocr
COPY --from=packages /opt/models /models
COPY --from=packages /opt/probe.png /opt/probe.png
COPY --chmod=644 infra/docker/triton_ready.py /opt/
# The stub of Triton's Python backend knows the image's own packages alone, so the path to ours stands among them, and
# first: the image may bring another numpy.
RUN echo 'import sys; sys.path.insert(0, "/opt/ocr")' > /usr/local/lib/python3.12/dist-packages/mymacrotracker.pth
ENV HOME=/tmp \
    ORT_DISABLE_TELEMETRY=1 \
    OMP_NUM_THREADS=2 \
    MALLOC_ARENA_MAX=2
USER 10001:10001
HEALTHCHECK --interval=15s --timeout=35s --start-period=120s --start-interval=5s --retries=3 \
    CMD ["python3", "/opt/triton_ready.py"]
CMD ["tritonserver", "--model-repository=/models", "--disable-auto-complete-config", "--exit-timeout-secs=5"]
