#!/bin/sh
# Installs Salus from this bundle without internet: sh install.sh FOLDER [coordinator]
# FOLDER becomes a virtual environment. With "coordinator" it has no torch, see docs/deploy.md.
# Each wheel is checked against its hash; PYTHON names another interpreter than python3.
set -eu
[ $# -ge 1 ] || { echo "usage: sh install.sh FOLDER [coordinator]" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
target=$1
part=${2:-}
case "$part" in
"") list=requirements.txt; deps= ;;
coordinator) list=requirements-coordinator.txt; deps=--no-deps ;; # Salus itself names torch as needed
*) echo "install.sh: expected coordinator or nothing, got $part" >&2; exit 2 ;;
esac
python=${PYTHON:-python3}
[ ! -e "$target/bin/python" ] || { echo "install.sh: $target exists already; upgrade beside it, see docs/deploy.md" >&2; exit 2; }
(cd "$here" && sha256sum --check --quiet --strict SHA256SUMS) || { echo "install.sh: the bundle is damaged; copy it again" >&2; exit 1; }
# A file that no hash covers could be imported in place of one of Python's own.
listed=$(wc -l <"$here/SHA256SUMS")
found=$(cd "$here" && find . ! -type d ! -path ./SHA256SUMS | wc -l)
[ "$listed" -eq "$found" ] || { echo "install.sh: the bundle has files that SHA256SUMS does not list; copy it again" >&2; exit 1; }
# -I: nothing is imported from the folder in which this runs.
"$python" -I -m venv --without-pip "$target"
# --isolated: no index, proxy or constraint of this machine takes part.
pip=$(echo "$here"/wheels/pip-*.whl)
"$python" "$pip/pip" --isolated --python "$target/bin/python" install --disable-pip-version-check --quiet --no-cache-dir --no-index \
    $deps --find-links "$here/wheels" --require-hashes --requirement "$here/$list"
"$target/bin/salus" --version
