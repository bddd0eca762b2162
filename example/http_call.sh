#!/bin/sh
# Call the server over HTTP with curl. Start a server first:  bert-serving-start -http_port 8125
#
#   sh example/http_call.sh [address of the server]
set -eu
url=${1:-http://localhost:8125}

curl -sS -o /dev/null "$url/healthz" || { echo "start a server with -http_port 8125" >&2; exit 1; }

echo "--- texts in, vectors out (the first 200 characters of them)"
curl -sS -X POST "$url/encode" \
  -H 'Content-Type: application/json' \
  -d '{"id": 123, "texts": ["hello world", "good day!"], "is_tokenized": false}' | cut -c 1-200

echo "--- the same as bytes in a file; the headers contain shape and type"
file=$(mktemp)
trap 'rm -f "$file"' EXIT
curl -sS -X POST "$url/encode" -D - -o "$file" \
  -H 'Content-Type: application/json' -H 'Accept: application/octet-stream' \
  -d '{"texts": ["hello world", "good day!"]}' | grep -i '^x-'
wc -c < "$file"

echo "--- the API of OpenAI"
curl -sS "$url/v1/embeddings" \
  -H 'Content-Type: application/json' \
  -d '{"model": "bert", "input": "hello world"}' | cut -c 1-200

echo "--- is it ready for requests?"
curl -sS "$url/readyz"
echo
