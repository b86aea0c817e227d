#include "core/math/dtype.h"

#include <array>

#include "absl/strings/match.h"
#include "absl/strings/strip.h"

namespace orthomerge {
namespace {

struct DTypeRow {
  DType dtype;
  const char* name;
  int bits;
};

constexpr std::array kDTypes = {
    DTypeRow{DType::kU64, "U64", 64},
    DTypeRow{DType::kI64, "I64", 64},
    DTypeRow{DType::kF64, "F64", 64},
    DTypeRow{DType::kC64, "C64", 64},
    DTypeRow{DType::kF32, "F32", 32},
    DTypeRow{DType::kU32, "U32", 32},
    DTypeRow{DType::kI32, "I32", 32},
    DTypeRow{DType::kBF16, "BF16", 16},
    DTypeRow{DType::kF16, "F16", 16},
    DTypeRow{DType::kU16, "U16", 16},
    DTypeRow{DType::kI16, "I16", 16},
    DTypeRow{DType::kF8E5M2FNUZ, "F8_E5M2FNUZ", 8},
    DTypeRow{DType::kF8E4M3FNUZ, "F8_E4M3FNUZ", 8},
    DTypeRow{DType::kF8E8M0, "F8_E8M0", 8},
    DTypeRow{DType::kF8E4M3, "F8_E4M3", 8},
    DTypeRow{DType::kF8E5M2, "F8_E5M2", 8},
    DTypeRow{DType::kI8, "I8", 8},
    DTypeRow{DType::kU8, "U8", 8},
    DTypeRow{DType::kBool, "BOOL", 8},
    DTypeRow{DType::kF6E3M2, "F6_E3M2", 6},
    DTypeRow{DType::kF6E2M3, "F6_E2M3", 6},
    DTypeRow{DType::kF4, "F4", 4},
};

}  // namespace

int BitsOf(DType dtype) { return kDTypes[static_cast<size_t>(dtype)].bits; }

absl::string_view NameOf(DType dtype) { return kDTypes[static_cast<size_t>(dtype)].name; }

std::optional<DType> DTypeFromName(absl::string_view name) {
  for (const DTypeRow& row : kDTypes) {
    if (name == row.name) return row.dtype;
  }
  return std::nullopt;
}

std::optional<DType> DTypeFromText(absl::string_view text) {
  absl::ConsumePrefix(&text, "torch.");
  if (text == "bfloat16" || text == "bf16") return DType::kBF16;
  if (text == "float16" || text == "fp16" || text == "f16" || text == "half") return DType::kF16;
  if (text == "float32" || text == "fp32" || text == "f32" || text == "float") return DType::kF32;
  if (text == "float64" || text == "fp64" || text == "f64" || text == "double") return DType::kF64;
  return std::nullopt;
}

absl::string_view TextOf(DType dtype) {
  switch (dtype) {
    case DType::kBF16:
      return "bfloat16";
    case DType::kF16:
      return "float16";
    case DType::kF32:
      return "float32";
    case DType::kF64:
      return "float64";
    default:
      return NameOf(dtype);
  }
}

bool IsMergeable(DType dtype) {
  return dtype == DType::kBF16 || dtype == DType::kF16 || dtype == DType::kF32 ||
         dtype == DType::kF64;
}

bool IsIntegral(DType dtype) {
  switch (dtype) {
    case DType::kU64:
    case DType::kI64:
    case DType::kU32:
    case DType::kI32:
    case DType::kU16:
    case DType::kI16:
    case DType::kU8:
    case DType::kI8:
    case DType::kBool:
      return true;
    default:
      return false;
  }
}

DType Promote(DType a, DType b) {
  if (a == b) return a;
  if (a == DType::kF64 || b == DType::kF64) return DType::kF64;
  return DType::kF32;
}

}  // namespace orthomerge
