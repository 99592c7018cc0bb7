# Holdfast in a container, for CUDA or for the CPU alone, by build argument:
#
#   docker build -t holdfast .
#   docker build -t holdfast:cpu --build-arg TORCH_INDEX=ADDRESS .
#   docker run --rm --gpus all -v "$PWD:/work" holdfast train run.yaml
#   docker run --rm -v "$PWD:/work" holdfast:cpu train run.yaml
#
# ADDRESS is that of PyTorch's wheels for the CPU, or for another CUDA, as PyTorch's page on installing gives it for pip
# (--index-url). Without one torch comes with the CUDA libraries it has by default; the host brings the driver and the
# NVIDIA container toolkit, and without a GPU the same image computes on the CPU.
ARG PYTHON=3.12
FROM python:${PYTHON}-slim AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /dist .

FROM python:${PYTHON}-slim
ARG TORCH_INDEX=
ARG EXTRAS=gguf,language,math,search
ENV PYTHONUNBUFFERED=1 OMP_WAIT_POLICY=PASSIVE HF_HOME=/cache/huggingface HOLDFAST_CACHE=/cache/holdfast
COPY pins.txt /tmp/pins.txt
COPY --from=build /dist /tmp/dist
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# torch first, in the pinned version, since its wheels may come from an index of their own.
RUN version="$(sed -n 's/^torch==\([0-9.]*\).*/\1/p' /tmp/pins.txt | head -n 1)" \
 && pip install --no-cache-dir "torch==${version}" ${TORCH_INDEX:+--index-url "${TORCH_INDEX}"} \
 && grep -v '^torch==' /tmp/pins.txt > /tmp/others.txt \
 && wheel="$(echo /tmp/dist/*.whl)" \
 && pip install --no-cache-dir --constraint /tmp/others.txt "${wheel}[${EXTRAS}]" \
 && rm -rf /tmp/dist /tmp/*.txt \
 && useradd --create-home --uid 1000 holdfast && mkdir -p /work /cache && chown holdfast /work /cache
USER 1000
WORKDIR /work
VOLUME /cache
ENTRYPOINT ["holdfast"]
CMD ["--help"]
