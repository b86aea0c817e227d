#include "core/checkpoint/adapter.h"

#include <algorithm>

#include "tests/checkpoint/fixtures.h"
#include "tests/checkpoint/torch_fixtures.h"

namespace orthomerge {
namespace {

using testing::ElementsAre;
using testing::SizeIs;

constexpr char kConfig[] = R"({"peft_type":"LORA","r":2,"lora_alpha":4)";

TensorInfo Tensor(const std::string& name, std::vector<int64_t> shape, DType dtype = DType::kF32) {
  TensorInfo tensor;
  tensor.name = name;
  tensor.dtype = dtype;
  tensor.shape = std::move(shape);
  return tensor;
}

TensorInfo Part(const std::string& name, std::vector<int64_t> shape) {
  return Tensor("base_model.model." + name, std::move(shape));
}

class AdapterTest : public ::testing::Test {
 protected:
  // `members` are added to the configuration.
  absl::StatusOr<Adapter> Parse(const std::string& members = "") {
    return Adapter::Parse(absl::StrCat(kConfig, members.empty() ? "" : ",", members, "}"),
                          tensors_);
  }

  absl::StatusOr<std::vector<TensorChange>> Fit(const std::string& members = "") {
    const absl::StatusOr<Adapter> adapter = Parse(members);
    if (!adapter.ok()) return adapter.status();
    const auto find = [this](absl::string_view name) -> const TensorInfo* {
      for (const TensorInfo& tensor : base_) {
        if (tensor.name == name) return &tensor;
      }
      return nullptr;
    };
    return adapter->Fit(find, &diagnostics_);
  }

  void AddFactors(const std::string& module, int64_t out, int64_t in, int64_t rank = 2) {
    tensors_.push_back(Part(module + ".lora_A.weight", {rank, in}));
    tensors_.push_back(Part(module + ".lora_B.weight", {out, rank}));
  }

