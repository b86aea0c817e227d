// What holds for every method of the registry, over random shapes and numbers of models, by
// recipes as users write them. A new method needs a row in Traits().
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <random>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"
#include "core/recipe/recipe.h"
#include "tests/engine/checkpoints.h"

namespace orthomerge {
namespace {

constexpr absl::string_view kMergekit = "mergekit.";

struct Trait {
  std::string parameters = {};  // the method-wide ones that it cannot do without
  bool symmetric = true;        // whatever the order of the models
  bool dense = false;           // needs the LibTorch module
  // With these, K equal models give that model. "1/K" stands for that number.
  std::optional<std::string> identity = {};
};

const std::map<std::string, Trait>& Traits() {
  static const auto& traits = *new std::map<std::string, Trait>{
      {"average", {.identity = ""}},
      {"awd", {.identity = "iters: 0, lambda: 1/K"}},
      {"breadcrumbs", {.identity = "density: 1, gamma: 0, lambda: 1/K"}},
      {"consensus", {.identity = "mask_lambda: 0.1, lambda: 1/K"}},
      // The draws belong to a model's number.
      {"dare", {.symmetric = false, .identity = "density: 1, lambda: 1/K"}},
      {"doge", {.dense = true}},
      {"emr", {.identity = "task: 0"}},
      {"iso_c", {.dense = true}},
      {"iso_cts", {.dense = true}},
      {"knots", {.dense = true, .identity = "density: 1, lambda: 1"}},
      {"model_stock", {.identity = ""}},
      {"pcb", {}},  // the entry of the lowest score is dropped always
      {"tall_masks", {}},
      {"task_arithmetic", {.identity = "lambda: 1/K"}},
      {"tatr", {}},  // the most sensitive entry is dropped always
      {"ties", {.identity = "density: 1, lambda: 1"}},
      {"tsv_m", {.dense = true}},
      {"wudi", {.dense = true}},
      {"mergekit.arcee_fusion", {}},
      {"mergekit.breadcrumbs", {.identity = "density: 1, gamma: 0, normalize: true"}},
      {"mergekit.breadcrumbs_ties", {.identity = "density: 1, gamma: 0, normalize: true"}},
      {"mergekit.dare_linear", {.symmetric = false, .identity = "density: 1, normalize: true"}},
      {"mergekit.dare_ties", {.symmetric = false, .identity = "density: 1, normalize: true"}},
      {"mergekit.della", {.symmetric = false, .identity = "density: 1"}},
      {"mergekit.della_linear", {.symmetric = false, .identity = "density: 1, normalize: true"}},
      {"mergekit.karcher", {.identity = ""}},
      {"mergekit.linear", {.identity = ""}},
      {"mergekit.model_stock", {.identity = ""}},
      {"mergekit.multislerp", {.identity = ""}},
      {"mergekit.nearswap", {.parameters = "t: 0.01"}},
      {"mergekit.nuslerp", {.identity = ""}},
      {"mergekit.passthrough", {.identity = ""}},
      {"mergekit.ram", {.identity = "epsilon: 0"}},
      {"mergekit.ramplus_tl", {.identity = "epsilon: 0"}},
      {"mergekit.sce", {.identity = ""}},
      {"mergekit.slerp", {.parameters = "t: 0.3"}},
      {"mergekit.task_arithmetic", {.identity = "normalize: true"}},
      {"mergekit.ties", {.identity = "density: 1"}},
  };
  return traits;
}

std::vector<std::string> RegisteredNames() {
  std::vector<std::string> names;
  for (const MethodSchema& schema : MethodSchemas()) names.push_back(schema.name);
  return names;
}

// Those that this build can run.
std::vector<std::string> TestedNames() {
  std::vector<std::string> names = RegisteredNames();
#ifdef ORTHOMERGE_WITHOUT_TORCH
  std::erase_if(names, [](const std::string& name) { return Traits().at(name).dense; });
#endif
  return names;
}

TEST(Properties, EveryMethodHasTraits) {
  std::vector<std::string> names;
  for (const auto& [name, trait] : Traits()) names.push_back(name);
  EXPECT_THAT(names, testing::UnorderedElementsAreArray(RegisteredNames()));
}

class PropertiesTest : public EngineTest, public testing::WithParamInterface<std::string> {
 protected:
  const MethodSchema& schema_ = *FindMethod(GetParam());
  const Trait& trait_ = Traits().at(GetParam());
  const bool mergekit_ = absl::StartsWith(GetParam(), kMergekit);
  const bool weighted_ = !mergekit_ || schema_.Find("weight") != nullptr;

