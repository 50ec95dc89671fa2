#!/bin/sh
# The HTTP interface with nothing but curl. Run `genserve serve` first, then: sh examples/curl.sh
set -eu
url=${GENSERVE_URL:-http://127.0.0.1:8000}

echo "== an image, by a deadline; the reply has a link to it"
curl -sS --fail "$url/v1/images/generations" -H "Content-Type: application/json" \
  -d '{"prompt": "a lighthouse in a storm", "size": "256x256", "slo_ms": 20000, "response_format": "url"}'

echo; echo "== a video job, as a form"
reply=$(curl -sS --fail "$url/v1/videos" -F prompt="waves at dusk" -F seconds=2)
echo "$reply"
id=$(echo "$reply" | sed 's/.*"id":"\([^"]*\)".*/\1/')

echo "== its events until it ends"
curl -sSN --fail "$url/v1/requests/$id/events" | grep "^event:"

echo "== its file"
curl -sS --fail "$url/v1/videos/$id/content" -o waves.mp4
ls waves.mp4

echo "== a refusal says what to change"
curl -sS "$url/v1/images/generations" -H "Content-Type: application/json" -d '{"prompt": "x", "size": "100x100"}'
echo
