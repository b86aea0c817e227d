// What we write is what we, and the reference implementation, read.

#include <algorithm>
#include <random>

#include "tests/checkpoint/fixtures.h"

namespace orthomerge {
namespace {

TEST(SafetensorsLayout, WritesTheReferencesBytes) {
  std::vector<TensorLayout> tensors = {{.name = "b", .dtype = DType::kF32, .shape = {2}},
                                       {.name = "c", .dtype = DType::kBool, .shape = {3}},
                                       {.name = "a", .dtype = DType::kF32, .shape = {}},
                                       {.name = "d", .dtype = DType::kI64, .shape = {0, 4}}};
  const auto head = LayOutSafetensors(&tensors);
  ASSERT_TRUE(head.ok()) << head.status();
  std::string json =
      R"({"__metadata__":{"format":"pt"},"d":{"dtype":"I64","shape":[0,4],"data_offsets":[0,0]},)"
      R"("a":{"dtype":"F32","shape":[],"data_offsets":[0,4]},)"
      R"("b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]},)"
      R"("c":{"dtype":"BOOL","shape":[3],"data_offsets":[12,15]}})";
  json.append((8 - json.size() % 8) % 8, ' ');
  EXPECT_EQ(*head, LengthBytes(json.size()) + json);
  EXPECT_EQ(head->size() % 8, 0u);
  EXPECT_EQ(tensors[1].name, "a");
  EXPECT_EQ(tensors[1].begin, head->size());
  EXPECT_EQ(tensors[3].end, head->size() + 15);
}

TEST(SafetensorsLayout, EscapesNames) {
  std::vector<TensorLayout> tensors = {
      {.name = "q\"b\\n\n\x01é", .dtype = DType::kU8, .shape = {1}}};
  const auto head = LayOutSafetensors(&tensors);
  ASSERT_TRUE(head.ok()) << head.status();
  EXPECT_THAT(*head, ::testing::HasSubstr(R"("q\"b\\n\n\u0001é":)"));
}

TEST(SafetensorsLayout, RefusesWhatTheFormatCannotHold) {
  const auto refused = [](TensorLayout tensor, const std::string& text) {
    std::vector<TensorLayout> tensors = {std::move(tensor)};
    ExpectError(LayOutSafetensors(&tensors).status(), Reason::kOutOfRange, {text});
  };
  refused({.name = "big", .dtype = DType::kF64, .shape = {int64_t{1} << 62}}, "'big'");
  refused({.name = "half", .dtype = DType::kF4, .shape = {3}}, "'half'");
  refused({.name = "less", .dtype = DType::kU8, .shape = {-1}}, "'less'");
  refused({.name = "deep", .dtype = DType::kU8, .shape = std::vector<int64_t>(65, 1)}, "'deep'");
  refused({.name = "__metadata__", .dtype = DType::kU8, .shape = {1}}, "__metadata__");
  refused({.name = "\xff", .dtype = DType::kU8, .shape = {1}}, "not UTF-8");
  std::vector<TensorLayout> sum = {{.name = "a", .dtype = DType::kU8, .shape = {int64_t{1} << 62}},
                                   {.name = "b", .dtype = DType::kU8, .shape = {int64_t{1} << 62}}};
  ExpectError(LayOutSafetensors(&sum).status(), Reason::kOutOfRange, {"'b'"});
  std::vector<TensorLayout> long_names(2);
  for (int i = 0; i < 2; ++i) {
    long_names[i].name = std::string(51'000'000, 'n') + std::to_string(i);
  }
  ExpectError(LayOutSafetensors(&long_names).status(), Reason::kOutOfRange,
              {"header", "max_shard_size"});
}

// Random names, dtypes and shapes come back as they went in, whatever order they were given in.
TEST(SafetensorsLayout, ReadsBackRandomLayouts) {
  std::mt19937 random(20240229);
  const auto below = [&](int n) { return static_cast<int>(random() % n); };
  const std::vector<std::string> pieces = {"model", ".",   "layers", "7",  "\"",   "\\",
                                           "/",     "é",   "中",     "\n", "\x7f", "\x1f",
                                           " ",     "<b>", "{}",     "😀"};
  for (int round = 0; round < 300; ++round) {
    std::map<std::string, TensorLayout> wanted;
    for (int i = below(30); i > 0; --i) {
      TensorLayout tensor;
      for (int j = 1 + below(6); j > 0; --j) tensor.name += pieces[below(pieces.size())];
      tensor.dtype = static_cast<DType>(below(static_cast<int>(DType::kF4) + 1));
      for (int j = below(4); j > 0; --j) tensor.shape.push_back(below(5));
      if (BitsOf(tensor.dtype) < 8) tensor.shape.push_back(4);
      wanted[tensor.name] = tensor;
    }
    std::vector<TensorLayout> tensors;
    for (const auto& [name, tensor] : wanted) tensors.push_back(tensor);
    std::shuffle(tensors.begin(), tensors.end(), random);
    std::vector<TensorLayout> again = tensors;
    std::shuffle(again.begin(), again.end(), random);

    const auto head = LayOutSafetensors(&tensors);
    ASSERT_TRUE(head.ok()) << head.status();
    EXPECT_EQ(LayOutSafetensors(&again).value(), *head);
    const uint64_t size = tensors.empty() ? head->size() : tensors.back().end;
    EXPECT_EQ(SafetensorsHeaderLength(head->substr(0, 8), size).value(), head->size() - 8);
    const auto parsed = ParseSafetensorsHeader(head->substr(8), size);
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    ASSERT_EQ(parsed->size(), wanted.size());
    for (const TensorInfo& tensor : *parsed) {
      const TensorLayout& expected = wanted.at(tensor.name);
      EXPECT_EQ(tensor.dtype, expected.dtype);
      EXPECT_EQ(tensor.shape, expected.shape);
      const int width = std::max(1, BitsOf(tensor.dtype) / 8);
      EXPECT_EQ(tensor.begin % width, 0u);  // aligned to its own width
      const auto laid_out =
          std::find_if(tensors.begin(), tensors.end(),
                       [&](const TensorLayout& layout) { return layout.name == tensor.name; });
      EXPECT_EQ(tensor.begin, laid_out->begin);
      EXPECT_EQ(tensor.end, laid_out->end);
    }
  }
}

}  // namespace
}  // namespace orthomerge
