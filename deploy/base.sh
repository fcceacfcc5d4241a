#!/bin/sh
# Makes a base image from Debian's own packages, where no image registry can be reached: sh deploy/base.sh [NAME]
# Needs root, debootstrap and buildah. BUILDAH may hold further words, such as "buildah --root FOLDER".
set -eu
name=${1:-localhost/python-base}
buildah=${BUILDAH:-buildah}
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
debootstrap --variant=minbase --include=python3,ca-certificates "${SUITE:-bookworm}" "$root" >&2
rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/usr/share/doc/* "$root"/usr/share/man/* "$root"/usr/share/locale/* "$root"/var/log/*
container=$($buildah from scratch)
$buildah add --quiet "$container" "$root" / >&2
$buildah commit --quiet --rm "$container" "$name"
