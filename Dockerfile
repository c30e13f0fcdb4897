# docker build --tag beholder .                                      for CPUs
# docker build --tag beholder:cuda --build-arg TORCH_BACKEND=cu130 . for GPUs
FROM python:3.11-slim-bookworm AS build
ARG TORCH_BACKEND=cpu
ARG TORCH=2.13.0
ARG UV=0.13.9
ARG EXTRAS=server,heic
RUN python -m pip install --no-cache-dir "uv==${UV}"
WORKDIR /source
COPY pyproject.toml README.md LICENSE NOTICE requirements.lock ./
COPY src src
RUN python -m venv /opt/beholder \
    && uv pip install --python /opt/beholder --no-cache --compile-bytecode --torch-backend "${TORCH_BACKEND}" \
        --constraint requirements.lock "torch==${TORCH}" ".[${EXTRAS}]"

FROM python:3.11-slim-bookworm
COPY --from=build /opt/beholder /opt/beholder
# Everything that is written lies in two volumes and in /tmp, so that the rest can be read-only.
RUN install --directory --owner=10001 --group=10001 /album /cache
ENV PATH=/opt/beholder/bin:$PATH HOME=/tmp PYTHONDONTWRITEBYTECODE=1 PIP_NO_CACHE_DIR=1 \
    BEHOLDER_ALBUM=/album BEHOLDER_CACHE=/cache HF_HOME=/cache/huggingface
USER 10001:10001
VOLUME ["/album", "/cache"]
EXPOSE 8000
# The first start downloads mini. Every request needs a key, this one too.
HEALTHCHECK --interval=30s --timeout=5s --start-period=10m --start-interval=5s \
    CMD ["python", "-c", "from urllib.request import Request, urlopen; from beholder.server.keys import read_keys; \
key = read_keys(open('/run/secrets/beholder_key').read())[0].key; \
urlopen(Request('http://127.0.0.1:8000/readyz', headers={'Authorization': f'Bearer {key}'}), timeout=4)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["beholder"]
CMD ["serve", "--host", "0.0.0.0", "--port", "8000", "--key-file", "/run/secrets/beholder_key"]
