# syntax=docker/dockerfile:1
# Images of the server and of the command-line client.
#   docker build --target server -t orthomerge .                            LibTorch of Debian, CPU only
#   docker build --target server --build-arg LIBTORCH=wheel -t orthomerge . LibTorch of PyPI, CUDA
#   docker build --target cli -t orthomerge-cli .                           the client, without LibTorch
# The image to publish is the one with the wheel: Debian's LibTorch drags media and database libraries
# along. Both run as a user without rights on a read-only root; only /var/lib/orthomerge is written:
#   docker run --read-only -v orthomerge:/var/lib/orthomerge -v ./config.yaml:/etc/orthomerge/config.yaml:ro orthomerge
ARG DEBIAN=trixie
ARG LIBTORCH=debian

FROM debian:${DEBIAN}-slim AS toolchain
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
WORKDIR /src
COPY scripts/lib/packages scripts/lib/packages
# Everything to build with, but LibTorch.
RUN apt-get update \
    && sed -n 's/^build \([^ ]*\) .*/\1/p' scripts/lib/packages | grep -vE '^lib(torch-dev|openblas)' \
       | xargs apt-get install -y --no-install-recommends \
    && rm -rf /var/lib/apt/lists/*

# LibTorch, one of two. Each leaves what it gives the runtime image in /opt/torch (maybe empty).
FROM toolchain AS torch-debian
RUN apt-get update \
    && apt-get install -y --no-install-recommends libtorch-dev libopenblas0-pthread \
    && rm -rf /var/lib/apt/lists/* && mkdir /opt/torch
ENV TORCH_OPTIONS=-DORTHOMERGE_TORCH_WHEEL=

FROM toolchain AS torch-wheel
ARG TORCH_VERSION=2.15.0
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3-pip \
    && rm -rf /var/lib/apt/lists/* \
    && pip install --no-cache-dir --no-compile --target /opt/torch "torch==${TORCH_VERSION}"
ENV TORCH_OPTIONS=-DORTHOMERGE_TORCH_WHEEL=/opt/torch

FROM torch-${LIBTORCH} AS build
COPY . .
RUN cmake -S . -B /build -G Ninja -DCMAKE_BUILD_TYPE=Release -DORTHOMERGE_TESTS=OFF ${TORCH_OPTIONS} \
    && cmake --build /build --target orthomerge orthomerged orthomerge_dense \
    && strip --strip-debug /build/bin/*

FROM build AS test
RUN ./scripts/install-test-tools versitygw \
    && cmake -S . -B /build -DORTHOMERGE_TESTS=ON && cmake --build /build \
    && ./scripts/with-s3 ctest --test-dir /build --output-on-failure

FROM debian:${DEBIAN}-slim AS runtime
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates libgrpc++1.51t64 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 65532 --user-group --no-create-home --home-dir /var/lib/orthomerge orthomerge

FROM runtime AS cli
COPY --from=build /build/bin/orthomerge /usr/local/bin/
USER 65532:65532
ENTRYPOINT ["orthomerge"]
CMD ["--help"]

FROM runtime AS server-debian
RUN apt-get update \
    && apt-get install -y --no-install-recommends libtorch2.6 libopenblas0-pthread \
    && rm -rf /var/lib/apt/lists/*

FROM runtime AS server-wheel
COPY --from=build /opt/torch /opt/torch

FROM server-${LIBTORCH} AS server
RUN apt-get update \
    && apt-get install -y --no-install-recommends libyaml-cpp0.8 libsqlite3-0 libcurl4t64 \
       libprometheus-cpp-pull1.0 libprometheus-cpp-core1.0 \
    && rm -rf /var/lib/apt/lists/* \
    && install -d -o 65532 -g 65532 -m 700 /var/lib/orthomerge
COPY --from=build /build/bin/orthomerge /build/bin/orthomerged /build/bin/liborthomerge_dense.so /usr/local/bin/
COPY deploy/config.yaml /etc/orthomerge/config.yaml
USER 65532:65532
VOLUME /var/lib/orthomerge
EXPOSE 50051 50052 9090
ENTRYPOINT ["orthomerged", "serve", "--config", "/etc/orthomerge/config.yaml", "--data-dir", "/var/lib/orthomerge"]
