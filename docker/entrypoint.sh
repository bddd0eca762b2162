#!/bin/sh
# Starts the server with the defaults of the image and the arguments of `docker run`.
#
#   docker run IMAGE 4                          four workers, as in the image of 1.10
#   docker run IMAGE 4 -max_seq_len 64          and further options of bert-serving-start
#   docker run IMAGE -num_worker 4 -max_seq_len 64
#   docker run IMAGE serve                      for Amazon SageMaker: HTTP on port 8080, model at /opt/ml/model
#   docker run IMAGE bash                       any other command
#
# The image serves the model mounted at /model, or the default model. HTTP_PORT is the port of the HTTP server. Variables
# such as BERT_SERVING_NUM_WORKER=4 set any option, and arguments override them.
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
if [ -z "${BERT_SERVING_MODEL_DIR+set}" ] && [ -n "$(ls -A "$MODEL_DIR" 2>/dev/null)" ]; then
    export BERT_SERVING_MODEL_DIR="$MODEL_DIR"
fi
# Kubernetes sets tcp://... for a Service with the name bert-serving-http.
case ${BERT_SERVING_HTTP_PORT-unset} in
unset | *://*) export BERT_SERVING_HTTP_PORT="${HTTP_PORT:-8125}" ;;
esac

# The last -http_port wins. The health check reads the port from this file.
port=$BERT_SERVING_HTTP_PORT
previous=
for word; do
    case $previous in -http_port | --http-port | --http_port) port=$word ;; esac
    case $word in -http_port=* | --http-port=* | --http_port=*) port=${word#*=} ;; esac
    previous=$word
done
printf '%s' "$port" 2>/dev/null >"${TMPDIR:-/tmp}/bert-serving-http-port" || :
exec bert-serving-start "$@"
