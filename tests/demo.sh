#!/bin/sh
# The main job from end to end, on a free port and in a folder of its own. The first step that fails ends it, with the end of the
# server's log.
# usage: demo.sh VESPIARY PROCESSOR.wasm
set -eu
vespiary=$(realpath "$1")
processor=$(realpath "$2")
# A server and a token of the caller's would be asked in place of those made here.
for name in $(env | sed -n 's/^\(VESPIARY_[A-Za-z0-9_]*\|PYGEOAPI_[A-Za-z0-9_]*\)=.*/\1/p'); do
    unset "$name"
done
# How long each thing may take that is waited for, in seconds.
patience=15
folder=$(mktemp -d)
server=
stop() {
    code=$?
    trap - EXIT
    [ -z "$server" ] || { kill "$server" 2>/dev/null && wait "$server" 2>/dev/null; } || true
    if [ "$code" -ne 0 ]; then
        printf '\nthe demo failed at step "%s" (exit code %s)\n' "$step" "$code" >&2
        if [ -s "$folder/server.log" ]; then
            printf 'the last lines of the server log:\n' >&2
            tail -n 20 "$folder/server.log" >&2
        fi
    fi
    rm -rf "$folder"
    exit "$code"
}
step="0. prepare"
trap stop EXIT
trap 'exit 130' INT TERM
say() {
    step=$*
    printf '\n\033[1m%s\033[0m\n' "$*"
}
# await WHAT COMMAND…: repeats the command until it succeeds
await() {
    what=$1
    shift
    end=$(($(date +%s) + patience))
    until "$@"; do
        kill -0 "$server" 2>/dev/null || { echo "the server ended while the demo waited for $what" >&2; exit 1; }
        [ "$(date +%s)" -lt "$end" ] || { echo "waited $patience s in vain for $what" >&2; exit 1; }
        sleep 0.1
    done
}
is_up() { [ -s out ]; }
is_offered() { "$vespiary" processes | grep -q '^hello-world '; }
is_done() { "$vespiary" jobs --status successful | grep -q "^$1 "; }

cd "$folder"
mkdir plugins
say "1. start a server that offers nothing yet"
VESPIARY_PROCESSES='[]' "$vespiary" serve --listen 127.0.0.1:0 --data data --plugins plugins >out 2>server.log &
server=$!
await "the server's first line" is_up
VESPIARY_URL=$(head -n 1 out)
export VESPIARY_URL
echo "$VESPIARY_URL"

say "2. drop a processor into the watched folder: it is a process"
cp "$processor" plugins/
await "the process hello-world to be offered" is_offered
"$vespiary" processes

say "3. execute it, asynchronously"
job=$("$vespiary" run hello-world name=Ada message='good morning')
echo "job $job"
await "the job to be successful" is_done "$job"
"$vespiary" jobs

say "4. execute it, synchronously: the result"
"$vespiary" run hello-world name=Grace message='good evening' --sync
echo

say "5. the first job's log"
"$vespiary" logs "$job"
echo

say "6. and the receipt of its capture"
"$vespiary" receipt "$job"

say "7. the history, in SQL"
"$vespiary" sql --data data "select process, status, run_seconds, result_media_type, result_size, log_size, exit_code from job_history order by created"

say "done: this was $vespiary in $folder, which is removed now"
