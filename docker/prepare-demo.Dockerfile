# One shot: imports the demo's data, trains, exports the bundle, loads the store. Holds torch; serves nothing.
#
# The default index holds torch with CUDA, several gigabytes: --build-arg PIP_EXTRA_INDEX_URL=<an index of CPU builds>
# makes a much smaller image.
FROM python:3.11-slim

ARG PIP_EXTRA_INDEX_URL

RUN useradd --uid 10001 --create-home longsight \
    && mkdir /bundles /demo \
    && chown longsight:longsight /bundles /demo

WORKDIR /app
COPY constraints.txt ./
RUN pip install --no-cache-dir "$(grep '^torch==' constraints.txt)"
COPY LICENSE README.md pyproject.toml ./
COPY cli cli
COPY contract contract
COPY export export
COPY service service
COPY training training
RUN pip install --no-cache-dir --constraint constraints.txt ".[train,demo,serve]"
COPY docker/prepare-demo.sh /usr/local/bin/prepare-demo

USER longsight
WORKDIR /home/longsight
ENV ORT_DISABLE_TELEMETRY=1
ENV REDIS_URL=redis://127.0.0.1:6379/0 \
    BUNDLE=/bundles/demo \
    FOLDER=/demo \
    MODEL=tin \
    IMPORT_FLAGS="" \
    TRAIN_FLAGS=""
ENTRYPOINT ["sh", "/usr/local/bin/prepare-demo"]
