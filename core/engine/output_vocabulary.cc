#include "core/engine/output_vocabulary.h"

#include <algorithm>
#include <set>

#include "absl/strings/str_cat.h"
#include "core/base/status.h"
#include "core/checkpoint/json_events.h"

namespace orthomerge {
namespace {

// The first definition of each added token.
using AddedByText = std::map<absl::string_view, const AddedToken*>;

// Collects tokens in the order of their new ids.
class Builder {
 public:
  Builder(const ModelTokens& first, OutputVocabulary* result) : first_(first), result_(*result) {
    const Vocabulary& vocabulary = *first.vocabulary;
    int64_t tokens = 0;
    for (size_t i = 0; i < vocabulary.size() && vocabulary.id(i) < first.limit; ++i) {
      ++tokens;
      // Of several tokens with one id the first one stands for its row.
      if (vocabulary.id(i) < next_) continue;
      result_.tokens.push_back({std::string(vocabulary.text(i)), vocabulary.id(i)});
      next_ = vocabulary.id(i) + 1;
    }
    if (vocabulary.highest_id() >= first.limit) result_.changes.limit = first.limit;
    // A list of pieces has no holes.
    if (tokens != next_ && vocabulary.kind() != "Unigram") result_.changes.model_from = next_;
  }

  bool Has(absl::string_view text) const {
    return first_.Find(text).has_value() || new_.contains(text);
  }

  void AddTokens(const ModelTokens& model, const AddedByText& added) {
    const Vocabulary& vocabulary = *model.vocabulary;
    for (size_t i = 0; i < vocabulary.size() && vocabulary.id(i) < model.limit; ++i) {
      const absl::string_view text = vocabulary.text(i);
      if (!Has(text) && !added.contains(text)) Add({.text = std::string(text)});
    }
  }

  // A token that the vocabulary has already becomes an added one where it stands.
  void Add(AddedToken token) {
    const std::optional<int64_t> old = first_.Find(token.text);
    if (old.has_value()) {
      if (first_.vocabulary->FindAdded(token.text) != nullptr) return;
      token.id = *old;
    } else if (const auto found = new_.find(token.text); found != new_.end()) {
      token.id = found->second;
    } else if (next_ > kMostTokenIds) {
      return;  // too many already; that is a fault in the end
    } else {
      token.id = next_++;
      new_[token.text] = token.id;
      result_.tokens.push_back({token.text, token.id});
    }
    result_.changes.added.push_back(std::move(token));
  }

