#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Serve the model over the OpenAI API on port 8000; arguments go to `autoglm serve`.
#
#   in a source tree         install the packages that are missing, build, serve
#   beside an installed one  serve
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)

if [ -f "$here/Makefile" ] && [ -d "$here/src/cli" ]; then
    sh "$here/deploy/install_packages.sh" "$here/packages.txt"
    make -C "$here" -j "$(nproc)" build/autoglm >&2
    exec "$here/build/autoglm" serve "$@"
fi
if [ -x "$here/autoglm" ]; then
    exec "$here/autoglm" serve "$@"
fi
if command -v autoglm >/dev/null 2>&1; then
    exec autoglm serve "$@"
fi
echo "run_autoglm_server.sh: no source tree and no autoglm in $here or in PATH" >&2
exit 1
