# Images of Nightjar's programs: one target each. The programs are built outside, against a glibc no newer than the base's:
#
#   cargo build --release --workspace --bins
#   docker build --target relay --tag nightjar-relay target/release --file Dockerfile
#
# BASE needs glibc, CA certificates and nothing else: no shell, no package manager. BINARY is the program's path in the
# build context. Every image runs as 65532, writes nowhere outside its volumes, and needs no capability.
ARG BASE=gcr.io/distroless/cc-debian12:nonroot

FROM ${BASE} AS relay
ARG BINARY=nightjar-relay
COPY --chmod=0755 ${BINARY} /usr/local/bin/nightjar-relay
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/nightjar-relay"]

FROM ${BASE} AS operator
ARG BINARY=nightjar-operator
COPY --chmod=0755 ${BINARY} /usr/local/bin/nightjar-operator
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/nightjar-operator"]

FROM ${BASE} AS cli
ARG BINARY=nightjar
COPY --chmod=0755 ${BINARY} /usr/local/bin/nightjar
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/nightjar"]

# For clusters without a way to the public image of nats-server.
FROM ${BASE} AS nats-server
ARG BINARY=nats-server
COPY --chmod=0755 ${BINARY} /usr/local/bin/nats-server
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/nats-server"]
