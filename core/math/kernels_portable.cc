#define ORTHOMERGE_ISA portable
#define ORTHOMERGE_ISA_NAME "portable"
#define ORTHOMERGE_VECTOR_BYTES 16
#include "core/math/kernels_impl.h"
