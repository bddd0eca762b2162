#!/bin/sh
# Starts the server with what the image knows already, and then with what `docker run` was given.
#
#   docker run IMAGE 4                          four workers, as the image of 1.10 took it
#   docker run IMAGE 4 -max_seq_len 64          and options of bert-serving-start
#   docker run IMAGE -num_worker 4 -max_seq_len 64
#   docker run IMAGE serve                      as Amazon SageMaker calls it: HTTP on 8080, a model at /opt/ml/model
#   docker run IMAGE bash                       any other command
#
# A model mounted at /model is served; without one, the default model. An option that is given counts, whatever stands
# here. HTTP_PORT is the port of HTTP.
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

# The last one counts. The health check reads here which it was.
previous=
for word; do
    case $previous in -http_port | --http-port | --http_port) HTTP_PORT=$word ;; esac
    case $word in -http_port=* | --http-port=* | --http_port=*) HTTP_PORT=${word#*=} ;; esac
    previous=$word
done
printf '%s' "$HTTP_PORT" 2>/dev/null >"${TMPDIR:-/tmp}/bert-serving-http-port" || :
exec bert-serving-start "$@"
