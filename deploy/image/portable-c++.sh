#!/bin/sh
# The C++ compiler, for $CPU_ARCH. DeepSpeed compiles for the processor it finds, and an image runs on others.
for argument in "$@"; do
    shift
    case $argument in
        -march=native) argument=-march=$CPU_ARCH ;;
        -D__AVX512__) argument=-D__AVX256__ ;;
        -g) continue ;;
    esac
    set -- "$@" "$argument"
done
exec g++ "$@"
