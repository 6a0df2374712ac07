# Traffic for the service: Zipf users, real trips, constant throughput; exit 1 when a threshold is crossed.
FROM python:3.11-slim

RUN useradd --uid 10001 --create-home longsight

WORKDIR /app
COPY LICENSE README.md constraints.txt pyproject.toml ./
COPY cli cli
COPY contract contract
RUN pip install --no-cache-dir --constraint constraints.txt ".[loadtest]"
COPY loadtest loadtest

USER longsight
ENTRYPOINT ["locust", "--locustfile", "/app/loadtest/locustfile.py", "--headless", "--only-summary", \
    "--users", "16", "--spawn-rate", "16"]
CMD ["--host", "http://127.0.0.1:8000", "--log-folder", "/demo/log", "--run-time", "30s"]
