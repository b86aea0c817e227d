#define ORTHOMERGE_ISA avx512
#define ORTHOMERGE_ISA_NAME "avx512"
#define ORTHOMERGE_VECTOR_BYTES 64
#include "core/math/kernels_impl.h"
