#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# install_packages.sh LIST... - install the Debian packages named in the files, one a line, that are missing.
# As root or with a sudo that asks nothing; else print the one command to run and fail.
set -eu

if ! command -v dpkg-query >/dev/null 2>&1; then
    echo "Not Debian or Ubuntu: install what corresponds to these packages, then run make." >&2
    sed -e 's/#.*//' -e '/^[[:space:]]*$/d' "$@" | tr '\n' ' ' >&2
    echo >&2
    exit 0
fi

missing=
for package in $(sed -e 's/#.*//' "$@"); do
    state=$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$state" = installed ] || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" -eq 0 ]; then
    run=
elif command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then
    run="sudo -n"
else
    echo "Missing packages, and neither root nor a sudo without password. Run this once, then start again:" >&2
    echo "    sudo apt-get update && sudo apt-get install -y --no-install-recommends$missing" >&2
    exit 1
fi
echo "Installing:$missing" >&2
$run apt-get update -q >&2
# shellcheck disable=SC2086 # words of a list
$run env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $missing >&2
