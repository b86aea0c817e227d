#include "core/math/dtype.h"

#include "gtest/gtest.h"

namespace orthomerge {
namespace {

TEST(DType, NamesGoBothWays) {
  for (int i = 0; i <= static_cast<int>(DType::kF4); ++i) {
    const auto dtype = static_cast<DType>(i);
    EXPECT_EQ(DTypeFromName(NameOf(dtype)), dtype);
    EXPECT_GE(BitsOf(dtype), 4);
  }
  EXPECT_EQ(DTypeFromName("F8"), std::nullopt);
}

TEST(DType, Texts) {
  EXPECT_EQ(DTypeFromText("bfloat16"), DType::kBF16);
  EXPECT_EQ(DTypeFromText("torch.float32"), DType::kF32);
  EXPECT_EQ(DTypeFromText("bfloat"), std::nullopt);
  EXPECT_EQ(TextOf(DType::kF16), "float16");
}

TEST(DType, WidestFirst) {
  for (int i = 1; i <= static_cast<int>(DType::kF4); ++i) {
    EXPECT_GE(BitsOf(static_cast<DType>(i - 1)), BitsOf(static_cast<DType>(i)));
  }
}

TEST(DType, Promotion) {
  EXPECT_EQ(Promote(DType::kBF16, DType::kBF16), DType::kBF16);
  EXPECT_EQ(Promote(DType::kBF16, DType::kF16), DType::kF32);
  EXPECT_EQ(Promote(DType::kF16, DType::kF64), DType::kF64);
}

}  // namespace
}  // namespace orthomerge
