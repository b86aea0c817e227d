#include "core/checkpoint/quantisation.h"

#include "nlohmann/json.hpp"
#include "tests/checkpoint/fixtures.h"

namespace orthomerge {
namespace {

class QuantisationTest : public CheckpointTest {
 protected:
  // A model of these tensors whose config.json has `quantisation` (none if empty).
  absl::StatusOr<Quantisation> Of(std::vector<TensorLayout> tensors,
                                  const std::string& quantisation) {
    std::string file = LayOutSafetensors(&tensors).value();
    file.resize(tensors.back().end, '\0');
    Add("/m/model.safetensors", file);
    Add("/m/config.json", quantisation.empty()
                              ? "{}"
                              : absl::StrCat(R"({"quantization_config":)", quantisation, "}"));
    const auto checkpoint = Open("/m");
    EXPECT_TRUE(checkpoint.ok()) << checkpoint.status();
    return Quantisation::Of(*checkpoint);
  }

  static TensorLayout Weight(std::vector<int64_t> shape = {5, 6}) {
    return {.name = "w.weight", .dtype = DType::kF8E4M3, .shape = std::move(shape)};
  }
  static TensorLayout Scale(std::vector<int64_t> shape, DType dtype = DType::kF32) {
    return {.name = "w.weight_scale_inv", .dtype = dtype, .shape = std::move(shape)};
  }
};

constexpr char kBlocks[] = R"({"quant_method":"fp8","weight_block_size":[2,4]})";

TEST_F(QuantisationTest, FindsBlocks) {
  const auto found = Of({Weight(), Scale({3, 2})}, kBlocks);
  ASSERT_TRUE(found.ok()) << found.status();
  const BlockScale* const blocks = found->Find("w.weight");
  ASSERT_NE(blocks, nullptr);
  EXPECT_EQ(blocks->scale.name, "w.weight_scale_inv");
  EXPECT_EQ(blocks->grid_rows, 3);
  EXPECT_EQ(blocks->grid_columns, 2);
  EXPECT_EQ(blocks->block_rows, 2);
  EXPECT_EQ(blocks->block_columns, 4);
  EXPECT_EQ(blocks->columns, 6);
  EXPECT_TRUE(found->IsScale("w.weight_scale_inv"));
  EXPECT_FALSE(found->IsScale("w.weight"));
  EXPECT_EQ(found->Find("w.weight_scale_inv"), nullptr);
}

TEST_F(QuantisationTest, TakesTheUsualBlocksWhereNothingIsSaid) {
  for (const char* config : {"", R"({"quant_method":"fp8"})", R"({"weight_block_size":null})"}) {
    const auto found = Of({Weight({129, 300}), Scale({2, 3}, DType::kBF16)}, config);
    ASSERT_TRUE(found.ok()) << found.status();
    EXPECT_EQ(found->Find("w.weight")->block_rows, 128);
    EXPECT_EQ(found->Find("w.weight")->block_columns, 128);
  }
}

TEST_F(QuantisationTest, TakesScalesPerTensorAndPerRow) {
  TensorLayout scale = Scale({1});
  scale.name = "w.weight_scale";
  const TensorLayout inputs = {.name = "w.input_scale", .dtype = DType::kF32, .shape = {}};
  const TensorLayout other = {.name = "logit_scale", .dtype = DType::kF32, .shape = {}};
  for (const std::vector<int64_t>& shape :
       {std::vector<int64_t>{1}, std::vector<int64_t>{}, std::vector<int64_t>{1, 1}}) {
    scale.shape = shape;
    const auto found = Of({Weight(), scale, inputs, other}, R"({"quant_method":"fp8"})");
    ASSERT_TRUE(found.ok()) << found.status();
    EXPECT_EQ(found->Find("w.weight")->grid_rows, 1);
    EXPECT_EQ(found->Find("w.weight")->block_rows, 5);
    EXPECT_EQ(found->Find("w.weight")->block_columns, 6);
    EXPECT_TRUE(found->IsScale("w.input_scale"));
    EXPECT_FALSE(found->IsScale("logit_scale"));
  }
  scale.shape = {5, 1};
  const auto found = Of({Weight(), scale}, "");
  ASSERT_TRUE(found.ok()) << found.status();
  EXPECT_EQ(found->Find("w.weight")->grid_rows, 5);
  EXPECT_EQ(found->Find("w.weight")->block_rows, 1);
  EXPECT_EQ(found->Find("w.weight")->block_columns, 6);
  scale.shape = {1, 6};
  ExpectError(Of({Weight(), scale}, "").status(), Reason::kInputCorrupt, {"[1, 6]", "[5, 1]"});
}

TEST_F(QuantisationTest, LeavesOtherModelsAlone) {
  const TensorLayout plain = {.name = "w.weight", .dtype = DType::kBF16, .shape = {5, 6}};
  EXPECT_TRUE(Of({plain}, "")->empty());
  EXPECT_TRUE(Of({plain}, "null")->empty());
  // Codes that nothing says anything about are passed through elsewhere.
  EXPECT_TRUE(Of({Weight()}, "")->empty());
}

TEST_F(QuantisationTest, RefusesOtherKinds) {
  const TensorLayout plain = {.name = "w.weight", .dtype = DType::kBF16, .shape = {5, 6}};
  for (const char* method : {"gptq", "awq", "bitsandbytes", "compressed-tensors", "mxfp4"}) {
    ExpectError(Of({plain}, absl::StrCat(R"({"quant_method":")", method, "\"}")).status(),
                Reason::kUnsupported, {"/m", method, "before it was quantised"});
  }
  for (const char* name : {"w.qweight", "w.qzeros", "w.weight_packed", "w.weight.absmax",
                           "w.weight.quant_state.bitsandbytes__nf4", "experts.up_blocks"}) {
    ExpectError(Of({{.name = name, .dtype = DType::kU8, .shape = {4}}}, "").status(),
                Reason::kUnsupported, {name, "packed"});
  }
  // Inside text_config, too.
  std::vector<TensorLayout> tensors = {plain};
  std::string file = LayOutSafetensors(&tensors).value();
  file.resize(tensors.back().end, '\0');
  Add("/t/model.safetensors", file);
  Add("/t/config.json", R"({"text_config":{"quantization_config":{"quant_method":"gptq"}}})");
  ExpectError(Quantisation::Of(*Open("/t")).status(), Reason::kUnsupported, {"gptq"});
}

TEST_F(QuantisationTest, RefusesScalesThatDoNotFit) {
  const auto expect = [&](std::vector<TensorLayout> tensors, Reason reason,
                          const std::vector<std::string>& texts) {
    ExpectError(Of(std::move(tensors), kBlocks).status(), reason, texts);
  };
  expect({Weight(), Scale({2, 2})}, Reason::kInputCorrupt, {"/m", "[2, 2]", "[3, 2]"});
  expect({Weight(), Scale({1})}, Reason::kInputCorrupt, {"[1]", "[3, 2]"});
  expect({Weight(), Scale({3, 2}, DType::kI32)}, Reason::kUnsupportedDtype, {"I32"});
  expect({Weight()}, Reason::kInputCorrupt, {"'w.weight'", "w.weight_scale_inv", "not there"});
  TensorLayout second = Scale({3, 2});
  second.name = "w.weight_scale";
  expect({Weight(), Scale({3, 2}), second}, Reason::kInputCorrupt, {"second scale"});
  TensorLayout plain = Weight();
  plain.dtype = DType::kBF16;
  expect({plain, Scale({3, 2})}, Reason::kInputCorrupt, {"w.weight_scale_inv", "BF16"});
  plain.name = "v";
  expect({plain, Scale({3, 2})}, Reason::kInputCorrupt, {"its weight is not there"});
  TensorLayout bare = Weight();
  bare.name = "v.weight";
  ExpectError(Of({Weight(), Scale({1, 1}), bare}, "").status(), Reason::kInputCorrupt,
              {"'v.weight'", "v.weight_scale_inv"});
  for (const char* block : {"[0,4]", "[2]", "[2,-4]", "[2,4.5]", "\"2\"", "4", "{}", "[2,4,1]"}) {
    ExpectError(Of({Weight(), Scale({3, 2})},
                   absl::StrCat(R"({"quant_method":"fp8","weight_block_size":)", block, "}"))
                    .status(),
                Reason::kInputCorrupt, {"weight_block_size"});
  }
}

TEST(DropQuantisation, TakesTheMemberAndItsComma) {
  const auto drop = [](const std::string& text) {
    const auto result = DropQuantisation(text);
    return result.ok() ? *result : std::string(result.status().message());
  };
  EXPECT_EQ(drop(R"({"a":1})"), R"({"a":1})");
  EXPECT_EQ(drop("{\n  \"a\": 1,\n  \"quantization_config\": {\"x\": [1]},\n  \"b\": 2\n}\n"),
            "{\n  \"a\": 1,\n  \"b\": 2\n}\n");
  EXPECT_EQ(drop("{\n  \"quantization_config\": null,\n  \"b\": 2\n}"), "{\n  \"b\": 2\n}");
  EXPECT_EQ(drop("{\n  \"a\": 1,\n  \"quantization_config\": {}\n}"), "{\n  \"a\": 1\n}");
  EXPECT_EQ(drop(R"({ "quantization_config": 1 })"), "{  }");
  EXPECT_EQ(drop(R"({"quantization_config":1,"a":1,"quantization_config":2})"), R"({"a":1})");
  EXPECT_EQ(drop(R"({"quantization_config":1,"quantization_config":2})"), "{}");
  EXPECT_EQ(drop(R"({"a":1,"quantization_config":1,"quantization_config":2})"), R"({"a":1})");
  EXPECT_EQ(drop(R"({"text_config":{"a":1,"quantization_config":{}},"quantization_config":{}})"),
            R"({"text_config":{"a":1}})");
  EXPECT_EQ(drop(R"({"other":{"quantization_config":{}}})"),
            R"({"other":{"quantization_config":{}}})");
  EXPECT_THAT(drop("[]"), testing::HasSubstr("config.json"));
}

}  // namespace
}  // namespace orthomerge
