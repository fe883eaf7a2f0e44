#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Text, a stream, and a picture with curl.   examples/curl.sh [BASE_URL] [IMAGE]
set -eu
base=${1:-http://127.0.0.1:8000}
image=${2:-}

curl -sS --fail-with-body "$base/v1/chat/completions" -H 'Content-Type: application/json' -d '{
  "model": "autoglm-phone-9b",
  "messages": [{"role": "user", "content": "打开设置"}],
  "max_tokens": 64
}'
echo

curl -sS --fail-with-body -N "$base/v1/chat/completions" -H 'Content-Type: application/json' -d '{
  "model": "autoglm-phone-9b",
  "messages": [{"role": "user", "content": "打开设置"}],
  "max_tokens": 64,
  "stream": true,
  "stream_options": {"include_usage": true}
}'

# A screenshot is longer than a command line may be: the body goes through standard input.
if [ -n "$image" ]; then
    {
        printf '{"model": "autoglm-phone-9b", "max_tokens": 64, "messages": [{"role": "user", "content": ['
        printf '{"type": "image_url", "image_url": {"url": "data:image/png;base64,'
        base64 <"$image" | tr -d '\n'
        printf '"}}, {"type": "text", "text": "点击搜索框"}]}]}'
    } | curl -sS --fail-with-body "$base/v1/chat/completions" -H 'Content-Type: application/json' --data-binary @-
    echo
fi
