# The server with its processors: an empty image, the program, and the four libraries of the C runtime that it is linked to.
# Not musl and static: its allocator is slow under many threads, and what is tested outside of an image runs on glibc too.
# No shell, no package, no root. BuildKit is needed: the default of `docker build`, and of `podman build`.

FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
# `make release` builds program and processors; what it needs beside the compiler it fetches itself.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    set -eu; \
    make release; \
    image=/image; \
    install -D -m 0755 target/release/vespiary "$image/usr/bin/vespiary"; \
    install -D -m 0644 -t "$image/usr/share/vespiary/plugins" target/release/plugins/*.wasm; \
    install -D -m 0644 -t "$image/usr/share/vespiary" LICENSE Cargo.lock; \
    # The libraries, the loader among them, at the places where the program looks for them.
    ldd target/release/vespiary | grep -oE '/[^ ]+' | while read -r library; do \
        install -D -m 0755 "$(readlink -f "$library")" "$image$library"; \
    done; \
    # Whom to trust for TLS, and where names are looked up.
    install -D -m 0644 /etc/ssl/certs/ca-certificates.crt "$image/etc/ssl/certs/ca-certificates.crt"; \
    echo 'hosts: files dns' > "$image/etc/nsswitch.conf"; \
    echo 'vespiary:x:65532:65532::/var/lib/vespiary:/nonexistent' > "$image/etc/passwd"; \
    echo 'vespiary:x:65532:' > "$image/etc/group"; \
    # What scanners read: the system, and the packages that the files above are of.
    install -D -m 0644 /etc/os-release "$image/etc/os-release"; \
    mkdir -p "$image/var/lib/dpkg/status.d"; \
    for package in libc6 libgcc-s1 ca-certificates; do \
        dpkg-query --status "$package" > "$image/var/lib/dpkg/status.d/$package"; \
    done; \
    # Outside of the image, since they have another owner or mode.
    mkdir -p /empty

FROM scratch
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Vespiary" \
      org.opencontainers.image.description="A job platform whose processors are WebAssembly components" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"
COPY --from=build /image/ /
COPY --from=build --chown=65532:65532 --chmod=0700 /empty /var/lib/vespiary
COPY --from=build --chown=65532:65532 --chmod=0700 /empty /tmp
ENV PATH=/usr/bin VESPIARY_DATA_DIR=/var/lib/vespiary
WORKDIR /var/lib/vespiary
# A number, so that Kubernetes can see that it is not root.
USER 65532:65532
EXPOSE 8080
ENTRYPOINT ["/usr/bin/vespiary"]
CMD ["serve", "--listen", "0.0.0.0:8080"]
