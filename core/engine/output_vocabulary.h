// What a recipe's `tokenizer` means for the vocabularies at hand: the tokens of the output, and for
// every row of an embedding where each input finds it. Reads and writes nothing.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "core/base/diagnostics.h"
#include "core/checkpoint/tokenizer_text.h"
#include "core/checkpoint/vocabulary.h"
#include "core/engine/row_map.h"
#include "core/engine/token_rows.h"
#include "core/recipe/recipe.h"

namespace orthomerge {

// The tokens of one input.
struct ModelTokens {
  std::string name;  // for messages
  std::shared_ptr<const Vocabulary> vocabulary;
  // config.json's vocab_size: ids from here on have no row that means anything.
  int64_t limit = kMostTokenIds;

  std::optional<int64_t> Find(absl::string_view token) const;
};

struct OutputVocabulary {
  struct Token {
    std::string text;
    int64_t id = 0;
  };
  std::vector<Token> tokens;  // sorted by id, each id once
  int64_t rows = 0;           // of embeddings: ids and padding
  TokenChanges changes;       // of the files of the tokenizer that it was made from
};

// The vocabulary of `wanted`, made from that of `models[0]` or, if the recipe names another
// tokenizer, from `source`. New tokens of a union stand in the order of the models and within one
// of their ids, behind them all added tokens, then the recipe's own.
absl::StatusOr<OutputVocabulary> MakeOutputVocabulary(const RecipeTokenizer& wanted,
                                                      const std::vector<ModelTokens>& models,
                                                      const ModelTokens* source,
                                                      Diagnostics* diagnostics);

// Where the rows of embeddings come from.
class TokenRowPlanner {
 public:
  // All must outlive it. `origins` has the place among `models` of what a token's source names.
  TokenRowPlanner(const RecipeTokenizer& wanted, const OutputVocabulary& vocabulary,
                  const std::vector<ModelTokens>& models, std::map<ModelReference, int> origins)
      : wanted_(wanted), vocabulary_(vocabulary), models_(models), origins_(std::move(origins)) {
    for (const RecipeToken& token : wanted.tokens) configured_[token.text] = &token;
  }

  int64_t rows() const { return vocabulary_.rows; }
  // The rows that an input has itself.
  const std::shared_ptr<const RowMap>& MapOf(int origin);
  // Whether a tensor of so many rows has one for each of them; says which token has none.
  absl::Status CheckRows(int origin, int64_t rows);
  // All the others, of a tensor with these sources (origins) of `rows` rows each. `base` stands in
  // where it is one of them. Faults in what the recipe says of tokens go to `diagnostics`, once.
  std::shared_ptr<const TokenRows> RowsOf(const std::vector<int>& sources, std::optional<int> base,
                                          const std::vector<int64_t>& rows,
                                          Diagnostics* diagnostics);

 private:
  struct Given {
    const std::vector<int>& sources;
    const std::optional<int> base;
    const std::vector<int64_t>& rows;
    std::vector<const RowMap*> maps;
  };
  RowFill Default(const Given& given, int64_t row) const;
  absl::StatusOr<RowFill> Configured(const RecipeToken& token, const Given& given, int64_t row,
                                     TokenRows* result) const;

  const RecipeTokenizer& wanted_;
  const OutputVocabulary& vocabulary_;
  const std::vector<ModelTokens>& models_;
  const std::map<ModelReference, int> origins_;
  std::map<std::string, const RecipeToken*, std::less<>> configured_;
  std::map<int, std::shared_ptr<const RowMap>> maps_;
  std::map<std::tuple<std::vector<int>, std::optional<int>, std::vector<int64_t>>,
           std::shared_ptr<const TokenRows>>
      known_;
  std::set<std::string> told_;  // faults and warnings, each once
};

}  // namespace orthomerge