 private:
  const ModelTokens& first_;
  OutputVocabulary& result_;
  std::map<std::string, int64_t, std::less<>> new_;
  int64_t next_ = 0;  // above all ids
};

bool HaveSameProperties(const AddedToken& a, const AddedToken& b) {
  return a.single_word == b.single_word && a.lstrip == b.lstrip && a.rstrip == b.rstrip &&
         a.normalized == b.normalized && a.special == b.special;
}

}  // namespace

std::optional<int64_t> ModelTokens::Find(absl::string_view token) const {
  const std::optional<int64_t> id = vocabulary->Find(token);
  return id.has_value() && *id < limit ? id : std::nullopt;
}

absl::StatusOr<OutputVocabulary> MakeOutputVocabulary(const RecipeTokenizer& wanted,
                                                      const std::vector<ModelTokens>& models,
                                                      const ModelTokens* source,
                                                      Diagnostics* diagnostics) {
  OutputVocabulary result;
  Builder builder(source != nullptr ? *source : models[0], &result);
  if (result.changes.limit.has_value() && models[0].vocabulary->kind() != "BPE") {
    return MakeError(
        Reason::kUnsupported,
        absl::StrCat("the tokenizer of ", models[0].name, " has tokens with ids from ",
                     models[0].limit, " on, where the vocab_size of its config.json ends; only ",
                     "those of a BPE tokenizer can be taken out, and this is ",
                     Quoted(models[0].vocabulary->kind()), "; correct vocab_size"));
  }
  if (source == nullptr && wanted.source == RecipeTokenizer::Source::kUnion) {
    std::vector<const AddedToken*> added;
    AddedByText texts;
    for (const ModelTokens& model : models) {
      for (const AddedToken& token : model.vocabulary->added()) {
        if (token.id >= model.limit) continue;
        const auto [first, is_new] = texts.emplace(token.text, &token);
        if (is_new) {
          added.push_back(&token);
        } else if (!HaveSameProperties(*first->second, token)) {
          diagnostics->Warning(
              absl::StrCat("the added token ", Quoted(token.text), " of ", model.name,
                           " has other properties than in an earlier model, "
                           "which count"),
              "tokenizer");
        }
      }
    }
    for (const ModelTokens& model : models) builder.AddTokens(model, texts);
    for (const AddedToken* token : added) builder.Add(*token);
  }
  for (const RecipeToken& token : wanted.tokens) {
    if (!builder.Has(token.text)) builder.Add({.text = token.text});
  }
  if (result.tokens.empty()) {
    return MakeError(Reason::kInputCorrupt, "the tokenizer of the output has no tokens");
  }
  result.rows = result.tokens.back().id + 1;
  if (result.rows > kMostTokenIds) {
    return MakeError(
        Reason::kUnsupported,
        absl::StrCat("the vocabulary of the output has more than ", kMostTokenIds, " tokens"));
  }
  if (const int64_t multiple = wanted.pad_to_multiple_of; multiple > 0) {
    result.rows = (result.rows + multiple - 1) / multiple * multiple;
  }
  return result;
}

const std::shared_ptr<const RowMap>& TokenRowPlanner::MapOf(int origin) {
  std::shared_ptr<const RowMap>& known = maps_[origin];
  if (known != nullptr) return known;
  auto map = std::make_shared<RowMap>(static_cast<size_t>(vocabulary_.rows), -1);
  for (const OutputVocabulary::Token& token : vocabulary_.tokens) {
    (*map)[token.id] = static_cast<int32_t>(models_[origin].Find(token.text).value_or(-1));
  }
  known = std::move(map);
  return known;
}

absl::Status TokenRowPlanner::CheckRows(int origin, int64_t rows) {
  const RowMap& map = *MapOf(origin);
  for (const OutputVocabulary::Token& token : vocabulary_.tokens) {
    if (map[token.id] < rows) continue;
    return MakeError(Reason::kTensorMismatch,
                     absl::StrCat("its tokenizer gives the token ", Quoted(token.text), " the id ",
                                  map[token.id], ", but the tensor has ", rows,
                                  " rows: tokenizer and weights are not of one model"));
  }
  return absl::OkStatus();
}

// The only source that has the row, else the tensor's base's, else the mean of those that have it.
RowFill TokenRowPlanner::Default(const Given& given, int64_t row) const {
  using Kind = RowFill::Kind;
  RowFill fill;
  fill.row = static_cast<int32_t>(row);
  std::set<int> having;
  bool of_base = false;
  for (size_t s = 0; s < given.maps.size(); ++s) {
    if ((*given.maps[s])[row] < 0 || !having.insert(given.sources[s]).second) continue;
    const bool is_base = given.sources[s] == given.base;
    of_base = of_base || is_base;
    if (having.size() == 1 || is_base) fill.index = static_cast<int32_t>(s);
  }
  fill.kind = having.empty()                  ? Kind::kZero
              : having.size() == 1 || of_base ? Kind::kSource
                                              : Kind::kMean;
  if (fill.kind != Kind::kSource) fill.index = 0;
  return fill;
}

absl::StatusOr<RowFill> TokenRowPlanner::Configured(const RecipeToken& token, const Given& given,
                                                    int64_t row, TokenRows* result) const {
  using Source = RecipeToken::Source;
  if (token.source == Source::kDefault) return Default(given, row);
  RowFill fill;
  fill.row = static_cast<int32_t>(row);
  if (token.source == Source::kZero) return fill;
  const auto origin = token.model.has_value() ? origins_.find(*token.model) : origins_.end();
  const auto place = origin == origins_.end()
                         ? given.sources.end()
                         : std::find(given.sources.begin(), given.sources.end(), origin->second);
  if (place == given.sources.end()) {
    return MakeError(Reason::kOutOfRange,
                     absl::StrCat(token.model.has_value() ? token.model->uri.ToString() : "it",
                                  " is none of the models that are merged"));
  }
  const auto source = static_cast<int>(place - given.sources.begin());
  const ModelTokens& model = models_[origin->second];
  fill.index = source;
  if (token.source == Source::kModel) {
    if ((*given.maps[source])[row] < 0) {
      return MakeError(Reason::kOutOfRange,
                       absl::StrCat(model.name, " has no token ", Quoted(token.text)));
    }
    fill.kind = RowFill::Kind::kSource;
    return fill;
  }
  const std::optional<int64_t> id =
      token.token_id.has_value() ? token.token_id : model.vocabulary->Find(*token.token);
  if (!id.has_value()) {
    return MakeError(Reason::kOutOfRange,
                     absl::StrCat(model.name, " has no token ", Quoted(*token.token)));
  }
  if (*id >= given.rows[source]) {
    return MakeError(Reason::kOutOfRange,
                     absl::StrCat("token id ", *id, " is beyond the ", given.rows[source],
                                  " rows of the embedding of ", model.name));
  }
  fill.kind = RowFill::Kind::kOther;
  fill.index = static_cast<int32_t>(result->others.size());
  result->others.push_back({source, *id});
  return fill;
}

std::shared_ptr<const TokenRows> TokenRowPlanner::RowsOf(const std::vector<int>& sources,
                                                         std::optional<int> base,
                                                         const std::vector<int64_t>& rows,
                                                         Diagnostics* diagnostics) {
  std::shared_ptr<const TokenRows>& known = known_[{sources, base, rows}];
  if (known != nullptr) return known;
  Given given{sources, base, rows, {}};
  for (const int origin : sources) given.maps.push_back(MapOf(origin).get());
  auto result = std::make_shared<TokenRows>();
  result->tokens = vocabulary_.tokens.back().id + 1;
  result->rows = vocabulary_.rows;
  int64_t nowhere = 0;
  std::string first_nowhere;
  result->has_padding = result->rows > result->tokens;
  int64_t next = 0;
  for (const OutputVocabulary::Token& token : vocabulary_.tokens) {
    for (; next < token.id; ++next) {  // an id without a token
      result->has_padding = true;
      result->fills.push_back({static_cast<int32_t>(next), RowFill::Kind::kPadding, 0, true});
    }
    next = token.id + 1;
    const auto found = configured_.find(token.text);
    const RecipeToken* const configured = found == configured_.end() ? nullptr : found->second;
    const bool force = configured != nullptr && configured->force;
    const bool complete = std::all_of(given.maps.begin(), given.maps.end(),
                                      [&](const RowMap* map) { return (*map)[token.id] >= 0; });
    if (complete && !force) continue;
    absl::StatusOr<RowFill> fill = configured == nullptr
                                       ? Default(given, token.id)
                                       : Configured(*configured, given, token.id, result.get());
    if (!fill.ok()) {
      if (told_.insert(fill.status().ToString()).second) {
        diagnostics->Add(fill.status(), absl::StrCat("tokenizer.tokens.", token.text, ".source"));
      }
      continue;
    }
    fill->all = force;
    const bool zero = configured != nullptr && configured->source == RecipeToken::Source::kZero;
    if (fill->kind == RowFill::Kind::kZero && !zero && nowhere++ == 0) first_nowhere = token.text;
    result->fills.push_back(*fill);
  }
  if (nowhere > 0) {
    const std::string message =
        absl::StrCat(nowhere, nowhere == 1 ? " token is" : " tokens are",
                     " in none of the models, so the rows are 0; the first is ",
                     Quoted(first_nowhere), "; tokenizer.tokens can name a source");
    if (told_.insert(message).second) diagnostics->Warning(message, "tokenizer");
  }
  known = std::move(result);
  return known;
}

}  // namespace orthomerge
