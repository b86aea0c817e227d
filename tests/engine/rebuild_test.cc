// One model at a time from a merged model and its masks: what `task` writes directly.
#include <filesystem>

#include "tests/engine/checkpoints.h"

namespace orthomerge {
namespace {

namespace fs = std::filesystem;

class RebuildTest : public EngineTest {
 protected:
  RebuildTest() {
    std::mt19937_64 random(21);
    base_ = {RandomTensor("bias", DType::kF32, {1013}, random),
             RandomTensor("ids", DType::kI64, {9}, random),
             RandomTensor("none", DType::kF32, {0, 3}, random),
             RandomTensor("scalar", DType::kF32, {}, random),
             RandomTensor("weight.bf16", DType::kBF16, {1500, 1999}, random),
             RandomTensor("weight.f64", DType::kF64, {31, 17}, random),
             RandomTensor("weight.f32", DType::kF32, {701, 1999}, random)};
    WriteModels(base_, {Near(base_, random), Near(base_, random), Near(base_, random)});
  }

  Rebuild RebuildOf(int task) const {
    return {.base = UriOf("base"),
            .merged = UriOf("merged"),
            .mask = UriOf("merged").Child("masks/m" + std::to_string(task) + ".safetensors"),
            .output = UriOf("rebuilt")};
  }

  void MergeAll(Recipe recipe) {
    fs::remove_all(Path("merged"));
    recipe.output.uri = UriOf("merged");
    (void)Run(recipe);
  }

  TestModel RebuildTask(int task, const EngineOptions& options = {}) {
    Diagnostics diagnostics;
    const auto plan =
        MakeRebuildPlan(storage_, RebuildOf(task), options, CallOptions(), &diagnostics);
    EXPECT_THAT(plan, IsOk());
    if (!plan.ok()) return {};
    EXPECT_THAT(RunPlan(storage_, **plan, CallOptions(), {}), IsOk());
    TestModel model = ReadModel(Path("rebuilt"));
    fs::remove_all(Path("rebuilt"));
    return model;
  }

  absl::Status RefusalOf(const Rebuild& rebuild) {
    Diagnostics diagnostics;
    return MakeRebuildPlan(storage_, rebuild, {}, CallOptions(), &diagnostics).status();
  }

  TestModel base_;
};

TEST_F(RebuildTest, OfTallMasksAreTheBytesOfTheTask) {
  for (const char* mtl : {"ta", "ties"}) {
    Recipe recipe = MakeRecipe("tall_masks", 3, {{"mtl", mtl}});
    AddTransform("awd", {{"iters", int64_t{5}}}, &recipe);
    MergeAll(recipe);
    EngineOptions narrow;
    narrow.chunk_size = 64 * kKiB;
    narrow.threads = 3;
    for (int task = 0; task < 3; ++task) {
      recipe.parameters["task"] = int64_t{task};
      const TestModel want = Merge(recipe), got = RebuildTask(task),
                      pieces = RebuildTask(task, narrow);
      recipe.parameters.erase("task");
      for (const TestTensor& tensor : want) {
        EXPECT_TRUE(Find(got, tensor.name).bytes == tensor.bytes) << tensor.name;
        EXPECT_TRUE(Find(pieces, tensor.name).bytes == tensor.bytes) << tensor.name;
      }
    }
  }
}

TEST_F(RebuildTest, OfEmrAreTheTaskButForARounding) {
  Recipe recipe = MakeRecipe("emr", 3);
  MergeAll(recipe);
  recipe.parameters["task"] = int64_t{1};
  const TestModel want = Merge(recipe), got = RebuildTask(1);
  for (const TestTensor& tensor : want) {
    const TestTensor& other = Find(got, tensor.name);
    if (tensor.name == "ids") {
      EXPECT_EQ(other.bytes, tensor.bytes);
      continue;
    }
    const std::vector<double> a = tensor.values(), b = other.values();
    // Of what the merged model holds: bfloat16 has 8 bits.
    const double tolerance = tensor.dtype == DType::kBF16 ? 0.05 : 1e-5;
    for (size_t i = 0; i < a.size(); ++i) ASSERT_NEAR(a[i], b[i], tolerance) << tensor.name;
  }
}

TEST_F(RebuildTest, ExcludedTensorsAreTheBase) {
  MergeAll(MakeRecipe("tall_masks", 3, {{"exclude", std::vector<std::string>{"bias", "f32"}}}));
  const TestModel got = RebuildTask(2);
  for (const char* name : {"bias", "weight.f32", "ids"}) {
    EXPECT_EQ(Find(got, name).bytes, Find(base_, name).bytes) << name;
  }
  EXPECT_NE(Find(got, "weight.f64").bytes, Find(base_, "weight.f64").bytes);
}

TEST_F(RebuildTest, MasksThatDoNotBelongAreRefused) {
  MergeAll(MakeRecipe("tall_masks", 3));
  Rebuild rebuild = RebuildOf(0);
  rebuild.mask = UriOf("merged").Child("masks/m7.safetensors");
  EXPECT_THAT(RefusalOf(rebuild), Fails(Reason::kInputNotFound, "m7.safetensors"));
  rebuild.mask = UriOf("m0");
  EXPECT_THAT(RefusalOf(rebuild), Fails(Reason::kShapeMismatch, "is no mask of this model's"));
  // Of a model with other tensors.
  rebuild = RebuildOf(0);
  TestModel other = base_;
  for (TestTensor& tensor : other) tensor.name += ".other";
  WriteModels(other, {other});
  rebuild.merged = UriOf("m0");
  EXPECT_THAT(RefusalOf(rebuild), Fails(Reason::kTensorMismatch, "belongs to another model"));
}

}  // namespace
}  // namespace orthomerge
