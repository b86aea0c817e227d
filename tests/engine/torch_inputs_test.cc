// Merging from torch files: tensors in views among contiguous ones, in any order of reading.
#include <fstream>

#include "absl/strings/str_cat.h"
#include "tests/checkpoint/torch_fixtures.h"
#include "tests/engine/checkpoints.h"
#include "tests/storage/backends.h"

namespace orthomerge {
namespace {

constexpr int64_t kRows = 310, kColumns = 470;

class TorchInputsTest : public EngineTest {
 protected:
  TorchInputsTest() {
    std::mt19937_64 random(8);
    base_ = {RandomTensor("bias", DType::kF32, {kColumns}, random),
             RandomTensor("crop", DType::kF32, {kRows, 33}, random),
             RandomTensor("expanded", DType::kF32, {kRows, kColumns}, random),
             RandomTensor("steps", DType::kI64, {7, 9}, random),
             RandomTensor("turned", DType::kF32, {kRows, kColumns}, random)};
    // Rows that are all alike, as an expanded tensor has them.
    std::string& expanded = base_[2].bytes;
    const std::string row = expanded.substr(0, kColumns * 4);
    for (int64_t i = 1; i < kRows; ++i) expanded.replace(i * row.size(), row.size(), row);
    WriteModels(base_, {Near(base_, random), Near(base_, random)});
    for (const char* name : {"m0", "m1"}) {
      TestModel model = ReadModel(Path(name));
      model[2] = base_[2];
      WriteModel(Path(name), model);
      WriteFile(Path(absl::StrCat(name, "-torch/pytorch_model.bin")), TorchBytes(model));
    }
    WriteFile(Path("base-torch/pytorch_model.bin"), TorchBytes(base_));
  }

  // The same tensors, stored in other ways.
  static std::string TorchBytes(const TestModel& model) {
    using namespace pickled;  // NOLINT: the pieces of the pickle below
    const auto at = [](const TestTensor& tensor, int64_t i, int64_t width) {
      return tensor.bytes.substr(static_cast<size_t>(i * width), static_cast<size_t>(width));
    };
    std::string crop(kRows * 50 * 4, 'c'), turned, steps;
    for (int64_t r = 0; r < kRows; ++r) {
      crop.replace(static_cast<size_t>((r * 50 + 10) * 4), 33 * 4, at(model[1], r, 33 * 4));
    }
    for (int64_t c = 0; c < kColumns; ++c) {
      for (int64_t r = 0; r < kRows; ++r) turned += at(model[4], r * kColumns + c, 4);
    }
    for (int64_t c = 0; c < 9; ++c) {
      for (int64_t r = 0; r < 7; ++r) steps += at(model[3], r * 9 + c, 8);
    }
    return TorchFile(
        Whole(Dict(
            {{"bias", Tensor(FloatStorage("0", kColumns), 0, {kColumns}, {1})},
             {"crop", Tensor(FloatStorage("1", kRows * 50), 10, {kRows, 33}, {50, 1})},
             {"expanded", Tensor(FloatStorage("2", kColumns), 0, {kRows, kColumns}, {0, 1})},
             {"steps", Tensor(StorageOf(Name("torch", "LongStorage"), "3", 63), 0, {7, 9}, {1, 7})},
             {"turned",
              Tensor(FloatStorage("4", kRows * kColumns), 0, {kRows, kColumns}, {1, kRows})}})),
        {{"0", model[0].bytes},
         {"1", crop},
         {"2", model[2].bytes.substr(0, kColumns * 4)},
         {"3", steps},
         {"4", turned}});
  }

  Recipe TorchRecipe(const std::string& method) {
    Recipe recipe = MakeRecipe(method, 2);
    recipe.base = UriOf("base-torch");
    for (RecipeModel& model : recipe.models) model.uri = UriOf(model.name + "-torch");
    return recipe;
  }

