#!/usr/bin/env bash
# Builds the CPU image and tries it as its user: smoke.sh inside, then its history. For people and nightly runs; half an hour on two cores.
#   deploy/image/check.sh [arguments of docker build or buildah build, such as --build-arg BASE_IMAGE=...]
# ENGINE=docker or buildah; by default docker where its daemon answers. BUILDAH_OPTS: what comes before buildah's verb, such as --root.
set -euo pipefail
cd "$(dirname "$0")/../.."
tag=localhost/gmpo:check
set -- --build-arg DEVICE=cpu "$@"  # the default, but buildah 1.28 finds no stage by a default
read -ra options <<< "${BUILDAH_OPTS:-}"
engine=${ENGINE:-$(docker info >/dev/null 2>&1 && echo docker || echo buildah)}

if [ "$engine" = docker ]; then
    docker build "$@" -f deploy/Dockerfile -t "$tag" .
    told=$(docker history --no-trunc "$tag"; docker inspect "$tag")
    try() { docker run --rm --read-only --network none --cap-drop ALL --security-opt no-new-privileges --shm-size 2g \
        --tmpfs /tmp:exec,size=8g --tmpfs /home/gmpo:uid=1000,gid=1000 "$tag" bash -c "$1"; }
else
    buildah() { command buildah "${options[@]}" "$@"; }
    buildah build --layers --format docker --isolation chroot --network host "$@" -f deploy/Dockerfile -t "$tag" .
    told=$(buildah inspect --type image "$tag")
    try() {  # in a chroot of buildah's, whose root file system the user cannot write, though it is not mounted read-only
        local container status=0
        container=$(buildah from --shm-size 2g "$tag")
        buildah run --isolation chroot --user 1000:1000 "$container" -- bash -c "$1" || status=$?
        buildah rm "$container" >/dev/null
        return "$status"
    }
fi

if grep -iE '(password|passwd|secret|token|api_?key)[a-z_]*=[^ ]|://[^/ ]*@|index-url|extra-index|PIP_' <<< "$told"; then
    echo "the image's configuration or history tells a secret or an index" >&2
    exit 1
fi
time try "$(< deploy/image/smoke.sh)"
