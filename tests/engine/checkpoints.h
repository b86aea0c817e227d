// What the engine's tests share: checkpoints made from tensors in memory and read back, recipes
// with their defaults filled in, and a fixture that plans and runs them in a temporary folder.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "core/engine/engine.h"
#include "core/engine/plan.h"
#include "core/math/dtype.h"
#include "core/recipe/recipe.h"
#include "core/storage/fault_store.h"
#include "core/storage/local_store.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/storage/test_support.h"

namespace orthomerge {

struct TestTensor {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  std::string bytes;

  int64_t elements() const;
  std::vector<double> values() const;  // mergeable dtypes
};

using TestModel = std::vector<TestTensor>;

// Of values rounded to `dtype` (mergeable).
TestTensor MakeTensor(std::string name, DType dtype, std::vector<int64_t> shape,
                      const std::vector<double>& values);
// Normal numbers times `scale` for mergeable dtypes, random bytes for others.
TestTensor RandomTensor(std::string name, DType dtype, std::vector<int64_t> shape,
                        std::mt19937_64& random, double scale = 1.0);
// `tensor` plus noise of size `scale`; tensors that are not mergeable stay.
TestTensor Near(const TestTensor& tensor, std::mt19937_64& random, double scale = 0.1);
TestModel Near(const TestModel& model, std::mt19937_64& random, double scale = 0.1);
const TestTensor& Find(const TestModel& model, absl::string_view name);
// Tensor -> values of dtype `dtype`, everything else kept.
TestTensor Cast(const TestTensor& tensor, DType dtype);

// One safetensors file.
void WriteFile(const std::string& path, const std::string& bytes);
void WriteModel(const std::string& folder, const TestModel& model, const std::string& config = "");
// All tensors of a checkpoint, sorted by name.
TestModel ReadModel(const std::string& folder);

// Files below a folder by relative path, hidden ones and folders' names (with a '/') included.
std::map<std::string, std::string> FilesBelow(const std::string& folder);
// What must be the same bytes on every run: all but report.json and orthomerge.json.
std::map<std::string, std::string> ModelFiles(const std::string& folder);

// `parameters` and the method's defaults.
ParameterMap WithDefaults(const std::string& method, const ParameterMap& parameters);

// A folder in memory where there is one with room and extended attributes, since every run syncs
// many small files; empty: the usual temporary directory.
std::string FastFolder();

// Every test has a folder of its own.
class EngineTest : public ::testing::Test {
 protected:
  EngineTest() : storage_(local_.get(), nullptr) {}

  std::string Path(const std::string& name) const { return folder_.path() + "/" + name; }
  Uri UriOf(const std::string& name) const { return folder_.uri().Child(name); }

  // Writes base and models ("base", "m0", "m1", ...).
  void WriteModels(const TestModel& base, const std::vector<TestModel>& models);
  // Over "base" (unless `with_base` is false) and m0 to m<k-1>, to "out".
  Recipe MakeRecipe(const std::string& method, int k, const ParameterMap& parameters = {},
                    bool with_base = true) const;
  static void AddTransform(const std::string& method, const ParameterMap& parameters,
                           Recipe* recipe);

  // Both fail the test where there is an error.
  std::unique_ptr<Plan> PlanOf(const Recipe& recipe, const EngineOptions& options = {});
  RunResult Run(const Recipe& recipe, const EngineOptions& options = {});

  absl::StatusOr<std::unique_ptr<Plan>> TryPlan(const Recipe& recipe,
                                                const EngineOptions& options = {});
  absl::StatusOr<RunResult> TryRun(const Recipe& recipe, Storage& storage,
                                   const CallOptions& call = {}, const EngineOptions& options = {});
  // Runs to a folder, reads the model and removes the folder.
  TestModel Merge(Recipe recipe, const EngineOptions& options = {});

  // Names beside the models: everything in the folder that no test wrote.
  std::vector<std::string> Leftovers() const;

  TemporaryFolder folder_{FastFolder()};
  std::unique_ptr<ObjectStore> local_ = MakeLocalStore();
  Storage storage_;
  Diagnostics diagnostics_;  // of the last plan
};

// Counts operations and lets one of them fail.
class NthFault {
 public:
  NthFault(ObjectStore* inner, int64_t nth, Reason reason, bool after_effect);
  Storage& storage() { return storage_; }
  int64_t operations() const { return count_; }
  bool fired() const { return count_ > nth_; }
  std::string what() const { return what_; }

 private:
  Fault Next(Operation operation, const Uri& uri);

  const int64_t nth_;
  const Reason reason_;
  const bool after_effect_;
  std::atomic<int64_t> count_{0};
  std::string what_;
  std::unique_ptr<ObjectStore> store_;
  Storage storage_;
};

}  // namespace orthomerge
