#!/usr/bin/env bash
# Installs the C libraries findap.c is built with, where they are missing (Debian/Ubuntu packages); does nothing
# where nothing is missing, uses sudo only when not root, and without apt names the packages and stops. libcurl is optional
# (judges behind an HTTP endpoint): it is installed along with what is missing, and by `make deps`, but nothing stops without it.
set -euo pipefail
declare -A package=([jansson.h]=libjansson-dev [utf8proc.h]=libutf8proc-dev [xxhash.h]=libxxhash-dev [cmocka.h]=libcmocka-dev)
missing=()
required=1
command -v cc >/dev/null || missing+=(build-essential)
for header in "${!package[@]}"; do
    # cmocka.h wants its prerequisites first; asking the preprocessor for the file alone is enough
    if ! printf '#include <stdarg.h>\n#include <stddef.h>\n#include <setjmp.h>\n#include <stdint.h>\n#include <%s>\n' "$header" \
        | ${CC:-cc} -fsyntax-only -x c - 2>/dev/null; then missing+=("${package[$header]}"); fi
done
[ ${#missing[@]} -eq 0 ] && required=0
if ! printf '#include <curl/curl.h>\n' | ${CC:-cc} -fsyntax-only -x c - 2>/dev/null; then
    if [ $required -eq 0 ] && ! { command -v apt-get && { [ "$(id -u)" -eq 0 ] || command -v sudo; }; } >/dev/null; then
        echo "deps.sh: optional and not here: libcurl4-openssl-dev (judging through HTTP endpoints)" >&2
        exit 0
    fi
    missing+=(libcurl4-openssl-dev)
fi
[ ${#missing[@]} -eq 0 ] && exit 0
echo "deps.sh: missing packages: ${missing[*]}" >&2
if ! command -v apt-get >/dev/null; then
    echo "deps.sh: error: no apt-get here ---> install with your system's package manager: jansson, utf8proc, xxHash, cmocka (development files)" >&2
    exit 1
fi
as_root=()
if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || { echo "deps.sh: error: not root and no sudo ---> run as root: apt-get install ${missing[*]}" >&2; exit 1; }
    as_root=(sudo)
fi
export DEBIAN_FRONTEND=noninteractive
"${as_root[@]}" apt-get install -y -q "${missing[@]}" >/dev/null 2>&1 \
    || { "${as_root[@]}" apt-get update -q >/dev/null && "${as_root[@]}" apt-get install -y -q "${missing[@]}" >/dev/null; } \
    || { [ $required -eq 0 ] && echo "deps.sh: optional and not installed: ${missing[*]}" >&2 && exit 0; }
echo "deps.sh: installed ${missing[*]}" >&2
