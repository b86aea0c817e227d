// The tokenizer of the output: planned from the tokenizer files of the inputs, before any tensor is
// matched.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "core/engine/inputs.h"
#include "core/engine/output_vocabulary.h"
#include "core/engine/plan.h"

namespace orthomerge {

class PlanningStorage;  // intermediates.h

class PlannedTokenizer {
 public:
  // Null if the recipe says neither `tokenizer` nor `chat_template`. Faults go to `diagnostics`.
  static absl::StatusOr<std::unique_ptr<PlannedTokenizer>> Make(
      PlanningStorage& storage, const Recipe& recipe, const std::vector<ModelInput>& inputs,
      const std::vector<std::string>& names, const CallOptions& call, Diagnostics* diagnostics);

  // What `tokenizer` decides for embeddings; null where the recipe only has a chat template.
  TokenRowPlanner* rows() { return rows_.has_value() ? &*rows_ : nullptr; }
  // The output's tokenizer files.
  const std::vector<PlanBlob>& files() const { return files_; }
  // Bytes of memory that planning took.
  uint64_t bytes() const { return bytes_; }

 private:
  class Maker;

  RecipeTokenizer wanted_;
  std::vector<ModelTokens> models_;
  OutputVocabulary vocabulary_;
  std::optional<TokenRowPlanner> rows_;
  std::vector<PlanBlob> files_;
  uint64_t bytes_ = 0;
};

// Whether the first axis of a tensor of the leading input counts tokens: embeddings, heads and the
// heads' biases by their names; others by their rows, which are `vocabulary`, and a part of their
// name.
bool IsTokenTensor(absl::string_view name, const std::vector<int64_t>& shape,
                   std::optional<int64_t> vocabulary);

}  // namespace orthomerge
