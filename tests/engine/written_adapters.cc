#include "tests/engine/written_adapters.h"

#include <filesystem>
#include <regex>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace orthomerge {

namespace fs = std::filesystem;

WrittenAdapterTest::WrittenAdapterTest() {
  base_ = {RandomTensor("embed_tokens.weight", DType::kF32, {21, 8}, random_),
           RandomTensor("norm.weight", DType::kF32, {8}, random_),
           RandomTensor("q.bias", DType::kF32, {12}, random_),
           RandomTensor("q.weight", DType::kF32, {12, 8}, random_),
           RandomTensor("steps", DType::kI64, {3}, random_),
           RandomTensor("v.weight", DType::kBF16, {9, 8}, random_)};
}

std::string WrittenAdapterTest::Name(const std::string& module, const std::string& end) {
  return absl::StrCat("base_model.model.", module, end);
}

void WrittenAdapterTest::Add(const std::string& module, int64_t out, int64_t in, int64_t rank,
                             DType dtype) {
  adapter_.push_back(RandomTensor(Name(module + ".lora_A"), dtype, {rank, in}, random_));
  adapter_.push_back(RandomTensor(Name(module + ".lora_B"), dtype, {out, rank}, random_));
}

void WrittenAdapterTest::WriteAdapter(const std::string& name, const std::string& settings) {
  fs::remove_all(Path(name));
  WriteModel(Path(name), adapter_);
  fs::rename(Path(name + "/model.safetensors"), Path(name + "/adapter_model.safetensors"));
  WriteFile(Path(name + "/adapter_config.json"),
            absl::StrCat(R"({"peft_type":"LORA",)", settings, "}"));
  adapter_.clear();
}

void WrittenAdapterTest::WriteThree() {
  WriteModel(Path("base"), base_);
  Add("q", 12, 8, 3, DType::kF16);
  Add("v", 9, 8, 3);
  WriteAdapter("m0", R"("r":3,"lora_alpha":6)");
  Add("v", 9, 8, 2, DType::kBF16);
  WriteAdapter("m1", R"("r":2,"lora_alpha":5,"use_rslora":true)");
  Add("q", 12, 8, 5);
  WriteAdapter("m2", R"("r":2,"rank_pattern":{"q":5},"alpha_pattern":{"q":7})");
}

Recipe WrittenAdapterTest::MakeExact(const std::string& method, int k,
                                     const ParameterMap& parameters) const {
  Recipe recipe = MakeRecipe(method, k, parameters);
  recipe.output.adapter.emplace();
  return recipe;
}

Recipe WrittenAdapterTest::MakeRanked(const std::string& method, int k, int64_t rank,
                                      const ParameterMap& parameters) const {
  Recipe recipe = MakeExact(method, k, parameters);
  recipe.output.adapter->rank = rank;
  return recipe;
}

void WrittenAdapterTest::ExpectSameBytes(const Recipe& recipe, const Plan& plan) {
  std::map<std::string, std::string> want;
  for (const auto& [threads, budget] :
       {std::pair<int, uint64_t>{1, kGiB}, {4, kGiB}, {3, plan.memory.smallest}}) {
    EngineOptions options;
    options.threads = threads;
    options.memory_budget = budget;
    (void)Run(recipe, options);
    const auto files = ModelFiles(Path("out"));
    if (want.empty()) want = files;
    EXPECT_TRUE(files == want) << threads << " threads, budget " << budget;
    fs::remove_all(Path("out"));
  }
}

nlohmann::json WrittenAdapterTest::Config(const std::string& folder) const {
  return nlohmann::json::parse(FilesBelow(Path(folder))["adapter_config.json"]);
}

std::vector<std::string> WrittenAdapterTest::Modules(const std::string& folder) const {
  std::vector<std::string> modules;
  for (const TestTensor& tensor : ReadModel(Path(folder))) {
    absl::string_view name = tensor.name;
    if (absl::ConsumeSuffix(&name, ".lora_A.weight")) {
      modules.emplace_back(absl::StripPrefix(name, "base_model.model."));
    }
  }
  return modules;
}

double WrittenAdapterTest::ScaleOf(const std::string& folder, const std::string& module) const {
  const nlohmann::json config = Config(folder);
  const auto value = [&](const char* pattern, const char* key) {
    if (config.contains(pattern)) {
      for (const auto& [text, number] : config[pattern].items()) {
        if (std::regex_match(module, std::regex("(.*\\.)?(" + text + ")"))) {
          return number.get<double>();
        }
      }
    }
    return config.value(key, 8.0);
  };
  const double rank = value("rank_pattern", "r");
  return value("alpha_pattern", "lora_alpha") /
         (config.value("use_rslora", false) ? std::sqrt(rank) : rank);
}

std::vector<double> WrittenAdapterTest::Change(const std::string& folder,
                                               const std::string& module) const {
  const TestModel adapter = ReadModel(Path(folder));
  const TestTensor &a = Find(adapter, Name(module + ".lora_A")),
                   &b = Find(adapter, Name(module + ".lora_B"));
  const std::vector<double> right = a.values(), left = b.values();
  const int64_t out = b.shape[0], rank = a.shape[0], in = a.shape[1];
  const double scale = ScaleOf(folder, module);
  std::vector<double> change(static_cast<size_t>(out * in), 0.0);
  for (int64_t i = 0; i < out; ++i) {
    for (int64_t r = 0; r < rank; ++r) {
      for (int64_t j = 0; j < in; ++j) {
        change[i * in + j] += scale * left[i * rank + r] * right[r * in + j];
      }
    }
  }
  return change;
}

nlohmann::json WrittenAdapterTest::Report() const {
  return nlohmann::json::parse(FilesBelow(Path("out"))["report.json"])["adapter"];
}

std::vector<double> WrittenAdapterTest::Sum(
    const std::vector<std::pair<double, std::vector<double>>>& summands) {
  std::vector<double> sum(summands[0].second.size(), 0.0);
  for (const auto& [factor, values] : summands) {
    for (size_t i = 0; i < sum.size(); ++i) sum[i] += factor * values[i];
  }
  return sum;
}

void WrittenAdapterTest::ExpectNear(const std::vector<double>& got, const std::vector<double>& want,
                                    double tolerance) {
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < want.size(); ++i) EXPECT_NEAR(got[i], want[i], tolerance) << i;
}

}  // namespace orthomerge
