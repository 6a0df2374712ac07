# The service alone: cli, contract, service. No torch, no training code, not root.
#
#   docker build -f docker/service.Dockerfile -t longsight-service .
#   GPU: --build-arg EXTRA=serve-gpu (onnxruntime-gpu brings CUDA and cuDNN as wheels; the host brings the driver)
FROM python:3.11-slim

ARG EXTRA=serve

RUN useradd --uid 10001 --create-home longsight

WORKDIR /app
COPY LICENSE README.md constraints.txt pyproject.toml ./
COPY cli cli
COPY contract contract
COPY service service
RUN pip install --no-cache-dir --constraint constraints.txt ".[${EXTRA}]"

USER longsight
WORKDIR /home/longsight
ENV LONGSIGHT_SERVER__HOST=0.0.0.0 \
    LONGSIGHT_SERVER__PORT=8000 \
    LONGSIGHT_BUNDLE__PATH=/bundles/demo \
    ORT_DISABLE_TELEMETRY=1
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=3s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/readyz', timeout=2)"]
ENTRYPOINT ["longsight"]
CMD ["serve"]