  // Random shapes of every kind, with names of layers; K models near the base, to disk.
  void Draw(uint64_t seed) {
    std::mt19937_64 random(seed);
    const auto below = [&random](int64_t n) { return static_cast<int64_t>(random() % n); };
    const DType dtypes[] = {DType::kF32, DType::kF16, DType::kBF16, DType::kF64};
    base_ = {RandomTensor("encoder.layers.0.weight", DType::kF32, {2 + below(40), 2 + below(40)},
                          random),
             RandomTensor("encoder.layers.1.weight", dtypes[below(3)],
                          {2 + below(9), 20 + below(90)}, random),
             RandomTensor("encoder.layers.1.bias", dtypes[below(4)], {1 + below(3000)}, random),
             RandomTensor("conv.weight", DType::kF32, {1 + below(5), 3, 1 + below(4), 2}, random),
             RandomTensor("scale", DType::kF32, {}, random),
             RandomTensor("one.weight", DType::kBF16, {1, 1}, random),
             RandomTensor("none.weight", DType::kF32, {0, 4}, random),
             RandomTensor("positions", DType::kI64, {5}, random)};
    const int most = std::min(5, schema_.max_models);
    const int least = std::max(std::min(2, most), schema_.min_models);
    k_ = least + static_cast<int>(below(most - least + 1));
    models_.clear();
    weights_.clear();
    for (int k = 0; k < k_; ++k) {
      models_.push_back(Near(base_, random));
      weights_.push_back(0.25 * static_cast<double>(1 + below(6)));
    }
  }

  // A recipe of the method for models m0, m1, ... in `order`, as a user writes it.
  std::string Text(const std::vector<int>& order, const std::string& more,
                   const std::string& output = "") const {
    std::vector<std::string> parameters;
    for (const std::string& part : {trait_.parameters, more}) {
      if (!part.empty()) parameters.push_back(part);
    }
    std::string text =
        mergekit_ ? absl::StrCat("merge_method: ", absl::StripPrefix(GetParam(), kMergekit), "\n")
                  : absl::StrCat("method: ", GetParam(), "\n");
    if (schema_.needs_base) {
      absl::StrAppend(&text, mergekit_ ? "base_model: " : "base: ", Path("base"), "\n");
    }
    if (!order.empty()) absl::StrAppend(&text, "models:\n");
    for (const int k : order) {
      const std::string path = Path(absl::StrCat("m", k));
      if (!mergekit_) {
        absl::StrAppend(&text, "- {uri: ", path, ", weight: ", weights_[k], "}\n");
      } else if (weighted_) {
        absl::StrAppend(&text, "- {model: ", path, ", parameters: {weight: ", weights_[k], "}}\n");
      } else {
        absl::StrAppend(&text, "- {model: ", path, "}\n");
      }
    }
    absl::StrAppend(&text, "parameters: {",
                    absl::StrReplaceAll(absl::StrJoin(parameters, ", "),
                                        {{"1/K", absl::StrCat(1.0 / static_cast<double>(k_))}}),
                    "}\n", output);
    return text;
  }
  std::string Text(const std::string& more = "", const std::string& output = "") const {
    std::vector<int> order(k_);
    for (int k = 0; k < k_; ++k) order[k] = k;
    return Text(order, more, output);
  }

  Recipe Parse(const std::string& text) {
    Diagnostics diagnostics;
    absl::StatusOr<Recipe> recipe =
        ParseRecipe({"recipe.yaml", text, folder_.path(), folder_.path()},
                    {UriOf("out").ToString(), {}}, &diagnostics);
    EXPECT_THAT(recipe, IsOk()) << text;
    return recipe.ok() ? *std::move(recipe) : Recipe();
  }
  TestModel MergeText(const std::string& text) { return Merge(Parse(text)); }

