// Results of recipes that other recipes of the same file read. While all of them are planned none
// exists, but plans have headers, config and sidecars to the byte, and these stand in for it.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>

#include "core/base/diagnostics.h"
#include "core/engine/plan.h"
#include "core/storage/storage.h"

namespace orthomerge {

// Storage for planning: Uris of kStage mean what was added, all others the real thing.
class PlanningStorage {
 public:
  explicit PlanningStorage(Storage& real);
  ~PlanningStorage();

  Storage& Of(const Uri& uri) { return uri.scheme == Uri::Scheme::kStage ? *planned_ : real_; }
  // `plan` is what makes the result `name`; borrowed. Files are pinned to the plan's digest.
  void Add(const std::string& name, const Plan& plan);

 private:
  struct File {
    std::string bytes;  // the first ones; zeros follow
    uint64_t size = 0;
    std::string etag;
    std::optional<InputFile> copy_of;  // what it will be a copy of, and is read instead
  };
  class Store;

  Storage& real_;
  std::map<std::string, std::map<std::string, File>> results_;  // by name, by file
  const std::unique_ptr<ObjectStore> store_;                    // reads results_
  const std::unique_ptr<Storage> planned_;
};

// MakePlanWith for a recipe among several. A plan reads results where the recipe's output will be,
// so its `output.uri` tells how, though an intermediate's own place is not known yet.
absl::StatusOr<std::unique_ptr<Plan>> MakeStagePlan(const MethodMaker& make_method,
                                                    PlanningStorage& storage, const Recipe& recipe,
                                                    const EngineOptions& options,
                                                    const CallOptions& call,
                                                    Diagnostics* diagnostics);

// For messages: "the recipe 'first' (merge.yaml:7)".
std::string NameOfStage(const std::string& name, const SourceLocation& location);

}  // namespace orthomerge
