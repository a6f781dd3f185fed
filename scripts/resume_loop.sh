#!/usr/bin/env bash
# Runs a training command to its end: when a rank dies, the command is started again with --resume.
#
#   scripts/resume_loop.sh [--tries N] [--pause SECONDS] COMMAND... --out DIR [flags]
#   scripts/resume_loop.sh --newest DIR        the step of the newest checkpoint in DIR, or -1
#
# COMMAND is train_findap, alone or behind mpirun or srun; its --out says where the checkpoints are. What its status means here:
#   0              done
#   3              stopped by a signal with a checkpoint written: the loop ends with 3 and starts nothing
#   126, 127       there is no such program: the loop ends (mpirun gives such a one another status: then it ends after N starts)
#   1 or 2, and nothing was added to DIR/log.jsonl: wrong before the first step (a flag, a file): the loop ends
#   anything else  a signal (128 + its number), a dead or hung rank, a failed run: after the pause again, with --resume
# It gives up, with the last status, after N starts in a row (--tries, 3) that brought no newer checkpoint.
#
# A TERM or INT to the loop is passed on to the ranks, which finish the step and write a checkpoint; nothing is started after it. mpirun itself
# would kill its ranks on a TERM, and srun would abort the step; so the ranks get it from here: those of this host under mpirun (they tell
# the others), all of them through scancel under srun. A second signal is passed on too, and ends the ranks at once.
set -uo pipefail

say() { echo "resume_loop.sh: $*" >&2; }
usage() { say "error: $1 ---> usage: resume_loop.sh [--tries N] [--pause SECONDS] COMMAND... --out DIR [flags]"; exit 2; }
natural() { [[ $2 =~ ^[0-9]{1,9}$ ]] || usage "$1 is \"$2\", expected a whole number"; }

newest() {   # DIR: the highest step whose checkpoint is whole; it gets its name when it is (findap/checkpoint.h)
    local path step best=-1
    for path in "$1"/checkpoints/step_*; do
        [[ $path =~ /step_([0-9]+)$ && -f $path/manifest.json ]] || continue
        step=$((10#${BASH_REMATCH[1]}))
        [ "$step" -gt "$best" ] && best=$step
    done
    echo "$best"
}

tries=3 pause=10
while [ $# -gt 0 ]; do
    case $1 in
        --newest) [ $# -eq 2 ] || usage "--newest takes one directory"; newest "$2"; exit 0 ;;
        --tries) natural "$1" "${2-}"; tries=$2; shift 2 ;;
        --pause) natural "$1" "${2-}"; pause=$2; shift 2 ;;
        -*) usage "unknown flag $1" ;;
        *) break ;;
    esac
done
[ $# -gt 0 ] || usage "no command"
out="" given=false   # given: --resume stands in the command already
for ((i = 1; i <= $#; i++)); do
    [ "${!i}" = --resume ] && given=true
    [ "${!i}" = --out ] && { n=$((i + 1)); out=${!n-}; }
done
[ -n "$out" ] || usage "the command has no --out"

child="" stopped=false signalled=false
name_of() { cat "/proc/$1/comm" 2>/dev/null; }
children_of() { cat /proc/"$1"/task/*/children 2>/dev/null; }
pass_on() {
    local name ranks=() pid
    stopped=true signalled=true
    [ -n "$child" ] || return 0
    name=$(name_of "$child")
    case $name in
        mpirun | mpiexec | orterun | prterun | prte)
            for pid in $(children_of "$child"); do   # the ranks of this host, and the ssh that started other hosts
                case $(name_of "$pid") in "" | ssh | rsh | srun | orted | prted) ;; *) ranks+=("$pid") ;; esac
            done
            if [ ${#ranks[@]} -gt 0 ]; then say "stop: TERM to ${#ranks[@]} ranks"; kill -TERM "${ranks[@]}" 2>/dev/null
            else say "stop: no rank on this host, mpirun ends the job; its last checkpoint stays"; kill -TERM "$child" 2>/dev/null; fi ;;
        srun) say "stop: TERM to the steps of job ${SLURM_JOB_ID-}"; scancel --quiet --signal=TERM "${SLURM_JOB_ID-}" ;;
        *) say "stop: TERM to $name"; kill -TERM "$child" 2>/dev/null ;;
    esac
    return 0
}
trap pass_on TERM INT

wait_child() {   # its status, however often a signal interrupts the waiting
    local status before=127
    while :; do
        signalled=false
        wait "$child"; status=$?
        [ "$status" -eq 127 ] && { status=$before; break; }
        [ "$signalled" = false ] && break
        before=$status
    done
    return "$status"
}

log_size() { stat -c %s "$out/log.jsonl" 2>/dev/null || echo 0; }

resume=() without=0
[ "$given" = false ] && [ "$(newest "$out")" -ge 0 ] && resume=(--resume)
while :; do
    began=$(newest "$out") log=$(log_size)
    [ "$stopped" = true ] && { say "stopped between two starts, newest checkpoint: step $began"; exit $((began >= 0 ? 3 : 143)); }
    say "start: $* ${resume[*]-}"
    set -m   # a process group of its own: a Ctrl-C reaches the loop alone, which passes it on as above
    "$@" ${resume[@]+"${resume[@]}"} </dev/null &
    child=$!
    set +m
    [ "$stopped" = true ] && pass_on   # a signal came before there was a child
    wait_child; status=$?
    child="" now=$(newest "$out")
    if [ "$status" -eq 0 ]; then exit 0; fi
    if [ "$status" -eq 3 ] || { [ "$stopped" = true ] && [ "$now" -gt "$began" ]; }; then say "stopped, newest checkpoint: step $now ---> the same command goes on"; exit 3; fi
    if [ "$stopped" = true ]; then say "stopped with status $status, no new checkpoint; newest: step $now"; exit "$status"; fi
    if [ "$status" -eq 126 ] || [ "$status" -eq 127 ]; then say "error: the command cannot be run (status $status)"; exit "$status"; fi
    if [ "$status" -le 2 ] && [ "$(log_size)" -eq "$log" ]; then
        say "error: status $status before the first step ---> correct what it names; not started again"
        exit "$status"
    fi
    without=$((now > began ? 0 : without + 1))
    what="status $status"
    [ "$status" -gt 128 ] && what="signal $((status - 128))"
    if [ "$without" -ge "$tries" ]; then say "error: $what; $without starts in a row without a newer checkpoint (step $now)$([ -f "$out/log.jsonl" ] && echo " ---> see $out/log.jsonl")"; exit "$status"; fi
    say "$what; newest checkpoint: step $now (before: $began); again in $pause s"
    sleep "$pause" &   # in the background, so that a signal ends the pause
    wait $! || kill $! 2>/dev/null
    [ "$given" = false ] && resume=(--resume)
done
