# For scripts that run tests: steps, logs and counts; to be sourced after common.sh.
# shellcheck shell=bash disable=SC2154
logs=$root/build/logs
passed=0
failed=0
closing_line_due=true
mkdir -p "$logs"

# The last line, whatever happened; a script that ends early has failed.
close() {
  local status=$?
  if $closing_line_due; then
    if [[ $status -ne 0 ]]; then failed=$((failed + 1)); fi
    echo "$passed passed, $failed failed"
  fi
}
trap close EXIT

finish() {
  say "Took $(minutes "$SECONDS"); logs are in build/logs"
  closing_line_due=false
  echo "$passed passed, $failed failed"
  [[ $failed -eq 0 && $passed -gt 0 ]]
  exit
}

# counted NAME FILE: adds the closing `N passed, N failed` of FILE; shows FILE if something failed.
counted() {
  local good bad line
  line=$(tail -n 1 "$2")
  if [[ $line =~ ^([0-9]+)\ passed,\ ([0-9]+)\ failed$ ]]; then
    good=${BASH_REMATCH[1]} bad=${BASH_REMATCH[2]}
    if [[ $good -eq 0 && $bad -eq 0 ]]; then bad=1; fi
  else
    good=0 bad=1
  fi
  passed=$((passed + good))
  failed=$((failed + bad))
  if [[ $bad -ne 0 ]]; then grep -vE '^PASS|^[0-9]+ passed, [0-9]+ failed$' "$2" | tail -n 200 || true; fi
  echo "$1: $good passed, $bad failed"
}

# one_test NAME COMMAND...: one test, its output in a log that is shown if it fails.
one_test() {
  local name=$1
  shift
  if "$@" >"$logs/$name.log" 2>&1 </dev/null; then
    passed=$((passed + 1))
    echo "$name: passed"
  else
    failed=$((failed + 1))
    tail -n 100 "$logs/$name.log"
    echo "$name: failed"
  fi
}

# logged NAME COMMAND...: what the rest depends on; a failure ends the script.
logged() {
  local name=$1
  shift
  if ! "$@" >"$logs/$name.log" 2>&1 </dev/null; then
    grep -E '^FAILED|error:|undefined reference' "$logs/$name.log" | cut -c1-300 | head -n 20 || true
    tail -n 20 "$logs/$name.log"
    echo "$name failed; the whole log is build/logs/$name.log"
    exit 1
  fi
}

# run_ctest NAME BUILD [OPTION...]: the tests of a build folder, with an S3 server at hand.
run_ctest() {
  local name=$1 folder=$2
  shift 2
  rm -rf "${logs:?}/$name"
  mkdir -p "$logs/$name"
  rm -f "$logs/$name.xml"
  GTEST_OUTPUT=json:$logs/$name/ "$root/scripts/with-s3" ctest --test-dir "$folder" \
    --parallel "$(nproc)" --timeout 900 --output-on-failure --output-junit "$logs/$name.xml" "$@" \
    >"$logs/$name.log" 2>&1 </dev/null || true
  "$python" "$root/scripts/lib/count_tests.py" "$logs/$name.xml" "$logs/$name" >"$logs/$name.count"
  if [[ ! -f $logs/$name.xml ]]; then tail -n 20 "$logs/$name.log"; fi
  counted "$name" "$logs/$name.count"
}

# build_sanitized NAME BUILD SANITIZERS [TARGET...]: everything that does without LibTorch, or just the
# targets. Instrumented code makes g++ 12 see uninitialised values in its own <regex>; the release build
# keeps that warning.
build_sanitized() {
  logged "$1-configure" configure "$2" -DCMAKE_BUILD_TYPE=RelWithDebInfo \
    "-DCMAKE_CXX_FLAGS_RELWITHDEBINFO=-O1 -g1 -Wno-maybe-uninitialized" -DORTHOMERGE_TORCH=OFF \
    -DORTHOMERGE_TESTS=ON "-DORTHOMERGE_SANITIZE=$3"
  local name=$1 folder=$2
  shift 3
  logged "$name-build" compile "$folder" "$@"
}
