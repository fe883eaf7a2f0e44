#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Run the given test programs one after the other; each prints its own results. Fails if any fails.
failed=0
for program in "$@"; do
    "$program" || { echo "FAILED: $program"; failed=$((failed + 1)); }
done
echo "test programs: $#, failed: $failed"
[ "$failed" -eq 0 ]
