// Loops that are compiled once per instruction set, where a table of kernels (kernels.h) would be
// more code than the loop. The best form for the CPU is chosen when the program is loaded. All give
// the same bytes, as kernels do: plain IEEE operations in the order of the source.
#pragma once

// Put before a function whose loops run over the elements of a region; what it calls must be
// inlined to be part of it. Sanitizers do not run early enough for the choice.
#if defined(__x86_64__) && !defined(__clang__) && !defined(ORTHOMERGE_SANITIZED)
#define ORTHOMERGE_PER_CPU \
  __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define ORTHOMERGE_PER_CPU
#endif