  std::vector<TensorInfo> tensors_;
  std::vector<TensorInfo> base_ = {Tensor("q.weight", {6, 4}),
                                   Tensor("q.bias", {6}),
                                   Tensor("square.weight", {5, 5}),
                                   Tensor("conv.weight", {6, 3, 2, 2}),
                                   Tensor("ids.weight", {6, 4}, DType::kI64),
                                   Tensor("in_norm.weight", {4}),
                                   Tensor("embed_tokens.weight", {10, 4}),
                                   Tensor("lm_head.weight", {10, 4})};
  Diagnostics diagnostics_;
};

TEST_F(AdapterTest, PairsFactors) {
  AddFactors("q", 6, 4);
  const auto changes = Fit();
  ASSERT_TRUE(changes.ok()) << changes.status();
  ASSERT_THAT(*changes, SizeIs(1));
  const TensorChange& change = (*changes)[0];
  EXPECT_EQ(change.tensor, "q.weight");
  ASSERT_TRUE(change.low_rank.has_value());
  EXPECT_THAT(change.low_rank->a.shape, ElementsAre(2, 4));
  EXPECT_THAT(change.low_rank->b.shape, ElementsAre(6, 2));
  EXPECT_EQ(change.low_rank->scale, 2);
  EXPECT_FALSE(change.low_rank->transposed);
  EXPECT_FALSE(change.full.has_value() || change.added.has_value() || change.rows.has_value());
  EXPECT_TRUE(diagnostics_.items().empty());
}

TEST_F(AdapterTest, TakesConvolutions) {
  tensors_ = {Part("conv.lora_A.weight", {2, 3, 2, 2}), Part("conv.lora_B.weight", {6, 2, 1, 1})};
  const auto changes = Fit();
  ASSERT_TRUE(changes.ok()) << changes.status();
  EXPECT_FALSE((*changes)[0].low_rank->transposed);
  tensors_[1].shape = {6, 2, 1, 3};
  ExpectError(Fit().status(), Reason::kInputCorrupt, {"conv.lora_B.weight", "kernel"});
}

TEST_F(AdapterTest, TransposesByShapeAndSetting) {
  // A layer that keeps [in, out] = [6, 4].
  AddFactors("q", 4, 6);
  ExpectError(Fit().status(), Reason::kShapeMismatch, {"'q.weight'", "[4, 6]", "[6, 4]"});
  auto changes = Fit(R"("fan_in_fan_out":true)");
  ASSERT_TRUE(changes.ok()) << changes.status();
  EXPECT_TRUE((*changes)[0].low_rank->transposed);
  // An ordinary layer of the same model.
  tensors_.clear();
  AddFactors("q", 6, 4);
  changes = Fit(R"("fan_in_fan_out":true)");
  ASSERT_TRUE(changes.ok()) << changes.status();
  EXPECT_FALSE((*changes)[0].low_rank->transposed);
  // Where the shape does not tell, the setting does.
  tensors_.clear();
  AddFactors("square", 5, 5);
  EXPECT_FALSE((*Fit())[0].low_rank->transposed);
  EXPECT_TRUE((*Fit(R"("fan_in_fan_out":true)"))[0].low_rank->transposed);
}

TEST_F(AdapterTest, TransposesEmbeddings) {
  tensors_ = {Part("embed_tokens.lora_embedding_A", {2, 10}),
              Part("embed_tokens.lora_embedding_B", {4, 2})};
  const auto changes = Fit();
  ASSERT_TRUE(changes.ok()) << changes.status();
  EXPECT_TRUE((*changes)[0].low_rank->transposed);
  tensors_[0].shape = {2, 11};
  ExpectError(Fit().status(), Reason::kShapeMismatch, {"embed_tokens", "[11, 4]", "[10, 4]"});
}

TEST_F(AdapterTest, TakesWholeTensorsOfModulesToSave) {
  AddFactors("q", 6, 4);
  tensors_.push_back(Part("in_norm.weight", {4}));
  ExpectError(Fit().status(), Reason::kUnsupported, {"in_norm.weight", "no part of a LoRA"});
  const auto changes = Fit(R"("modules_to_save":["norm"])");  // as PEFT: the end of a name
  ASSERT_TRUE(changes.ok()) << changes.status();
  ASSERT_THAT(*changes, SizeIs(2));
  EXPECT_EQ((*changes)[0].tensor, "in_norm.weight");
  EXPECT_TRUE((*changes)[0].full.has_value());
  tensors_.back().shape = {5};
  ExpectError(Fit(R"("modules_to_save":["norm"])").status(), Reason::kShapeMismatch,
              {"in_norm.weight", "[5]", "[4]"});
}

TEST_F(AdapterTest, TakesEmbeddingsOfWhichTheConfigIsSilent) {
  tensors_ = {Part("embed_tokens.base_layer.weight", {10, 4}),
              Part("embed_tokens.lora_embedding_A", {2, 10}),
              Part("embed_tokens.lora_embedding_B", {4, 2}), Part("lm_head.weight", {10, 4})};
  const auto changes = Fit();
  ASSERT_TRUE(changes.ok()) << changes.status();
  ASSERT_THAT(*changes, SizeIs(2));
  EXPECT_TRUE((*changes)[0].full.has_value() && (*changes)[0].low_rank.has_value());
  EXPECT_EQ((*changes)[1].tensor, "lm_head.weight");
}

TEST_F(AdapterTest, TakesBiases) {
  AddFactors("q", 6, 4);
  tensors_.push_back(Part("q.base_layer.bias", {6}));
  for (const char* bias : {"all", "lora_only"}) {
    const auto changes = Fit(absl::StrCat(R"("bias":")", bias, "\""));
    ASSERT_TRUE(changes.ok()) << changes.status();
    ASSERT_THAT(*changes, SizeIs(2));
    EXPECT_EQ((*changes)[0].tensor, "q.bias");
    EXPECT_TRUE((*changes)[0].full.has_value());
  }
  ExpectError(Fit().status(), Reason::kUnsupported, {"q.base_layer.bias"});
  tensors_.push_back(Part("square.bias", {5}));
  ExpectError(Fit(R"("bias":"lora_only")").status(), Reason::kUnsupported, {"square.bias"});
}

TEST_F(AdapterTest, TakesTheSecondFactorsBias) {
  AddFactors("q", 6, 4);
  ExpectError(Fit(R"("lora_bias":true)").status(), Reason::kInputCorrupt, {"q.lora_B", "no bias"});
  tensors_.push_back(Part("q.lora_B.bias", {6}));
  ExpectError(Fit().status(), Reason::kUnsupported, {"q.lora_B.bias"});
  const auto changes = Fit(R"("lora_bias":true)");
  ASSERT_TRUE(changes.ok()) << changes.status();
  ASSERT_THAT(*changes, SizeIs(2));
  EXPECT_EQ((*changes)[0].tensor, "q.bias");
  EXPECT_EQ((*changes)[0].added_scale, 2);
  base_.erase(base_.begin() + 1);
  ExpectError(Fit(R"("lora_bias":true)").status(), Reason::kTensorMissing, {"'q.bias'"});
  tensors_.back().shape = {5};
  ExpectError(Fit(R"("lora_bias":true)").status(), Reason::kInputCorrupt, {"q.lora_B.bias"});
}

TEST_F(AdapterTest, TakesTrainedTokens) {
  tensors_ = {Part("embed_tokens.token_adapter.trainable_tokens_delta", {3, 4})};
  const auto changes = Fit(R"("trainable_token_indices":[9,0,4])");
  ASSERT_TRUE(changes.ok()) << changes.status();
  EXPECT_THAT((*changes)[0].row_indices, ElementsAre(9, 0, 4));
  EXPECT_TRUE(Fit(R"("trainable_token_indices":{"embed_tokens":[9,0,4],"x":[1]})").ok());
  const auto expect = [&](const char* indices, Reason reason, const char* text) {
    ExpectError(Fit(absl::StrCat(R"("trainable_token_indices":)", indices)).status(), reason,
                {text});
  };
  expect("null", Reason::kInputCorrupt, "no entry");
  expect("[1,2]", Reason::kInputCorrupt, "[3, 4]");
  expect("[1,2,1]", Reason::kInputCorrupt, "twice");
  expect("[1,2,10]", Reason::kShapeMismatch, "token 10");
  expect(R"({"tokens":[1,2,3],"embed_tokens":[1,2,3]})", Reason::kInputCorrupt, "more than one");
  tensors_[0].shape = {3, 5};
  expect("[1,2,3]", Reason::kShapeMismatch, "[10, 4]");
}

TEST_F(AdapterTest, RefusesWhatDoesNotFitTogether) {
  const auto expect = [&](Reason reason, const std::vector<std::string>& texts) {
    ExpectError(Fit().status(), reason, texts);
    tensors_.clear();
  };
  expect(Reason::kInputCorrupt, {"no change"});
  tensors_ = {Part("q.lora_A.weight", {2, 4})};
  expect(Reason::kInputCorrupt, {"q.lora_A.weight", "lora_B"});
  tensors_ = {Part("q.lora_B.weight", {6, 2})};
  expect(Reason::kInputCorrupt, {"q.lora_B.weight", "lora_A"});
  tensors_ = {Part("q.lora_A.weight", {2, 4}), Part("q.lora_B.weight", {6, 3})};
  expect(Reason::kInputCorrupt, {"q.lora_B.weight", "rank 3", "rank 2"});
  AddFactors("q", 6, 4, 3);
  expect(Reason::kInputCorrupt, {"q.lora_A.weight", "rank 3", "says 2"});
  tensors_ = {Part("q.lora_A.weight", {2}), Part("q.lora_B.weight", {6, 2})};
  expect(Reason::kInputCorrupt, {"q.lora_A.weight", "no matrix"});
  AddFactors("q", 7, 4);
  expect(Reason::kShapeMismatch, {"q.lora_B.weight", "[7, 4]", "[6, 4]"});
  AddFactors("no.such", 6, 4);
  expect(Reason::kTensorMissing, {"no.such.lora_A.weight", "'no.such.weight'", "another model"});
  AddFactors("ids", 6, 4);
  expect(Reason::kUnsupportedDtype, {"'ids.weight'", "I64"});
  AddFactors("q", 6, 4);
  tensors_[0].dtype = DType::kI8;
  expect(Reason::kUnsupportedDtype, {"q.lora_A.weight", "I8"});
  AddFactors("q", 6, 4);
  tensors_.push_back(Part("q.lora_magnitude_vector", {6}));
  expect(Reason::kUnsupported, {"q.lora_magnitude_vector", "DoRA"});
  AddFactors("q", 6, 4);
  tensors_.push_back(Part("q.vera_lambda_d", {6}));
  expect(Reason::kUnsupported, {"q.vera_lambda_d"});
  tensors_ = {Tensor("q.lora_A.weight", {2, 4}), Tensor("q.lora_B.weight", {6, 2})};
  expect(Reason::kUnsupported, {"'q.lora_A.weight'"});
  AddFactors("embed_tokens", 10, 4);
  tensors_.push_back(Part("embed_tokens.lora_embedding_A", {2, 10}));
  tensors_.push_back(Part("embed_tokens.lora_embedding_B", {4, 2}));
  expect(Reason::kInputCorrupt, {"embed_tokens.lora_embedding_A", "linear"});
}

TEST_F(AdapterTest, WarnsOfWhatItLeavesOut) {
  AddFactors("q", 6, 4);
  tensors_.push_back(Part("score.weight", {2, 4}));
  const auto changes = Fit(R"("modules_to_save":["score"],"use_new":true)");
  ASSERT_TRUE(changes.ok()) << changes.status();
  EXPECT_THAT(*changes, SizeIs(1));
  ASSERT_THAT(diagnostics_.items(), SizeIs(2));
  EXPECT_THAT(diagnostics_.items()[0].message, testing::HasSubstr("'score.weight'"));
  EXPECT_THAT(diagnostics_.items()[1].message, testing::HasSubstr("use_new"));
}

TEST_F(CheckpointTest, AnAdapterIsOpenedWithItsConfig) {
  Add("/lora/adapter_config.json", "{}");
  ExpectError(Open("/lora").status(), Reason::kInputNotFound, {"/lora", "adapter_model"});
  Add("/lora/adapter_model.bin", TorchFileWith({{"b", 1}}));
  ExpectError(Open("/lora").status(), Reason::kUnsupported, {"adapter_model.bin", "inputs.pickle"});
  allow_pickle_ = true;
  EXPECT_EQ(Open("/lora")->tensors()[0].name, "b");
  EXPECT_EQ(Open("/lora/adapter_model.bin")->adapter_config(), "{}");
  Add("/lora/adapter_model.safetensors", FileWith({{"a", 1}}));
  for (const char* uri : {"/lora", "/lora/adapter_model.safetensors"}) {
    const auto adapter = Open(uri);
    ASSERT_TRUE(adapter.ok()) << adapter.status();
    EXPECT_EQ(adapter->adapter_config(), "{}");
    EXPECT_EQ(adapter->config(), std::nullopt);
    EXPECT_THAT(adapter->tensors(), SizeIs(1));
  }
  Add("/model/model.safetensors", FileWith({{"a", 1}}));
  EXPECT_EQ(Open("/model")->adapter_config(), std::nullopt);
  Add("/lora/adapter_config.json", std::string(2 << 20, ' '));
  ExpectError(Open("/lora").status(), Reason::kInputCorrupt, {"adapter_config.json"});
}

}  // namespace
}  // namespace orthomerge
