#!/usr/bin/env bash
# Runs the test programs given after the build directory, one after the other; ends with one line that counts tests.
set -u
build=$1; shift
passed=0 failed=0 skipped=0 broken=()
for t in "$@"; do
    log=$build/$(basename "$t").log
    "$t" >"$log" 2>&1
    status=$?
    ok=$(grep -c '^\[       OK \]' "$log"); bad=$(grep -cE '^\[  FAILED  \] [^0-9]' "$log"); skip=$(grep -c '^\[  SKIPPED \] [^0-9]' "$log")
    # a program that died without naming a failed test is a failure too
    if [ $status -ne 0 ]; then bad=$((bad / 2)); [ $bad -eq 0 ] && bad=1; broken+=("$t"); else bad=0; fi
    passed=$((passed + ok)) failed=$((failed + bad)) skipped=$((skipped + skip / 2))
    printf '%-28s %3d passed' "$(basename "$t")" "$ok"
    [ $bad -gt 0 ] && printf ', %d FAILED (see %s)' "$bad" "$log"
    [ "$skip" -gt 0 ] && printf ', %d skipped' "$((skip / 2))"
    printf '\n'
    grep -h '^skipped:' "$log" | sort -u | sed 's/^/    /'
done
for t in ${broken+"${broken[@]}"}; do echo "---- $t"; grep -vE '^\[ (RUN|      OK)' "$build/$(basename "$t").log" | tail -n 40; done
echo "$passed passed, $failed failed, $skipped skipped"
[ $failed -eq 0 ] && [ $passed -gt 0 ]
