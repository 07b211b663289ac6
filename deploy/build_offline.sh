#!/usr/bin/env bash
# Build the image without a Docker engine and without a registry. Podman runs the Dockerfile on a stand-in for its base image
# python:3.11-slim-bookworm: a minimal Debian root with Debian's Python 3.11, at the same path.
#
#   deploy/build_offline.sh cpu        or gpu; as root, with Debian's packages mmdebstrap, podman and runc
#
# Names the image localhost/sfddm-offline:<target> and prints the size of each layer.
set -euo pipefail
cd "$(dirname "$0")/.."
target=${1:?cpu or gpu}
base=localhost/sfddm-offline-base

if ! podman image exists "$base"; then
  packages=ca-certificates,netbase,python3-pip,python3-venv,tzdata
  mmdebstrap --quiet --variant=minbase --include="$packages" --customize-hook='ln -s ../../bin/python3 "$1/usr/local/bin/python"' bookworm \
    | podman import --quiet - "$base"
fi
# The build trusts this machine's certificates: the package index may be behind a proxy with a certificate of its own.
podman build --isolation chroot --pull=never --from "$base" --format docker --target "$target" \
  --volume /etc/ssl/certs:/etc/ssl/certs:ro --tag "localhost/sfddm-offline:$target" . >&2
podman history --no-trunc --format '{{.Size}}\t{{.CreatedBy}}' "localhost/sfddm-offline:$target"
