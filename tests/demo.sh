#!/bin/sh
# The main job from end to end, on a free port and in a folder of its own.
# usage: demo.sh VESPIARY PROCESSOR.wasm
set -eu
vespiary=$(realpath "$1")
processor=$(realpath "$2")
folder=$(mktemp -d)
server=
stop() {
    [ -z "$server" ] || { kill "$server" 2>/dev/null && wait "$server" 2>/dev/null; } || true
    rm -rf "$folder"
}
trap stop EXIT
trap 'exit 130' INT TERM
say() { printf '\n\033[1m%s\033[0m\n' "$*"; }

cd "$folder"
mkdir plugins
say "1. start a server that offers nothing yet"
VESPIARY_PROCESSES='[]' "$vespiary" serve --listen 127.0.0.1:0 --data data --plugins plugins >out 2>server.log &
server=$!
for _ in $(seq 100); do
    [ ! -s out ] || break
    kill -0 "$server" 2>/dev/null || { cat server.log; exit 1; }
    sleep 0.1
done
VESPIARY_URL=$(head -n 1 out)
export VESPIARY_URL
echo "$VESPIARY_URL"

say "2. drop a processor into the watched folder: it is a process"
cp "$processor" plugins/
for _ in $(seq 100); do
    ! "$vespiary" processes | grep -q hello-world || break
    sleep 0.1
done
"$vespiary" processes

say "3. execute it, asynchronously"
job=$("$vespiary" run hello-world name=Ada message='good morning')
echo "job $job"
for _ in $(seq 100); do
    ! "$vespiary" jobs --status accepted --status running | grep -q "$job" || { sleep 0.1; continue; }
    break
done
"$vespiary" jobs

say "4. execute it, synchronously: the result"
"$vespiary" run hello-world name=Grace message='good evening' --sync

say "5. the first job's log"
"$vespiary" logs "$job"

say "6. and the receipt of its capture"
"$vespiary" receipt "$job"

say "7. the history, in SQL"
"$vespiary" sql --data data "select process, status, run_seconds, result_media_type, result_size, log_size, exit_code from job_history order by created"

say "done: this was $vespiary in $folder, which is removed now"