  // Equal up to the order of sums, or to what the method's own tolerance is.
  void ExpectSame(const TestModel& got, const TestModel& want, const std::string& text) const {
    ASSERT_EQ(got.size(), want.size());
    const bool exact = absl::StartsWith(schema_.exactness, "exact");
    for (const TestTensor& tensor : got) {
      const TestTensor& other = Find(want, tensor.name);
      ASSERT_EQ(tensor.dtype, other.dtype) << tensor.name;
      if (!IsMergeable(tensor.dtype)) {
        EXPECT_EQ(tensor.bytes, other.bytes);
        continue;
      }
      // One step of the output's dtype, and what float32 loses in a few operations.
      const double step = tensor.dtype == DType::kBF16  ? 0x1p-7
                          : tensor.dtype == DType::kF16 ? 0x1p-10
                                                        : 0x1p-21;
      const std::vector<double> a = tensor.values(), b = other.values();
      for (size_t i = 0; i < b.size(); ++i) {
        const double tolerance = step * std::abs(b[i]) + (exact ? 2e-6 : 1e-4);
        ASSERT_NEAR(a[i], b[i], tolerance) << tensor.name << "[" << i << "] of\n" << text;
      }
    }
  }

  static void ExpectSameBytes(const TestModel& got, const TestModel& want) {
    ASSERT_EQ(got.size(), want.size());
    for (const TestTensor& tensor : got) {
      const TestTensor& other = Find(want, tensor.name);
      EXPECT_EQ(tensor.dtype, other.dtype) << tensor.name;
      EXPECT_EQ(tensor.bytes, other.bytes) << tensor.name;
    }
  }

