#define ORTHOMERGE_ISA avx2
#define ORTHOMERGE_ISA_NAME "avx2"
#define ORTHOMERGE_VECTOR_BYTES 32
#include "core/math/kernels_impl.h"
