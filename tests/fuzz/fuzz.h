// What a fuzz target needs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>

// Ends the process where a property does not hold.
#define FUZZ_CHECK(condition)  \
  do {                         \
    if (!(condition)) abort(); \
  } while (false)

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);
