#!/bin/sh
# A device server under valgrind, to be named by DEVICE_SERVER_PROGRAM. Errors, lost memory and
# descriptors left open end up in its standard error and in its exit status.
exec valgrind --quiet --error-exitcode=99 --leak-check=full --show-leak-kinds=definite,indirect,possible \
  --errors-for-leak-kinds=definite,indirect,possible "$(dirname "$0")/../../../build-device-server/debug/beamline-sim" "$@"