  TestModel base_;
};

TEST_F(TorchInputsTest, SameBytesAsFromSafetensors) {
  for (const char* method : {"average", "awd", "ties"}) {
    Run(MakeRecipe(method, 2));
    const auto wanted = ModelFiles(Path("out"));
    std::filesystem::remove_all(Path("out"));
    for (const int threads : {1, 3}) {
      for (const uint64_t chunk : {uint64_t{0}, 64 * kKiB}) {
        EngineOptions options;
        options.allow_pickle = true;
        options.threads = threads;
        options.chunk_size = chunk;
        Run(TorchRecipe(method), options);
        EXPECT_EQ(ModelFiles(Path("out")), wanted);
        std::filesystem::remove_all(Path("out"));
      }
    }
  }
}

TEST_F(TorchInputsTest, FromS3) {
  const std::unique_ptr<Backend> backend = MakeBackend("s3");
  ASSERT_NE(backend, nullptr);
  Recipe recipe = TorchRecipe("average");
  const auto move = [&](const std::string& name, Uri* uri) {
    std::stringstream bytes;
    bytes << std::ifstream(Path(name + "-torch/pytorch_model.bin"), std::ios::binary).rdbuf();
    *uri = backend->root().Child(name);
    ASSERT_THAT(backend->store().Put(uri->Child("pytorch_model.bin"), bytes.str(), {},
                                     Condition::kNone, {}),
                IsOk());
  };
  move("base", &*recipe.base);
  for (RecipeModel& model : recipe.models) move(model.name, &model.uri);
  Run(MakeRecipe("average", 2));
  const auto wanted = ModelFiles(Path("out"));
  std::filesystem::remove_all(Path("out"));
  Storage storage(local_.get(), &backend->store());
  EngineOptions options;
  options.allow_pickle = true;
  ASSERT_THAT(TryRun(recipe, storage, {}, options), IsOk());
  EXPECT_EQ(ModelFiles(Path("out")), wanted);
}

// 8-bit codes and their scales, both stored by columns, with adapters on top.
TEST_F(TorchInputsTest, FormsOfViews) {
  using namespace pickled;  // NOLINT: the pieces of the pickle below
  const std::string config =
      R"({"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}})";
  std::mt19937_64 random(9);
  const TestModel base = {RandomTensor("turned.weight", DType::kF8E4M3, {kRows, kColumns}, random),
                          RandomTensor("turned.weight_scale_inv", DType::kF32, {3, 4}, random)};
  WriteModel(Path("base"), base, config);
  const std::string type = Name("torch", "float8_e4m3fn");
  const std::string untyped =
      StorageOf(Name("torch.storage", "UntypedStorage"), "0", kRows * kColumns);
  const std::string codes = Call(
      Name("torch._utils", "_rebuild_tensor_v3"),
      {untyped, Int(0), Ints({kRows, kColumns}), Ints({1, kRows}), "\x89", OrderedDict(), type});
  const auto by_columns = [](const TestTensor& tensor, size_t width) {
    const auto rows = static_cast<size_t>(tensor.shape[0]);
    const auto columns = static_cast<size_t>(tensor.shape[1]);
    std::string bytes;
    for (size_t c = 0; c < columns; ++c) {
      for (size_t r = 0; r < rows; ++r) {
        bytes += tensor.bytes.substr((r * columns + c) * width, width);
      }
    }
    return bytes;
  };
  WriteFile(Path("base-torch/pytorch_model.bin"),
            TorchFile(Whole(Dict({{"turned.weight", codes},
                                  {"turned.weight_scale_inv",
                                   Tensor(FloatStorage("1", 12), 0, {3, 4}, {1, 3})}})),
                      {{"0", by_columns(base[0], 1)}, {"1", by_columns(base[1], 4)}}));
  WriteFile(Path("base-torch/config.json"), config);
  for (const std::string name : {"m0", "m1"}) {
    const std::string prefix = "base_model.model.turned.lora_";
    WriteModel(Path(name + "-lora"),
               {RandomTensor(prefix + "A.weight", DType::kF32, {2, kColumns}, random),
                RandomTensor(prefix + "B.weight", DType::kF32, {kRows, 2}, random)});
    std::filesystem::rename(Path(name + "-lora/model.safetensors"),
                            Path(name + "-lora/adapter_model.safetensors"));
    WriteFile(Path(name + "-lora/adapter_config.json"), R"({"peft_type":"LORA","r":2})");
  }
  for (const char* method : {"average", "task_arithmetic", "awd", "ties"}) {
    SCOPED_TRACE(method);
    Recipe recipe = MakeRecipe(method, 2);
    for (RecipeModel& model : recipe.models) model.uri = UriOf(model.name + "-lora");
    Run(recipe);
    const auto wanted = ModelFiles(Path("out"));
    std::filesystem::remove_all(Path("out"));
    recipe.base = UriOf("base-torch");
    for (const int threads : {1, 3}) {
      EngineOptions options;
      options.allow_pickle = true;
      options.threads = threads;
      options.chunk_size = 64 * kKiB;
      Run(recipe, options);
      EXPECT_EQ(ModelFiles(Path("out")), wanted);
      std::filesystem::remove_all(Path("out"));
    }
  }
}

TEST_F(TorchInputsTest, TheViewsAreInTheDigest) {
  EngineOptions options;
  options.allow_pickle = true;
  const std::string first = PlanOf(TorchRecipe("average"), options)->digest;
  EXPECT_EQ(PlanOf(TorchRecipe("average"), options)->digest, first);
  EXPECT_THAT(TryPlan(TorchRecipe("average")), Fails(Reason::kUnsupported, "inputs.pickle"));
  EXPECT_EQ(diagnostics_.items().size(), 3u);  // each input is named
}

}  // namespace
}  // namespace orthomerge
