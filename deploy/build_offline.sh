#!/usr/bin/env bash
# Build the image where there is neither a Docker engine nor a registry: podman executes the Dockerfile on a stand-in for
# its base image, Debian's minimal root with Debian's Python 3.11 under the names that it has in python:3.11-slim-bookworm.
#   deploy/build_offline.sh cpu        or gpu; as root, with Debian's packages mmdebstrap, podman and runc
# The image is localhost/sfddm-offline:<target>; prints the size of each layer.
set -euo pipefail
cd "$(dirname "$0")/.."
target=${1:?cpu or gpu}
base=localhost/sfddm-offline-base

if ! podman image exists "$base"; then
  packages=ca-certificates,netbase,python3-pip,python3-venv,tzdata
  mmdebstrap --quiet --variant=minbase --include="$packages" --customize-hook='ln -s ../../bin/python3 "$1/usr/local/bin/python"' bookworm \
    | podman import --quiet - "$base"
fi
# The machine's certificates, because a proxy of its own may stand before the package index.
podman build --isolation chroot --pull=never --from "$base" --format docker --target "$target" \
  --volume /etc/ssl/certs:/etc/ssl/certs:ro --tag "localhost/sfddm-offline:$target" . >&2
podman history --no-trunc --format '{{.Size}}\t{{.CreatedBy}}' "localhost/sfddm-offline:$target"
