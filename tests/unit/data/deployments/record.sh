#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# Record containers.json and images.json anew, from containers that Compose makes of compose.yml on this machine's
# engine: ./record.sh <registry's host:port> <an image without a title>, in a folder /srv/opstage, as root. The registry
# and the images are the testbed's. What the collection does not read is left out.
set -eu

export REGISTRY="$1" IMAGE_WITHOUT_TITLE="$2"
mkdir -p data app database
touch opstage.db
docker compose up --no-start
docker compose start published unpublished killed
docker compose run --detach --no-deps published sleep 600
until docker inspect --format '{{.State.Health.Status}}' opstage-published-1 | grep --quiet unhealthy; do
  sleep 1
done
docker compose kill killed

docker ps --all --quiet --no-trunc --filter label=com.docker.compose.project=opstage |
  xargs docker container inspect | jq --sort-keys '
    map({
      Id, Name, Image, RestartCount,
      State: (.State | del(.Error, .FinishedAt, .Health.Log)),
      Config: (.Config | {Image, WorkingDir, Env, Labels}),
      HostConfig: (.HostConfig | {NetworkMode, PortBindings}),
      Mounts,
      NetworkSettings: (.NetworkSettings | {Ports, Networks: (.Networks | map_values({IPAddress}))})
    }) | sort_by(.Name)' >containers.json
jq --raw-output 'map(.Image) | unique[]' containers.json |
  xargs docker image inspect | jq --sort-keys 'map({Id, RepoTags, RepoDigests})' >images.json

docker compose down --volumes --remove-orphans