  TestModel base_;
  std::vector<TestModel> models_;
  std::vector<double> weights_;
  int k_ = 0;
};

constexpr uint64_t kSeeds[] = {1, 2, 3};

TEST_P(PropertiesTest, TheOrderOfTheModelsDoesNotMatter) {
  if (!trait_.symmetric || schema_.max_models == 1) return;
  for (const uint64_t seed : kSeeds) {
    Draw(seed);
    WriteModels(base_, models_);
    std::vector<int> order(k_);
    for (int k = 0; k < k_; ++k) order[k] = k_ - 1 - k;
    const std::string text = Text(order, "");
    ExpectSame(MergeText(text), MergeText(Text()), text);
  }
}

TEST_P(PropertiesTest, WeightZeroRemovesAModel) {
  if (!weighted_ || schema_.max_models == 1) return;
  for (const uint64_t seed : kSeeds) {
    Draw(seed);
    if (k_ <= std::max(schema_.min_models, 1)) continue;
    WriteModels(base_, models_);
    weights_[k_ - 1] = 0;
    const std::string with = Text();
    const TestModel got = MergeText(with);
    k_ -= 1;
    ExpectSame(got, MergeText(Text()), with);
  }
}

TEST_P(PropertiesTest, EqualModelsGiveThatModel) {
  if (!trait_.identity.has_value()) return;
  for (const uint64_t seed : kSeeds) {
    Draw(seed);
    for (TestModel& model : models_) model = models_[0];
    std::fill(weights_.begin(), weights_.end(), 1.0);
    WriteModels(base_, models_);
    const std::string text = Text(*trait_.identity);
    ExpectSame(MergeText(text), models_[0], text);
  }
}

TEST_P(PropertiesTest, ModelsThatAreTheBaseGiveTheBase) {
  if (!schema_.needs_base) return;
  for (const uint64_t seed : kSeeds) {
    Draw(seed);
    for (TestModel& model : models_) model = base_;
    WriteModels(base_, models_);
    const std::string text = Text();
    ExpectSame(MergeText(text), base_, text);
  }
}

TEST_P(PropertiesTest, LambdaZeroGivesTheBase) {
  if (schema_.Find("lambda") == nullptr) return;
  for (const uint64_t seed : kSeeds) {
    Draw(seed);
    WriteModels(base_, models_);
    const std::string text = Text("lambda: 0");
    ExpectSame(MergeText(text), base_, text);
  }
}

TEST_P(PropertiesTest, TheOutputIsRoundedOnce) {
  for (const uint64_t seed : kSeeds) {
    Draw(seed);
    WriteModels(base_, models_);
    const auto output = [this](const std::string& dtype) {
      return mergekit_ ? absl::StrCat("out_dtype: ", dtype, "\n")
                       : absl::StrCat("output: {dtype: ", dtype, "}\n");
    };
    const TestModel wide = MergeText(Text("", output("float32")));
    const TestModel narrow = MergeText(Text("", output("bfloat16")));
    ASSERT_EQ(wide.size(), narrow.size());
    for (size_t t = 0; t < wide.size(); ++t) {
      if (wide[t].dtype != DType::kF32) continue;
      // A tensor of float64 is rounded to each from there.
      if (Find(base_, wide[t].name).dtype == DType::kF64) continue;
      EXPECT_EQ(narrow[t].dtype, DType::kBF16) << narrow[t].name;
      EXPECT_EQ(narrow[t].bytes, Cast(wide[t], DType::kBF16).bytes) << narrow[t].name;
    }
  }
}

TEST_P(PropertiesTest, DtypeFloat64IsAsIfTheInputsHadIt) {
  if (!mergekit_) return;
  for (const uint64_t seed : kSeeds) {
    Draw(seed);
    WriteModels(base_, models_);
    const TestModel got = MergeText(Text("", "dtype: float64\n"));
    const auto widen = [](TestModel* model) {
      for (TestTensor& tensor : *model) {
        if (IsMergeable(tensor.dtype)) tensor = Cast(tensor, DType::kF64);
      }
    };
    widen(&base_);
    for (TestModel& model : models_) widen(&model);
    WriteModels(base_, models_);
    ExpectSameBytes(got, MergeText(Text()));
  }
}

TEST_P(PropertiesTest, ASliceOfTheBaseAloneIsKept) {
  if (!schema_.keeps_base) return;
  for (const uint64_t seed : kSeeds) {
    Draw(seed);
    WriteModels(base_, models_);
    TestModel want = MergeText(Text());
    for (TestTensor& tensor : want) {
      if (absl::StrContains(tensor.name, "layers.0.")) tensor = Find(base_, tensor.name);
    }
    const std::string base = absl::StrCat("{model: ", Path("base"), ", layer_range: ");
    std::string text = absl::StrCat("slices:\n- sources: [", base, "[0, 1]}]\n- sources:\n  - ",
                                    base, "[1, 2]}\n");
    for (int k = 0; k < k_; ++k) {
      absl::StrAppend(&text, "  - {model: ", Path(absl::StrCat("m", k)), ", layer_range: [1, 2]");
      if (weighted_) absl::StrAppend(&text, ", parameters: {weight: ", weights_[k], "}");
      absl::StrAppend(&text, "}\n");
    }
    ExpectSameBytes(MergeText(Text({}, "", text)), want);
    // Also where there is no other slice.
    text = absl::StrCat("slices: [{sources: [", base, "[0, 2]}]}]\n");
    ExpectSameBytes(MergeText(Text({}, "", text)), base_);
    text = absl::StrCat("models: [{model: ", Path("base"), "}]\n");
    ExpectSameBytes(MergeText(Text({}, "", text)), base_);
  }
}

TEST_P(PropertiesTest, TheSameBytesWhateverTheResources) {
  for (const uint64_t seed : kSeeds) {
    Draw(seed);
    WriteModels(base_, models_);
    const Recipe recipe = Parse(Text());
    const std::unique_ptr<Plan> plan = PlanOf(recipe);
    ASSERT_NE(plan, nullptr);
    std::map<std::string, std::string> want;
    for (const auto& [threads, budget, chunk] : {std::tuple<int, uint64_t, uint64_t>{1, kGiB, 0},
                                                 {3, kGiB, 4099},
                                                 {2, plan->memory.smallest, 0}}) {
      EngineOptions options;
      options.threads = threads;
      options.memory_budget = budget;
      options.chunk_size = chunk;
      (void)Run(recipe, options);
      const std::map<std::string, std::string> files = ModelFiles(Path("out"));
      if (want.empty()) want = files;
      EXPECT_TRUE(files == want) << threads << " threads, budget " << budget << ", chunk " << chunk;
      std::filesystem::remove_all(Path("out"));
    }
    EXPECT_FALSE(want.empty());
  }
}

INSTANTIATE_TEST_SUITE_P(Methods, PropertiesTest, testing::ValuesIn(TestedNames()),
                         [](const testing::TestParamInfo<std::string>& info) {
                           return absl::StrReplaceAll(info.param, {{".", "_"}});
                         });

}  // namespace
}  // namespace orthomerge
