#!/usr/bin/env bash
# The image's health check: an endpoint in this container must answer /health; a container that serves nothing is well.
port=${GMPO_HEALTH_PORT:-8000}
if (exec 3<> "/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
    exec wget --quiet --tries=1 --timeout=8 --output-document=/dev/null "http://127.0.0.1:$port/health"
fi
