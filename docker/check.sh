#!/bin/sh
# Starts an image, waits until it is healthy, encodes a text over HTTP, and stops it: docker/check.sh IMAGE
set -eu

id=$(docker run --detach --publish 127.0.0.1::8125 "$1")
trap 'docker rm --force "$id" >/dev/null' EXIT

tries=${CHECK_TRIES:-60}
until [ "$(docker inspect --format '{{.State.Health.Status}}' "$id")" = healthy ]; do
    tries=$((tries - 1))
    if [ "$tries" -le 0 ]; then
        docker logs "$id" >&2
        echo "$1 did not become healthy" >&2
        exit 1
    fi
    sleep 5
done

address=$(docker port "$id" 8125/tcp)
reply=$(curl --fail --silent --show-error --data '{"texts": ["hello world"]}' "http://$address/encode")
case $reply in
*'"status":200'*) ;;
*)
    echo "$1 replied $reply" >&2
    exit 1
    ;;
esac

docker stop --time 75 "$id" >/dev/null
code=$(docker inspect --format '{{.State.ExitCode}}' "$id")
if [ "$code" != 0 ]; then
    echo "$1 ended with exit code $code" >&2
    exit 1
fi
echo "$1 serves, and stops with exit code 0"
