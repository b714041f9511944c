# One image for the worker, the page and the command line; see docker-compose.yml.
FROM python:3.11-slim AS build
WORKDIR /src
RUN python -m venv /opt/stagekeeper
COPY requirements-image.lock .
# What runs and what builds it, as it was locked, with its hash; this layer changes only with the lock.
RUN /opt/stagekeeper/bin/pip install --no-cache-dir --require-hashes --no-deps -r requirements-image.lock
COPY . .
RUN /opt/stagekeeper/bin/pip install --no-cache-dir --no-deps --no-build-isolation . \
    && /opt/stagekeeper/bin/pip uninstall --yes hatchling pathspec pluggy trove-classifiers

FROM python:3.11-slim
RUN useradd --uid 10001 --create-home stagekeeper \
    && install -d -o stagekeeper -g stagekeeper /var/lib/stagekeeper
COPY --from=build /opt/stagekeeper /opt/stagekeeper
COPY --chown=stagekeeper:stagekeeper examples /home/stagekeeper/examples
ENV PATH=/opt/stagekeeper/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    STAGEKEEPER_HOME=/var/lib/stagekeeper
USER stagekeeper
WORKDIR /home/stagekeeper
ENTRYPOINT ["stagekeeper"]
CMD ["--help"]
