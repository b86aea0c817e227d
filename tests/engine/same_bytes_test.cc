// The same plan gives the same bytes, whatever the threads, chunks and memory.
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "core/math/kernels.h"
#include "tests/engine/checkpoints.h"

namespace orthomerge {
namespace {

struct Case {
  std::string name;
  std::string method;
  ParameterMap parameters;
  bool awd_first = false;
};

class SameBytesTest : public EngineTest, public testing::WithParamInterface<Case> {
 protected:
  SameBytesTest() {
    std::mt19937_64 random(3);
    TestModel base = {RandomTensor("long", DType::kF32, {kLeafElements + 500009}, random),
                      RandomTensor("matrix", DType::kBF16, {1849, 2003}, random),
                      RandomTensor("narrow", DType::kF32, {30011, 7}, random),
                      RandomTensor("wide", DType::kF16, {3, 100003}, random),
                      RandomTensor("double", DType::kF64, {30011}, random),
                      RandomTensor("mixed", DType::kBF16, {97, 89}, random),
                      RandomTensor("mixed64", DType::kF32, {13, 17}, random),
                      RandomTensor("scalar", DType::kF32, {}, random),
                      RandomTensor("one", DType::kF16, {1, 1}, random),
                      RandomTensor("empty", DType::kF32, {0, 5}, random),
                      RandomTensor("ids", DType::kI64, {4099}, random),
                      RandomTensor("flags", DType::kBool, {7}, random),
                      RandomTensor("zz.tail", DType::kF32, {40009, 3}, random)};
    std::vector<TestModel> models;
    for (int k = 0; k < 3; ++k) {
      TestModel model = Near(base, random);
      for (TestTensor& tensor : model) {
        if (tensor.name == "mixed" && k < 2) {
          tensor = Cast(tensor, k == 0 ? DType::kF32 : DType::kF16);
        }
        if (tensor.name == "mixed64" && k == 1) tensor = Cast(tensor, DType::kF64);
      }
      models.push_back(std::move(model));
    }
    WriteModels(base, models);
  }
};

TEST_P(SameBytesTest, WhateverTheResources) {
  Recipe recipe = MakeRecipe(GetParam().method, 3, GetParam().parameters);
  if (GetParam().awd_first) AddTransform("awd", {{"alpha", 0.001}}, &recipe);
  const std::unique_ptr<Plan> plan = PlanOf(recipe);
  ASSERT_NE(plan, nullptr);
  ASSERT_GT(plan->files[0].parts.size(), 1u);
  const uint64_t smallest = plan->memory.smallest;
  struct Resources {
    int threads;
    uint64_t budget, chunk;
  };
  std::map<std::string, std::string> want;
  std::string digest;
  for (const Resources& resources :
       {Resources{1, kGiB, 0}, Resources{2, kGiB, 64 * kKiB}, Resources{4, kGiB, 1000003},
        Resources{3, kGiB, 16 * kMiB}, Resources{1, smallest, 0},
        Resources{4, smallest + smallest / 2, kMiB}}) {
    EngineOptions options;
    options.threads = resources.threads;
    options.memory_budget = resources.budget;
    options.chunk_size = resources.chunk;
    const RunResult result = Run(recipe, options);
    EXPECT_FALSE(result.already_complete);
    const std::map<std::string, std::string> files = ModelFiles(Path("out"));
    if (want.empty()) {
      want = files;
      digest = result.files.at(0).digest;
    }
    EXPECT_TRUE(files == want) << resources.threads << " threads, budget " << resources.budget
                               << ", chunk " << resources.chunk;
    EXPECT_EQ(result.files.at(0).digest, digest);
    EXPECT_EQ(result.plan_digest, plan->digest);
    std::filesystem::remove_all(Path("out"));
  }
}

INSTANTIATE_TEST_SUITE_P(
    Methods, SameBytesTest,
    testing::Values(
        Case{"average", "average", {}}, Case{"task_arithmetic", "task_arithmetic", {}},
        Case{"awd_model", "awd", {{"alpha", 0.001}}},
        Case{"awd_tensor", "awd", {{"granularity", "tensor"}, {"alpha", 0.001}}},
        Case{"awd_row", "awd", {{"granularity", "row"}, {"iters", int64_t{20}}, {"alpha", 0.001}}},
        Case{"ties", "ties", {}}, Case{"awd_ties", "ties", {{"merge", "sum"}}, true}),
    [](const testing::TestParamInfo<Case>& info) { return info.param.name; });

}  // namespace
}  // namespace orthomerge
