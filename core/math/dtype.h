// Element types of tensors, named as in safetensors files.
#pragma once

#include <cstdint>
#include <optional>

#include "absl/strings/string_view.h"

namespace orthomerge {

// In the order in which tensors are laid out in a file (widest first, as the safetensors library
// orders them).
enum class DType : uint8_t {
  kU64,
  kI64,
  kF64,
  kC64,
  kF32,
  kU32,
  kI32,
  kBF16,
  kF16,
  kU16,
  kI16,
  kF8E5M2FNUZ,
  kF8E4M3FNUZ,
  kF8E8M0,
  kF8E4M3,
  kF8E5M2,
  kI8,
  kU8,
  kBool,
  kF6E3M2,
  kF6E2M3,
  kF4,
};

int BitsOf(DType dtype);                                     // per element: 4 to 64
absl::string_view NameOf(DType dtype);                       // "BF16"
std::optional<DType> DTypeFromName(absl::string_view name);  // of a safetensors header
// "bfloat16", "float16", "float32", "float64" (and "bf16", "fp16", "f32" ...; "torch." allowed).
std::optional<DType> DTypeFromText(absl::string_view text);
absl::string_view TextOf(DType dtype);  // "bfloat16"; of the four above only, else NameOf

// F16, BF16, F32 and F64: what methods compute with.
bool IsMergeable(DType dtype);
// Integers and BOOL: copied from the base.
bool IsIntegral(DType dtype);
// The narrowest of the four mergeable types that holds both (BF16 with F16: F32).
DType Promote(DType a, DType b);

}  // namespace orthomerge
