#!/bin/sh
# Starts the server with the defaults of the image and the arguments of `docker run`.
#
#   docker run IMAGE 4                          four workers, as in the image of 1.10
#   docker run IMAGE 4 -max_seq_len 64          and further options of bert-serving-start
#   docker run IMAGE -num_worker 4 -max_seq_len 64
#   docker run IMAGE serve                      for Amazon SageMaker: HTTP on port 8080, model at /opt/ml/model
#   docker run IMAGE bash                       any other command
#
# The image serves the model mounted at /model, or the default model. Arguments override the defaults. HTTP_PORT is the
# port of the HTTP server.
set -eu

case "${1-}" in
'' | -*) ;;
serve)
    shift
    HTTP_PORT=${SAGEMAKER_BIND_TO_PORT:-8080}
    MODEL_DIR=/opt/ml/model
    ;;
*[!0-9]*) exec "$@" ;;
*)
    workers=$1
    shift
    set -- -num_worker "$workers" "$@"
    ;;
esac

: "${MODEL_DIR:=/model}"
if [ -n "$(ls -A "$MODEL_DIR" 2>/dev/null)" ]; then
    set -- -model_dir "$MODEL_DIR" "$@"
fi
set -- -http_port "${HTTP_PORT:=8125}" "$@"

# The last -http_port wins. The health check reads the port from this file.
previous=
for word; do
    case $previous in -http_port | --http-port | --http_port) HTTP_PORT=$word ;; esac
    case $word in -http_port=* | --http-port=* | --http_port=*) HTTP_PORT=${word#*=} ;; esac
    previous=$word
done
printf '%s' "$HTTP_PORT" 2>/dev/null >"${TMPDIR:-/tmp}/bert-serving-http-port" || :
exec bert-serving-start "$@"
